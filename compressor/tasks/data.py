"""From rows of any source to checked examples with train, validation and test splits.

Whatever chooses (epoch, recipe, search) sees validation; tables report test. A split that a source lacks is carved from its
training rows by a hash of the text, so that equal texts never stand on two sides.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from compressor.config import TaskConfig
from compressor.errors import ConfigError, DataError
from compressor.tasks import build_task, task_type
from compressor.tasks.base import Example, Task
from compressor.tasks.sources import Table, read_tables, read_texts

TRAIN_SHARE, VALIDATION_SHARE = 75, 10  # percent of the rows; the rest is test


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskData:
    """Checked examples. `extra_tests` are reported beside `test`; `unlabelled` is transfer text."""

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    extra_tests: Mapping[str, tuple[Example, ...]] = field(default_factory=dict)
    unlabelled: tuple[Example, ...] = ()
    fingerprint: str = ""

    def tests(self) -> dict[str, tuple[Example, ...]]:
        """Return every split that a table reports, `test` first."""
        return {"test": self.test, **self.extra_tests}


def load_task(config: TaskConfig) -> tuple[Task, TaskData]:
    """Read, check and split the data of a task.

    Raises:
        ConfigError: An option names something that does not exist.
        DataError: Columns are missing, rows are unusable, or there is nothing to learn.
    """
    kind = task_type(config.type)
    if kind.token_level and config.text_pair is not None:
        raise ConfigError(f"task.text_pair={config.text_pair}: a token task has one text", hint="task.text_pair=null")
    tables = read_tables(config)
    splits = {name: _with_columns(table, name, config) for name, table in tables.items()}
    splits = _carve(splits, config)
    names = _label_names(config, tables, splits) if config.type != "regression" else ()
    known = {
        name: tuple(_example(i, row, name, config, names) for i, row in enumerate(rows))
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
        extra_tests={name: known[name] for name in config.extra_tests},
        unlabelled=_transfer_examples(config, known),
    )
    return task, replace(data, fingerprint=_fingerprint(data))


@dataclass(frozen=True, slots=True)
class _Row:
    text: Any
    pair: Any
    label: Any


def _with_columns(table: Table, split: str, config: TaskConfig) -> list[_Row]:
    wanted = {"task.text": config.text, "task.label": config.label}
    if config.text_pair is not None:
        wanted["task.text_pair"] = config.text_pair
    for option, column in wanted.items():
        if column not in table.columns:
            raise DataError(
                f"{option}={column}: the {split} data has no such column",
                allowed=", ".join(table.columns),
                hint=f"{option}={next(iter(table.columns), 'COLUMN')}",
            )
    texts, labels = table.columns[config.text], table.columns[config.label]
    pairs = table.columns[config.text_pair] if config.text_pair is not None else [None] * len(texts)
    if not texts:
        raise DataError(f"the {split} data of task '{config.name}' has no rows")
    return [_Row(*row) for row in zip(texts, pairs, labels, strict=True)]


def _carve(splits: dict[str, list[_Row]], config: TaskConfig) -> dict[str, list[_Row]]:
    missing = [name for name in ("validation", "test") if name not in splits]
    if not missing:
        return splits
    parts: dict[str, list[_Row]] = {name: [] for name in ("train", *missing)}
    for row in splits["train"]:
        bucket = text_bucket(" ".join(row.text) if isinstance(row.text, (list, tuple)) else str(row.text))
        part = "train" if bucket < TRAIN_SHARE else "validation" if bucket < TRAIN_SHARE + VALIDATION_SHARE else "test"
        parts[part if part in parts else "train"].append(row)
    for name, rows in parts.items():
        if not rows:
            raise DataError(
                f"task '{config.name}': no row is left for the {name} split after carving {', '.join(missing)} from "
                f"{len(splits['train'])} training rows",
                hint=f"task.{missing[0]}=FILE_OR_SPLIT",
            )
    return {**splits, **parts}


def text_bucket(text: str) -> int:
    """Return 0..99 from the text's content; the same on every machine and in any row order."""
    return int(hashlib.sha256(text.strip().lower().encode(errors="replace")).hexdigest()[:8], 16) % 100


