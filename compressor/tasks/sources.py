"""Where rows come from: pinned packages, the Hub, or files. One `Table` a split, whatever the source."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.config import TaskConfig
from compressor.errors import ConfigError, DataError

BUILDERS = {".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".json": "json", ".parquet": "parquet"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Columns of equal length; `label_names` where the source knows its classes by name."""

    columns: dict[str, list[Any]]
    label_names: tuple[str, ...] | None = None


def read_tables(config: TaskConfig) -> dict[str, Table]:
    """Read every split that the source has; `train` is always there.

    Raises:
        ConfigError: The source, a split or a file does not exist.
        DataError: A file cannot be read.
    """
    reader = {"package": _from_package, "hub": _from_hub, "file": _from_files}[config.source]
    return reader(config)


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
            return _existing(name, "task.unlabelled").read_text(encoding="utf-8").splitlines()
        columns = _read_file(name, "task.unlabelled", config).columns
    else:
        files = fetch_table(name, accept_licence=config.accept_licence)
        columns = _read_parquet(files["train"]).columns
    column = config.text if config.text in columns else "text"
    if column not in columns:
        raise DataError(f"task.unlabelled={name}: no column '{config.text}' or 'text'", allowed=", ".join(columns))
    return [t for t in columns[column] if isinstance(t, str)]


def _from_package(config: TaskConfig) -> dict[str, Table]:
    from compressor.assets import fetch_table

    files = fetch_table(config.dataset, accept_licence=config.accept_licence)
    chosen = _splits(config, {"train": "train", "validation": "validation", "test": "test"})
    tables = {}
    for role, split in chosen.items():
        if split not in files:
            option = "task.extra_tests" if role in config.extra_tests else f"task.{role}"
            raise ConfigError(
                f"{option}={split}: '{config.dataset}' has no such split", allowed=", ".join(sorted(files))
            )
        tables[role] = _read_parquet(files[split])
    return tables


def _splits(config: TaskConfig, defaults: dict[str, str | None]) -> dict[str, str]:
    """Return role -> split name; an extra test set's role is its name."""
    roles = {"train": config.train, "validation": config.validation, "test": config.test}
    named = {role: value or defaults.get(role) for role, value in roles.items()}
    return {role: value for role, value in named.items() if value} | {name: name for name in config.extra_tests}


def _read_parquet(path: Path) -> Table:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    return Table(columns={name: table.column(name).to_pylist() for name in table.column_names})


def _from_hub(config: TaskConfig) -> dict[str, Table]:
    import datasets

    _quiet(datasets)
    command = f"task.dataset={config.dataset}" + (f" task.subset={config.subset}" if config.subset else "")
    try:
        whole = datasets.load_dataset(config.dataset, config.subset, revision=config.revision)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise ConfigError(
            f"{command} could not be loaded from the Hugging Face Hub or its cache: {_first_line(error)}",
            hint="offline, use a packaged task (task=rotten_tomatoes) or your own files (task=file task.train=FILE.csv)",
        ) from error
    tables = {}
    defaults = {name: name for name in ("train", "validation", "test") if name in whole}
    for role, split in _splits(config, {"train": "train", **defaults}).items():
        if split not in whole:
            raise ConfigError(f"task.{role}={split}: {config.dataset} has no such split", allowed=", ".join(whole))
        tables[role] = _from_dataset(whole[split], config)
    return tables


def _from_files(config: TaskConfig) -> dict[str, Table]:
    return {
        role: _read_file(path, "task.extra_tests" if role in config.extra_tests else f"task.{role}", config)
        for role, path in _splits(config, {}).items()
    }


def _existing(path: str, option: str) -> Path:
    file = Path(path).expanduser()
    if not file.is_file():
        raise ConfigError(f"{option}={path}: there is no such file (looked in {Path.cwd()})")
    return file


def _read_file(path: str, option: str, config: TaskConfig) -> Table:
    import datasets

    _quiet(datasets)
    file = _existing(path, option)
    if file.suffix not in BUILDERS:
        raise ConfigError(f"{option}={path}: unknown ending '{file.suffix}'", allowed=", ".join(BUILDERS))
    if file.stat().st_size == 0:
        raise DataError(f"{option}={path}: the file is empty")
    extra = {"sep": "\t"} if file.suffix == ".tsv" else {}
    try:
        data = datasets.load_dataset(BUILDERS[file.suffix], data_files=str(file), split="train", **extra)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"{option}={path}: the file cannot be read: {_first_line(error.__cause__ or error)}") from error
    return _from_dataset(data, config)


def _from_dataset(data: Any, config: TaskConfig) -> Table:
    feature = data.features.get(config.label)
    feature = getattr(feature, "feature", feature)  # a tag a word is a list of ClassLabel
    names = getattr(feature, "names", None)
    return Table(
        columns={name: list(data[name]) for name in data.column_names},
        label_names=tuple(names) if names else None,
    )


def _quiet(datasets: Any) -> None:
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
