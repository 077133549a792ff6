"""Finding and reading run folders. What is no run, or cannot be used, is kept with its reason and never dropped."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from compressor import commit
from compressor.compare.predictions import PREDICTIONS
from compressor.errors import StoreError
from compressor.results import OK, SCHEMA_VERSION, CandidateResult, RunResult

RESULT, SETTINGS = "result.json", "run.yaml"
_TABLED = (PREDICTIONS, "timings")  # folders of a run whose files tables are made of, beside those two
_LONGEST = 150  # bytes of a name that becomes part of a file's name
_MOST_OPENED, _MOST_VALUES = 5_000, 100_000  # of a run's settings, which have some hundred lines
_PARTIAL = ".partial-"  # in the name of a run folder in the making


class Why(StrEnum):
    """Why a folder is not compared."""

    failed = "failed"
    timeout = "timeout"
    oom = "oom"
    killed = "killed"
    interrupted = "interrupted"
    skipped = "skipped"
    unfinished = "unfinished"
    damaged = "damaged"
    other_schema = "other schema"
    copy = "copy"
    no_metric = "no such metric"
    link = "link"
    no_run = "no run"

    @property
    def is_an_end(self) -> bool:
        """Whether a run said so itself: it was meant to have a row."""
        return self in (Why.failed, Why.timeout, Why.oom, Why.killed, Why.interrupted, Why.skipped)


def why_of(status: str) -> Why:
    """Return what the status of a run without a result says."""
    word = status.partition("(")[0]
    return next((why for why in Why if why.is_an_end and why.value == word), Why.failed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """A folder that is not compared; `overrides` are what was typed, where a run says so."""

    folder: Path
    name: str
    why: Why
    reason: str
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A finished run: what it found, and the settings it was started with."""

    folder: Path
    name: str  # below the folder that was given
    result: RunResult
    config: Mapping[str, Any]
    overrides: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """Everything that was found below the given folders, in natural order."""

    runs: tuple[Run, ...]
    rejected: tuple[Rejected, ...] = ()


def is_tabled(name: str) -> bool:
    """Tell by its name in a run folder whether tables are made of a file; the others are models, texts and pages."""
    return name in (RESULT, SETTINGS) or name.partition("/")[0] in _TABLED


def load_runs(
    folders: str | Path | Sequence[str | Path],
    *,
    verify: bool = False,
    needs_one: bool = True,
    leave_out: Path | None = None,
) -> Runs:
    """Read every run folder at or below the given ones.

    Args:
        folders: Run folders, folders of a sweep, or anything above them. Links below them are named, and not followed.
        verify: Compare the hash of every file with the manifest; otherwise of those that tables are made of.
        needs_one: Whether it is an error that no run can be used.
        leave_out: A folder that is not looked into, unless it is one of the given: an archive of these very runs, say.

    Raises:
        StoreError: A given folder does not exist, or none holds a run that can be used.
    """
    runs: list[Run] = []
    rejected: list[Rejected] = []
    seen: dict[Path, None] = {}
    prints: dict[tuple[Any, ...], Run] = {}
    folders = [folders] if isinstance(folders, (str, Path)) else folders
    for given in map(Path, folders):
        if not _is(Path.is_dir, given):
            raise StoreError(
                f"{escaped(str(given))[:200]} is no folder", allowed="run folders, or folders that hold some"
            )
        found, others = _walk(given.resolve(), given.resolve(), leave_out and leave_out.resolve())
        rejected += [o for o in others if o.folder not in seen]
        seen |= dict.fromkeys(o.folder for o in others)
        for folder in found:
            if folder in seen:
                continue
            seen[folder] = None
            read = _read(folder, _name(folder, given.resolve()), deep=verify)
            if isinstance(read, Run):
                # The seconds are those of one run to the nanosecond: nothing but a copy has the same.
                mark = (read.result.run_key, read.result.seconds_total, read.result.task, read.result.seed)
                if (twin := prints.get(mark)) is not None and _poorer(twin, read):
                    runs[runs.index(twin)] = prints[mark] = read  # of two copies the one that has its predictions
                    read = _reject(twin.folder, twin.name, Why.copy, f"the same run as {read.name}")
                elif twin is not None:
                    read = _reject(folder, read.name, Why.copy, f"the same run as {twin.name}")
                else:
                    prints[mark] = read
            if isinstance(read, Run):
                runs.append(read)
            else:
                rejected.append(read)
    if needs_one and not runs:
        reasons = "; ".join(f"{r.name}: {r.reason}" for r in rejected[:5])
        raise StoreError(
            f"no run to compare in {', '.join(map(str, folders)) or 'no folder'}"
            + (f" ({reasons})" if reasons else ""),
            allowed="folders with a manifest.json and a result.json, as every finished run leaves one",
        )
    return Runs(runs=tuple(runs), rejected=tuple(rejected))