def _content_hash(example: Example) -> str:
    return hashlib.sha256(repr((example.text, example.text_pair)).encode(errors="replace")).hexdigest()


def _label_names(
    config: TaskConfig, tables: Mapping[str, Table], splits: Mapping[str, Sequence[_Row]]
) -> tuple[str, ...]:
    """Return the class names in index order: the setting's, the data's own, or the sorted labels of the training rows."""
    if config.label_names is not None:
        return tuple(config.label_names)
    if tables["train"].label_names is not None:
        return tables["train"].label_names
    found: set[Any] = set()
    for row in splits["train"]:
        found.update(row.label if isinstance(row.label, (list, tuple)) else (row.label,))
    found.discard(None)
    if all(isinstance(label, int) and not isinstance(label, bool) for label in found):
        return tuple(str(label) for label in range(max(found, default=-1) + 1))
    if any(isinstance(label, float) for label in found):
        raise DataError(
            f"task.label={config.label}: the labels of task '{config.name}' are decimal numbers",
            allowed="integers or names for task.type=classification",
            hint="task.type=regression",
        )
    return tuple(sorted(str(label) for label in found))


def _example(index: int, row: _Row, split: str, config: TaskConfig, names: tuple[str, ...]) -> Example:
    where = f"row {index} of the {split} data, column"
    if task_type(config.type).token_level:
        words, tags = row.text, row.label
        if not isinstance(words, (list, tuple)) or not words:
            raise DataError(f"{where} '{config.text}': a list of words is needed, got {words!r:.60}")
        if not isinstance(tags, (list, tuple)) or len(tags) != len(words):
            raise DataError(f"{where} '{config.label}': {len(words)} words need as many tags, got {tags!r:.60}")
        text = tuple(_text(w, f"{where} '{config.text}'") for w in words)
        return Example(index, text, None, tuple(_class(t, names, f"{where} '{config.label}'") for t in tags))
    text_ = _text(row.text, f"{where} '{config.text}'")
    pair = None if config.text_pair is None else _text(row.pair, f"{where} '{config.text_pair}'")
    if config.type == "regression":
        return Example(index, text_, pair, _score(row.label, f"{where} '{config.label}'"))
    return Example(index, text_, pair, _class(row.label, names, f"{where} '{config.label}'"))


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{where}: text is needed, got {value!r:.60}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: the text holds a lone surrogate at character {error.start}") from error
    return value


def _score(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise DataError(f"{where}: a finite number is needed, got {value!r:.60}")
    return float(value)


def _class(value: Any, names: tuple[str, ...], where: str) -> int:
    if isinstance(value, bool):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and 0 <= value < len(names):
        return value
    if isinstance(value, str) and value in names:
        return names.index(value)
    raise DataError(
        f"{where}: {value!r:.60} is no class of this task",
        allowed=f"{', '.join(names[:20])}, or 0 to {len(names) - 1}",
        hint="task.label_names=[...]",
    )


def _check_learnable(task: Task, train: Sequence[Example], known: Mapping[str, Sequence[Example]]) -> None:
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
    if config.text_pair is not None:
        raise ConfigError(
            f"task.unlabelled={config.unlabelled}: transfer text for sentence pairs is not built yet",
            hint="task.unlabelled=null",
        )
    held_out = {str(e.text).strip().lower() for name, rows in known.items() if name != "train" for e in rows}
    texts = [t for t in read_texts(config) if t.strip() and t.strip().lower() not in held_out]
    if not texts:
        raise DataError(f"task.unlabelled={config.unlabelled} holds no text")
    first = len(known["train"])
    return tuple(Example(first + i, text) for i, text in enumerate(texts[: config.unlabelled_limit]))


def _fingerprint(data: TaskData) -> str:
    digest = hashlib.sha256()
    for name, rows in {"train": data.train, "validation": data.validation, **data.tests()}.items():
        digest.update(f"{name}:{len(rows)}\n".encode())
        for e in (*rows, *(data.unlabelled if name == "train" else ())):
            digest.update(repr((e.text, e.text_pair, e.label)).encode())
    return digest.hexdigest()
