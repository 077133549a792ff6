"""Where rows come from: pinned packages, the Hub, or files. One `Table` a split, whatever the source."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.config import TaskConfig
from compressor.errors import ConfigError, DataError

ROLES = ("train", "validation", "test")
BUILDERS = {".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".json": "json", ".parquet": "parquet"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Columns of equal length; `label_names` where the source knows its classes by name, `place` for messages."""

    columns: dict[str, list[Any]]
    place: str
    label_names: tuple[str, ...] | None = None


def read_tables(config: TaskConfig) -> dict[str, Table]:
    """Read every split that the source has, by role; `train` is always there.

    Raises:
        ConfigError: The source, a split or a file does not exist, or two roles name the same one.
        DataError: A file cannot be read.
    """
    reader = {"package": _from_package, "hub": _from_hub, "file": _from_files}[config.source]
    return reader(config)


def extra_names(config: TaskConfig) -> dict[str, str]:
    """Return the extra test sets, name -> split or file. A file goes by its stem, since names end up in file names.

    Raises:
        ConfigError: Two have one name, or one is called like a split that every task has.
    """
    names: dict[str, str] = {}
    for value in config.extra_tests:
        name = Path(value).stem if config.source == "file" else value
        if name.casefold() in {*ROLES, *(n.casefold() for n in names)}:
            raise ConfigError(
                f"task.extra_tests={value}: the name '{name}' is taken",
                allowed=f"names that differ from one another and from {', '.join(ROLES)}",
                hint="rename the file" if config.source == "file" else f"task.{name}={value} task.extra_tests=[]",
            )
        names[name] = value
    return names


def read_texts(config: TaskConfig) -> list[str]:
    """Read the transfer text named by `task.unlabelled`.

    Raises:
        ConfigError: It is neither a packaged text nor a file.
        DataError: The file has no text column.
    """
    from compressor.assets import fetch_table

    name = config.unlabelled
    assert name is not None
    if Path(name).suffix in {*BUILDERS, ".txt"}:
        if Path(name).suffix == ".txt":
            return _lines(_existing(name, "task.unlabelled"), "task.unlabelled")
        columns = _read_file(name, "task.unlabelled", config).columns
    else:
        files = fetch_table(name, accept_licence=config.accept_licence)
        columns = _read_parquet(files["train"], name).columns
    column = config.text if config.text in columns else "text"
    if column not in columns:
        raise DataError(f"task.unlabelled={name}: no column '{config.text}' or 'text'", allowed=", ".join(columns))
    return [t for t in columns[column] if isinstance(t, str)]


def _from_package(config: TaskConfig) -> dict[str, Table]:
    from compressor.assets import fetch_table

    files = fetch_table(config.dataset, accept_licence=config.accept_licence)
    tables = {}
    for role, split in _splits(config, files).items():
        if split not in files:
            raise ConfigError(
                f"{_option(role)}={split}: '{config.dataset}' has no such split", allowed=", ".join(sorted(files))
            )
        tables[role] = _read_parquet(files[split], f"{config.dataset}, split {split}")
    return tables


def _splits(config: TaskConfig, has: Collection[str]) -> dict[str, str]:
    """Return role -> split or file; the role of an extra test set is its name.

    A role that is not set takes the split of its own name, if the source has one and no other role names it; else it is
    left out, to be carved from train. So what is reported as test never chooses an epoch.

    Raises:
        ConfigError: Two roles name one split or file.
    """
    extra = extra_names(config)
    roles = {role: value for role in ROLES if (value := getattr(config, role))} | extra
    for role in ROLES:
        if role not in roles and (role == "train" or (role in has and role not in roles.values())):
            roles[role] = role
    owners: dict[str, str] = {}
    for role in (*ROLES, *extra):
        if role not in roles:
            continue
        value = roles[role]
        real = str(Path(value).expanduser().resolve()) if config.source == "file" else value
        if real in owners:
            raise ConfigError(
                f"{_option(role)}={value} is {_option(owners[real])} too",
                allowed="each split or file in one role; an unset validation or test is carved from train",
                hint=f"{_option(role)}={'null' if role in ROLES else '[]'}",
            )
        owners[real] = role
    return {role: roles[role] for role in (*ROLES, *extra) if role in roles}


def _option(role: str) -> str:
    return f"task.{role}" if role in ROLES else "task.extra_tests"


def _read_parquet(path: Path, place: str) -> Table:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    return Table(columns={name: table.column(name).to_pylist() for name in table.column_names}, place=place)