def _poorer(first: Run, second: Run) -> bool:
    return not (first.folder / PREDICTIONS).is_dir() and (second.folder / PREDICTIONS).is_dir()


def _walk(folder: Path, given: Path, leave_out: Path | None) -> tuple[list[Path], list[Rejected]]:
    """Return the run folders at or below, and what is none; a tree without any is named once, at its top."""
    if folder == leave_out and folder != given:
        return [], []
    if _is_run(folder):
        return [folder], []
    name = _name(folder, given)
    if folder.name.startswith(".") and folder != given:
        partial = _PARTIAL in folder.name
        why, reason = (Why.unfinished, "still running, or killed") if partial else (Why.no_run, "hidden")
        return [], [_reject(folder, name, why, reason)]
    try:
        with os.scandir(folder) as entries:
            known = [(Path(e.path), e.is_symlink()) for e in entries if e.is_dir()]
        empty = not known and not any(folder.iterdir())
    except OSError as error:
        return [], [_reject(folder, name, Why.damaged, f"cannot be read: {error.strerror}")]
    below = sorted((path for path, is_link in known if not is_link), key=_natural)
    links = sorted((path for path, is_link in known if is_link and _is_run(path)), key=_natural)
    found: list[Path] = []
    others = [_reject(link, _name(link, given), Why.link, "give the run folder that it leads to") for link in links]
    for child in below:
        more, rest = _walk(child, given, leave_out)
        found += more
        others += rest
    if not found and all(o.why is Why.no_run for o in others):
        return [], [_reject(folder, name, Why.no_run, "empty" if empty else "no run folder in it")]
    return found, others


def _is_run(folder: Path) -> bool:
    return any(_is(Path.is_file, folder / name) for name in (RESULT, commit.MANIFEST))


def _is(kind: Callable[[Path], bool], path: Path) -> bool:
    """Ask what a path is; one that is too long, or behind a closed door, is nothing."""
    try:
        return kind(path)
    except OSError:
        return False


def _read(folder: Path, name: str, *, deep: bool) -> Run | Rejected:
    if not (folder / RESULT).is_file():
        return _reject(folder, name, Why.no_run, f"it holds a manifest and no {RESULT}")
    try:
        commit.verify(folder, deep=deep or is_tabled)
        return parse(folder, name)
    except (StoreError, OSError) as error:
        text = error.got if isinstance(error, StoreError) else str(error)
        return _reject(folder, name, Why.damaged, text.removeprefix(f"{folder} is damaged or incomplete: "))


def parse(folder: Path, name: str) -> Run | Rejected:
    """Read what a run's result and settings say, whoever vouches for them.

    Raises:
        StoreError: They say nothing that a run would.
        OSError: A file is missing or cannot be read.
    """
    data = commit.read_json(folder / RESULT)
    version = data.get("schema_version") if isinstance(data, Mapping) else None
    if type(version) is int and version != SCHEMA_VERSION:
        reason = f"{RESULT} has schema_version {version}, this version reads {SCHEMA_VERSION}"
        return _reject(folder, name, Why.other_schema, reason)
    result = RunResult.from_json(data)
    if result.status != OK:
        found = _reject(folder, name, why_of(result.status), result.status)
        return replace(found, overrides=_typed(_yaml(folder / SETTINGS)))
    if not result.candidates or result.teacher.role != "teacher":
        raise StoreError(f"{RESULT} does not begin with a teacher")
    if not result.teacher.metrics:
        raise StoreError(f"{RESULT} holds no metric of the teacher")
    for candidate in result.candidates:
        _require_counts(candidate)
        _require_name(candidate.name, (name.partition("@")[2] for name in candidate.metrics))
    config, overrides = _settings(folder / SETTINGS)
    return Run(folder=folder, name=name, result=result, config=config, overrides=overrides)


