"""From rows of any source to checked examples with train, validation and test splits.

Whatever chooses (epoch, recipe, search) sees validation; tables report test. A split that a source lacks is carved from its
training rows by a hash of the text, so that equal texts never stand on two sides.
"""

from __future__ import annotations

import hashlib
import html
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from compressor.assets.readers import split_of
from compressor.config import TaskConfig
from compressor.errors import ConfigError, DataError, Incompatible
from compressor.tasks import build_task, task_type
from compressor.tasks.base import Example, Task
from compressor.tasks.masked_lm import masking_seed
from compressor.tasks.sources import Table, extra_names, read_tables, read_texts

HELD_OUT_TEXTS = 1000  # carved from a corpus for each held-out split; a tenth of it would be scored for hours

_DECIMAL = re.compile(r"[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][+-]?[0-9]+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskData:
    """Checked examples. `extra_tests`, by name, are reported beside `test`; `unlabelled` is transfer text."""

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    extra_tests: Mapping[str, tuple[Example, ...]] = field(default_factory=dict)
    unlabelled: tuple[Example, ...] = ()
    fingerprint: str = ""

    def tests(self) -> dict[str, tuple[Example, ...]]:
        """Return every split that a table reports, `test` first."""
        return {"test": self.test, **self.extra_tests}

    def digests(self) -> dict[str, str]:
        """Return what stands for the examples of each split but the transfer text: equal for equal texts and labels."""
        return {
            name: hashlib.sha256(repr([(e.text, e.text_pair, e.label) for e in rows]).encode()).hexdigest()[:16]
            for name, rows in {"train": self.train, "validation": self.validation, **self.tests()}.items()
        }


def load_task(config: TaskConfig) -> tuple[Task, TaskData]:
    """Read, check and split the data of a task.

    Raises:
        ConfigError: An option names something that does not exist, or a split that has another role already.
        Incompatible: Transfer text was asked for, which is single sentences, and the task has pairs.
        DataError: Columns are missing, rows are unusable, or there is nothing to learn.
    """
    kind = task_type(config.type)
    if kind.token_level and config.text_pair is not None:
        raise ConfigError(f"task.text_pair={config.text_pair}: a token task has one text", hint="task.text_pair=null")
    if config.unlabelled is not None and config.text_pair is not None:
        raise Incompatible(
            f"task.unlabelled={config.unlabelled}: transfer text is single sentences; task '{config.name}' has pairs",
            allowed="transfer text for tasks of one text",
            hint="task.unlabelled=null",
        )
    tables = read_tables(config)
    splits = {name: _with_columns(table, name, config) for name, table in tables.items()}
    splits = _carve(splits, config)
    classes = config.type != "regression" and not kind.self_supervised
    names = _label_names(config, tables, splits) if classes else ()
    readers = {role: _Labels(names, table.label_names) for role, table in tables.items()}
    known = {
        name: tuple(_example(i, row, config, readers.get(name, readers["train"])) for i, row in enumerate(rows))
        for name, rows in splits.items()
    }
    task = build_task(config, names)
    train = known["train"]
    if config.train_limit is not None:  # by content, since files are often sorted by class
        train = tuple(sorted(sorted(train, key=_content_hash)[: config.train_limit], key=lambda e: e.id))
    _check_learnable(task, train, known)
    data = TaskData(
        train=train,
        validation=known["validation"],
        test=known["test"],
        extra_tests={name: known[name] for name in extra_names(config)},
        unlabelled=_transfer_examples(config, known),
    )
    return task, replace(data, fingerprint=_fingerprint(data))


@dataclass(frozen=True, slots=True)
class _Row:
    text: Any
    pair: Any
    label: Any
    number: int  # the first of its source is 1
    place: str


def _with_columns(table: Table, split: str, config: TaskConfig) -> list[_Row]:
    labelled = not task_type(config.type).self_supervised
    wanted = {"task.text": config.text} | ({"task.label": config.label} if labelled else {})
    if config.text_pair is not None:
        wanted["task.text_pair"] = config.text_pair
    for option, column in wanted.items():
        if column not in table.columns:
            raise DataError(
                f"{option}={column}: the {split} data has no such column",
                allowed=", ".join(table.columns),
                hint=f"{option}={next(iter(table.columns), 'COLUMN')}",
            )
    texts = table.columns[config.text]
    labels = table.columns[config.label] if labelled else [None] * len(texts)
    pairs = table.columns[config.text_pair] if config.text_pair is not None else [None] * len(texts)
    if not texts:
        raise DataError(f"the {split} data of task '{config.name}' has no rows")
    numbers = range(1, len(texts) + 1)
    return [_Row(*row, table.place) for row in zip(texts, pairs, labels, numbers, strict=True)]


def _carve(splits: dict[str, list[_Row]], config: TaskConfig) -> dict[str, list[_Row]]:
    missing = [name for name in ("validation", "test") if name not in splits]
    if not missing:
        return splits
    parts: dict[str, list[_Row]] = {name: [] for name in ("train", *missing)}
    most = HELD_OUT_TEXTS if task_type(config.type).self_supervised else len(splits["train"])
    for row in splits["train"]:
        part = split_of(_joined(row.text))
        part = part if part in parts else "train"
        if part == "train" or len(parts[part]) < most:
            parts[part].append(row)
    for name, rows in parts.items():
        if not rows:
            raise DataError(
                f"task '{config.name}': no row is left for the {name} split after carving {', '.join(missing)} from "
                f"{len(splits['train'])} training rows",
                hint=f"task.{missing[0]}=FILE_OR_SPLIT",
            )
    return {**splits, **parts}


def _joined(text: Any) -> str:
    """Return a text, or the words of a token task, as one string."""
    return " ".join(map(str, text)) if isinstance(text, (list, tuple)) else str(text)


def _essence(text: str) -> str:
    """Reduce a text to its letters and digits, so that copies in other typography or other cutting are equal.

    What `compressor.assets.readers.normalised` is to English, for any script.
    """
    plain = unicodedata.normalize("NFKC", html.unescape(text)).casefold()
    return "".join(c for c in plain if c.isalnum()) or text.strip()


def _content_hash(example: Example) -> str:
    return hashlib.sha256(repr((example.text, example.text_pair)).encode(errors="replace")).hexdigest()


def _label_names(
    config: TaskConfig, tables: Mapping[str, Table], splits: Mapping[str, Sequence[_Row]]
) -> tuple[str, ...]:
    """Return the class names in index order: the setting's, the data's own, or the sorted labels of the training rows."""
    if config.label_names is not None:
        return tuple(str(name) for name in config.label_names)
    if tables["train"].label_names is not None:
        return tables["train"].label_names
    found: set[str] = set()
    for row in splits["train"]:
        for label in row.label if isinstance(row.label, (list, tuple)) else (row.label,):
            if label is None or (isinstance(label, float) and math.isnan(label)):  # reported with its row
                continue
            if isinstance(label, float) and not label.is_integer():
                raise DataError(
                    f"task.label={config.label}: the labels of task '{config.name}' are decimal numbers",
                    allowed="integers or names for task.type=classification",
                    hint="task.type=regression",
                )
            found.add(str(int(label)) if isinstance(label, float) else str(label))
    if all(_is_number(name) for name in found):
        return tuple(sorted(found, key=lambda name: (int(name), name)))
    return tuple(sorted(found))


def _is_number(name: str) -> bool:
    return re.fullmatch(r"[+-]?[0-9]+", name) is not None


class _Labels:
    """Reads the labels of one table as class indices.

    A label is a name, in whatever type the file has it. An integer is an index where the data says so (`own`, the names of
    a ClassLabel column, for which it then stands) or where no class is called by a number.
    """

    def __init__(self, names: tuple[str, ...], own: tuple[str, ...] | None) -> None:
        self._names = names
        self._by_name = {name: i for i, name in enumerate(names)}
        self._names_first = own is None
        self._by_index: dict[int, int] = {}
        if own is not None and not set(own).isdisjoint(names):
            self._by_index = {i: self._by_name[name] for i, name in enumerate(own) if name in self._by_name}
        elif own is not None or not any(map(_is_number, names)):  # task.label_names may rename the data's own
            self._by_index = {i: i for i in range(len(names))}

    def read(self, value: Any, where: str) -> int:
        """Return the class index.

        Raises:
            DataError: The label is no class of the task.
        """
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        found = None
        if isinstance(value, str) or (whole and self._names_first):
            found = self._by_name.get(str(value))
        if found is None and whole:
            found = self._by_name.get(str(int(value))) if self._names_first else None
            found = self._by_index.get(int(value)) if found is None else found
        if found is None:
            index = f", or 0 to {len(self._names) - 1}" if self._by_index else ""
            raise DataError(
                f"{where}: " + ("the label is missing" if value is None else f"{value!r:.60} is no class of this task"),
                allowed=f"{', '.join(self._names[:20])}{index}",
                hint="task.label_names=[...]",
            )
        return found


def _example(index: int, row: _Row, config: TaskConfig, labels: _Labels) -> Example:
    where = f"row {row.number} of {row.place} (the first is 1), column"
    kind = task_type(config.type)
    if kind.self_supervised:
        text_ = _text(row.text, f"{where} '{config.text}'")
        return Example(index, text_, None, masking_seed(text_))
    if kind.token_level:
        words, tags = row.text, row.label
        if not isinstance(words, (list, tuple)) or not words:
            raise DataError(f"{where} '{config.text}': a list of words is needed, got {words!r:.60}")
        if not isinstance(tags, (list, tuple)) or len(tags) != len(words):
            raise DataError(f"{where} '{config.label}': {len(words)} words need as many tags, got {tags!r:.60}")
        text = tuple(_text(w, f"{where} '{config.text}'") for w in words)
        return Example(index, text, None, tuple(labels.read(t, f"{where} '{config.label}'") for t in tags))
    text_ = _text(row.text, f"{where} '{config.text}'")
    pair = None if config.text_pair is None else _text(row.pair, f"{where} '{config.text_pair}'")
    if config.type == "regression":
        return Example(index, text_, pair, _score(row.label, f"{where} '{config.label}'"))
    return Example(index, text_, pair, labels.read(row.label, f"{where} '{config.label}'"))


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{where}: text is needed, got " + ("an empty cell" if value is None else f"{value!r:.60}"))
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: the text holds a lone surrogate at character {error.start}") from error
    return value


def _score(value: Any, where: str) -> float:
    if isinstance(value, str) and _DECIMAL.fullmatch(value):
        value = float(value)  # one word in a column of numbers makes the CSV reader give all of them as text
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise DataError(f"{where}: a finite number is needed, got {value!r:.60}")
    return float(value)


def _check_learnable(task: Task, train: Sequence[Example], known: Mapping[str, Sequence[Example]]) -> None:
    if task.self_supervised:
        return
    if task.type == "regression":
        if len({e.label for e in train}) < 2:
            raise DataError(f"all {len(train)} training scores of task '{task.name}' are equal: nothing can be learned")
        return
    seen = {c for e in train for c in (e.label if isinstance(e.label, tuple) else (e.label,))}
    if len(seen) < 2:
        only = ", ".join(task.label_names[c] for c in seen)
        raise DataError(
            f"all {len(train)} training rows of task '{task.name}' have the class '{only}'",
            allowed="two or more classes",
        )
    for split in ("validation", "test"):
        classes = {c for e in known[split] for c in (e.label if isinstance(e.label, tuple) else (e.label,))}
        if unseen := classes - seen:
            raise DataError(
                f"the {split} data of task '{task.name}' has classes that training never shows: "
                f"{', '.join(task.label_names[c] for c in sorted(unseen))}"
            )


def _transfer_examples(config: TaskConfig, known: Mapping[str, Sequence[Example]]) -> tuple[Example, ...]:
    """Return the transfer text without any text of the validation or test splits; ids go on after the training rows."""
    if config.unlabelled is None:
        return ()
    held_out = {_essence(_joined(e.text)) for name, rows in known.items() if name != "train" for e in rows}
    texts = [t for t in read_texts(config) if t.strip() and _essence(t) not in held_out]
    if not texts:
        raise DataError(f"task.unlabelled={config.unlabelled} holds no text that validation and test data lack")
    first = len(known["train"])
    return tuple(Example(first + i, text) for i, text in enumerate(texts[: config.unlabelled_limit]))


def _fingerprint(data: TaskData) -> str:
    digest = hashlib.sha256()
    for name, rows in {"train": data.train, "validation": data.validation, **data.tests()}.items():
        digest.update(f"{name}:{len(rows)}\n".encode())
        for e in (*rows, *(data.unlabelled if name == "train" else ())):
            digest.update(repr((e.text, e.text_pair, e.label)).encode())
    return digest.hexdigest()