def _from_hub(config: TaskConfig) -> dict[str, Table]:
    import datasets

    _quiet(datasets)
    command = f"task.dataset={config.dataset}" + (f" task.subset={config.subset}" if config.subset else "")
    try:
        whole = datasets.load_dataset(config.dataset, config.subset, revision=config.revision)
    except Exception as error:  # of every kind: what a stranger's files say reaches deep into libraries
        raise ConfigError(
            f"{command} could not be loaded from the Hugging Face Hub or its cache: {_first_line(error)}",
            hint="offline, use a packaged task (task=rotten_tomatoes) or your own files (task=file task.train=FILE.csv)",
        ) from error
    tables = {}
    for role, split in _splits(config, whole).items():
        if split not in whole:
            raise ConfigError(f"{_option(role)}={split}: {config.dataset} has no such split", allowed=", ".join(whole))
        tables[role] = _from_dataset(whole[split], f"{config.dataset}, split {split}", config)
    return tables


def _from_files(config: TaskConfig) -> dict[str, Table]:
    return {role: _read_file(path, _option(role), config) for role, path in _splits(config, ()).items()}


def _existing(path: str, option: str) -> Path:
    file = Path(path).expanduser()
    if not file.is_file():
        raise ConfigError(f"{option}={path}: there is no such file (looked in {Path.cwd()})")
    return file


def _read_file(path: str, option: str, config: TaskConfig) -> Table:
    import datasets

    _quiet(datasets)
    file = _existing(path, option)
    if file.suffix == ".txt":
        lines = _lines(file, option)
        return Table(columns={config.text: [line for line in lines if line.strip()]}, place=path)
    if file.suffix not in BUILDERS:
        raise ConfigError(f"{option}={path}: unknown ending '{file.suffix}'", allowed=", ".join(BUILDERS))
    if file.stat().st_size == 0:
        raise DataError(f"{option}={path}: the file is empty")
    _require_plain(file, f"{option}={path}")
    extra: dict[str, Any] = {}
    if BUILDERS[file.suffix] == "csv":
        extra = {"sep": "\t" if file.suffix == ".tsv" else ","}
        extra |= {"keep_default_na": False, "na_values": [""]}  # NA, null and None are texts; an empty cell is none
    try:
        data = datasets.load_dataset(BUILDERS[file.suffix], data_files=str(file), split="train", **extra)
    except Exception as error:  # of every kind, as above
        raise DataError(f"{option}={path}: the file cannot be read: {_first_line(error.__cause__ or error)}") from error
    return _from_dataset(data, path, config)


def _lines(file: Path, option: str) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{option}={file}: byte {error.start} is no UTF-8") from error


_PACKED = (
    b"\x1f\x8b",
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"BZh",
    b"\xfd7zXZ",
    b"\x28\xb5\x2f\xfd",
    b"\x04\x22\x4d\x18",
    b"7z\xbc\xaf",
    b"Rar!",
)
_MOST_COLUMNS, _MOST_NESTED = 5000, 500
_JSON_PARTS = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]')


def _require_plain(file: Path, got: str) -> None:
    """Refuse what the readers would unpack whatever it is called, and what they take hours for or crash on.

    Raises:
        DataError: It is an archive, its header has thousands of columns, or its JSON is hundreds of levels deep.
    """
    with file.open("rb") as stream:
        start = stream.read(512)
        if start.startswith(_PACKED) or start[257:262] == b"ustar":
            raise DataError(
                f"{got}: the file is compressed or an archive", allowed="a plain file", hint="unpack it first"
            )
        stream.seek(0)
        if BUILDERS[file.suffix] == "csv":
            columns = stream.readline(10_000_000).count(b"\t" if file.suffix == ".tsv" else b",") + 1
            if columns > _MOST_COLUMNS:
                raise DataError(f"{got}: the first line has {columns:,} columns", allowed=f"{_MOST_COLUMNS:,} or fewer")
        if BUILDERS[file.suffix] == "json":
            for number, line in enumerate(stream, 1):
                if line.count(b"[") + line.count(b"{") > _MOST_NESTED and _depth(line) > _MOST_NESTED:
                    raise DataError(
                        f"{got}: line {number} is nested too deep", allowed=f"{_MOST_NESTED} levels or fewer"
                    )


def _depth(line: bytes) -> int:
    deepest = depth = 0
    for part in _JSON_PARTS.finditer(line):
        depth += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(part.group(), 0)
        deepest = max(deepest, depth)
    return deepest


def _from_dataset(data: Any, place: str, config: TaskConfig) -> Table:
    feature = data.features.get(config.label)
    feature = getattr(feature, "feature", feature)  # a tag a word is a list of ClassLabel
    names = getattr(feature, "names", None)
    return Table(
        columns={name: list(data[name]) for name in data.column_names},
        place=place,
        label_names=tuple(names) if names else None,
    )


def _quiet(datasets: Any) -> None:
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = (
        False  # it would tell a server of each file that is read, local ones too
    )
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