def _require_name(candidate: str, splits: Iterable[str]) -> None:
    """Refuse a name that would lead to files elsewhere: predictions are called by candidate and split.

    Raises:
        StoreError: It is no part of a file's name.
    """
    for name in (candidate, *splits):
        if {"/", "\\", "\0"} & set(name) or len(name.encode(errors="replace")) > _LONGEST:
            raise StoreError(f"{RESULT} holds the name {name!r:.60}", allowed=f"{_LONGEST} bytes without / or \\")


def _require_counts(candidate: CandidateResult) -> None:
    """Refuse what no model can have.

    Raises:
        StoreError: A share beyond 1, or a count or a time that is not above 0.
    """
    numbers: dict[str, float] = {"parameters": candidate.parameters, "size_bytes": candidate.size_bytes}
    numbers |= {f"p50 on {t.runtime}": t.latency_ms_p50 for t in candidate.latency if t.latency_ms_p50 is not None}
    wrong = [f"{name} {value:g}" for name, value in numbers.items() if value <= 0]
    wrong += [f"{name} {found.value:g}" for name, found in candidate.metrics.items() if not -1 <= found.value <= 1]
    if wrong:
        raise StoreError(f"{RESULT} says of {escaped(candidate.name)}: {', '.join(wrong)}")


def _settings(path: Path) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """Return the typed settings of a run as plain values, and what was typed."""
    read = _yaml(path)
    config = read.get("config")
    sections = ("teacher", "task", "student", "train")
    if not isinstance(config, Mapping) or not all(isinstance(config.get(s), Mapping) for s in sections):
        raise StoreError(f"{path.name} lacks config.{', config.'.join(sections)}")
    return config, _typed(read)


def _yaml(path: Path) -> Mapping[str, Any]:
    import yaml

    text = path.read_bytes()
    if sum(map(text.count, (b"[", b"{", b"- ", b"? "))) > _MOST_OPENED:  # the C parser recurses, and dies of depth
        raise StoreError(f"{path.name} opens more than {_MOST_OPENED} lists")
    try:
        # The C parser takes a seventh of the time, which is most of reading a run.
        read = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise StoreError(f"{path.name} is not valid YAML: {str(error).splitlines()[0]}") from error
    _require_finite(read, path.name)
    return read if isinstance(read, Mapping) else {}


def _require_finite(read: Any, name: str) -> None:
    """Refuse YAML whose anchors multiply or contain themselves: whoever walked it would never end.

    Raises:
        StoreError: It unfolds to more values than settings have.
    """
    left, seen = [read], 0
    while left:
        value = left.pop()
        seen += 1
        if seen > _MOST_VALUES:
            raise StoreError(f"{name} unfolds to more than {_MOST_VALUES} values")
        left += value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, set)) else ()


def _typed(read: Mapping[str, Any]) -> tuple[str, ...]:
    typed = read.get("overrides")
    return tuple(map(str, typed)) if isinstance(typed, list) else ()


def _reject(folder: Path, name: str, why: Why, reason: str) -> Rejected:
    return Rejected(folder=folder, name=name, why=why, reason=" ".join(reason.split()))


def _name(folder: Path, given: Path) -> str:
    return escaped(folder.name if folder == given else folder.relative_to(given).as_posix())


def escaped(name: str) -> str:
    """Return a file's name as one line of text: bytes that are no UTF-8, and what a terminal would obey, as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in name)


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """Order 2 before 10."""
    parts = re.split(r"(\d+)", path.name)
    return [(1, int(p), p) if p.isdecimal() else (0, 0, p) for p in parts]
