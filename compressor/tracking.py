"""Mirror finished runs to Weights & Biases: `python -m compressor.tracking FOLDER...`.

The run folder is the truth and this is a copy of it, made in a process of its own: a server that is slow, full or away, or a
library that crashes, costs the copy and nothing else. The same command makes it again; a run keeps its identity there, so that
a second copy replaces the first.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from compressor.commit import MANIFEST, sha256_file
from compressor.compare.runs import Run, load_runs
from compressor.config import TrackingConfig
from compressor.errors import CompressorError, MissingExtra, StoreError
from compressor.machine import module_paths
from compressor.report.html import PAGE
from compressor.report.html.grids import without_texts
from compressor.report.markdown import to_markdown
from compressor.results import CandidateResult, RunResult
from compressor.training import journal

LOSSES: Final = "losses.jsonl"
_SAID_LINES: Final = 3
_ERROR: Final = re.compile(r"\w+(Error|Extra): ")  # how our errors are printed, and Python's at the end of a traceback


def require(wanted: TrackingConfig) -> None:
    """Refuse, before work, a mirror whose library is not installed.

    Raises:
        MissingExtra: wandb is not installed.
    """
    if wanted.kind == "wandb" and importlib.util.find_spec("wandb") is None:
        raise MissingExtra.of("wandb", "wandb")


def start(folder: Path, wanted: TrackingConfig) -> str:
    """Mirror a run folder in a process of its own; return what became of it, in a line.

    Nothing is raised: a run that is finished is not undone by its copy.
    """
    command = [sys.executable, "-P", "-m", "compressor.tracking", str(folder), "--project", wanted.project]
    command += ["--mode", wanted.mode, *(["--entity", wanted.entity] if wanted.entity else [])]
    command += ["--models"] if wanted.models else []
    environment = {**os.environ, "PYTHONPATH": module_paths(), "WANDB_SILENT": "true"}
    again = f"the run folder is whole; again: python -m compressor.tracking {folder}"
    try:
        ended = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=wanted.timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        return f"not mirrored within {wanted.timeout_s:g} s; {again}"
    except OSError as error:
        return f"not mirrored: {error}; {again}"
    said = [line for line in (ended.stdout + ended.stderr).splitlines() if line.strip()]
    if ended.returncode != 0:
        return f"not mirrored: {_why(ended.returncode, said)}; {again}"
    return said[-1] if said else "mirrored"


def _why(code: int, said: Sequence[str]) -> str:
    """Return in a line why a mirror failed: its signal, the error that it named, or else its last words."""
    if code < 0:
        return f"its process was ended by {signal.Signals(-code).name}"
    named = [line for line in said if _ERROR.match(line)]
    return named[-1] if named else " ".join(line.strip() for line in said[-_SAID_LINES:]) or f"exit code {code}"


def mirror(run: Run, wanted: TrackingConfig, *, directory: Path | None = None) -> str:
    """Send one run to W&B, or write it where `wandb sync` finds it; return its place.

    Args:
        run: The run.
        wanted: Project, entity, mode.
        directory: Where W&B keeps its files; unset: W&B's own rule (WANDB_DIR, else the current folder).

    Raises:
        MissingExtra: wandb is not installed.
    """
    require(wanted)
    import wandb

    mode: Any = wanted.mode
    if mode == "auto":
        mode = os.environ.get("WANDB_MODE") or ("online" if _has_key() else "offline")
    settings = wandb.Settings(console="off", disable_git=True, silent=True, x_disable_stats=True)
    own: dict[str, Any] = {"id": identity(run), "resume": "allow"}
    if os.environ.get("WANDB_RUN_ID"):
        own = {}  # a sweep's agent gives its own
    session = wandb.init(
        project=wanted.project,
        entity=wanted.entity,
        name=run.folder.name,
        config=config_of(run),
        mode=mode,
        dir=None if directory is None else str(directory),
        settings=settings,
        tags=[run.result.task],
        **own,
    )
    try:
        for stage in dict.fromkeys(step["stage"] for step in journal.read(run.folder / LOSSES)):
            session.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
        for values in history(run):
            session.log(values)
        session.summary.update(summary(run.result))
        columns, rows = table(run.result)
        session.log({"comparison": wandb.Table(columns=list(columns), data=rows)})
        pages = {path.stem: path for path in sorted((run.folder / "plots").glob("tradeoff-*.svg"))}
        pages |= {"report": run.folder / PAGE} if (run.folder / PAGE).is_file() else {}
        for name, path in pages.items():
            session.log({name: wandb.Html(without_texts(path.read_text(encoding="utf-8")), inject=False)})
        session.log_artifact(_artifact(wandb, run, models=wanted.models))
    finally:
        session.finish()
    if mode == "online":
        return str(session.url)
    return f"written offline; to send it: wandb sync {Path(session.dir).parent}"


def _mirrored(run: Run, wanted: TrackingConfig, directory: Path | None) -> str:
    """Mirror, with what W&B raises as an error of ours."""
    require(wanted)
    import wandb

    try:
        return mirror(run, wanted, directory=directory)
    except wandb.errors.Error as error:
        raise StoreError(f"W&B took no copy of {run.folder}: {error}", hint="--mode offline") from error


def identity(run: Run) -> str:
    """Return the id of a run there: its content's, so that a copy of the folder is the same run."""
    return sha256_file(run.folder / MANIFEST)[:16]


def config_of(run: Run) -> dict[str, Any]:
    """Return the run's settings, flat and dotted as they are typed."""
    flat = dict(_flat("", run.config))
    return {**flat, "overrides": list(run.overrides), "run_key": run.result.run_key}


def history(run: Run) -> Iterator[dict[str, float]]:
    """Yield the losses of every step and the scores of every epoch, each stage with a step count of its own."""
    for step in journal.read(run.folder / LOSSES):
        stage = step["stage"]
        yield {f"{stage}/{name}": value for name, value in step.items() if name != "stage"}


def summary(result: RunResult) -> dict[str, Any]:
    """Return the numbers of the run's last result under short names, and those of every model under its own.

    `objective` is the first metric of the test split, what a Hydra sweeper gets too; a number that is not there is left out.
    """
    values: dict[str, Any] = {"status": result.status, "seconds_total": result.seconds_total}
    for candidate in result.candidates:
        values |= {f"{candidate.name}/{name}": value for name, value in _numbers(result, candidate).items()}
    made = [c for c in result.candidates if c.role in ("teacher", "result")]
    if made:
        numbers = _numbers(result, made[-1])
        values |= numbers | {"objective": next(iter(made[-1].metrics.values())).value}
    return values


def table(result: RunResult) -> tuple[list[str], list[list[Any]]]:
    """Return one row a model: columns, and rows of plain values with None where there is no number."""
    found = [(candidate, _numbers(result, candidate)) for candidate in result.candidates]
    names = list(dict.fromkeys(name for _, numbers in found for name in numbers))
    return ["model", "role", *names], [[c.name, c.role, *(numbers.get(n) for n in names)] for c, numbers in found]


def _numbers(result: RunResult, candidate: CandidateResult) -> dict[str, Any]:
    numbers: dict[str, Any] = {name: metric.value for name, metric in candidate.metrics.items()}
    numbers |= {"parameters": candidate.parameters, "size_bytes": candidate.size_bytes}
    if candidate.peak_memory_bytes is not None:
        numbers["peak_memory_bytes"] = candidate.peak_memory_bytes
    for timed in candidate.latency:
        if timed.latency_ms_p50 is not None:
            numbers[f"latency_ms_p50.{timed.runtime}"] = timed.latency_ms_p50
    for compared in result.comparisons:
        if (compared.candidate, compared.baseline) == (candidate.name, result.teacher.name):
            if compared.ratio is not None:
                numbers[f"speed_up.{compared.runtime}"] = compared.ratio
            if compared.difference is not None:
                numbers[f"difference.{compared.metric}"] = compared.difference
            numbers[f"verdict.{compared.runtime or compared.metric}"] = compared.verdict
    return numbers


def _artifact(wandb: Any, run: Run, *, models: bool) -> Any:
    """Return the run folder's record, and its models where they are wanted."""
    artifact = wandb.Artifact(f"run-{identity(run)}", type="run", description=to_markdown(run.result)[:1000])
    for name in ("result.json", "run.yaml", "report.md", MANIFEST, LOSSES):
        if (run.folder / name).is_file():
            artifact.add_file(str(run.folder / name))
    for folder in ("predictions", *(["candidates"] if models else [])):
        if (run.folder / folder).is_dir():
            artifact.add_dir(str(run.folder / folder), name=folder)
    return artifact


def _has_key() -> bool:
    """Tell whether there is a key to log in with; it is looked for, never read out."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return "api.wandb.ai" in netrc.read_text(encoding="utf-8")
    except OSError:
        return False


def _flat(prefix: str, values: object) -> Iterator[tuple[str, Any]]:
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from _flat(f"{prefix}.{key}" if prefix else str(key), value)
    else:
        yield prefix, values


def main(arguments: Sequence[str] | None = None) -> None:
    """Mirror run folders, wherever they were made; the exit code is that of the first that could not be."""
    options = _parser().parse_args(arguments)
    try:
        wanted = TrackingConfig(
            kind="wandb", project=options.project, entity=options.entity, mode=options.mode, models=options.models
        )
        runs = load_runs(options.folders, verify=True)
        for rejected in runs.rejected:
            print(f"left out: {rejected.folder}: {rejected.reason}", file=sys.stderr)
        for run in runs.runs:
            print(_mirrored(run, wanted, options.dir))
    except CompressorError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    if not runs.runs:
        raise SystemExit(StoreError.exit_code)


def _parser() -> argparse.ArgumentParser:
    defaults = TrackingConfig()
    parser = argparse.ArgumentParser(
        prog="python -m compressor.tracking", description="Mirror finished run folders to Weights & Biases."
    )
    parser.add_argument("folders", nargs="+", type=Path, help="run folders, or folders of them")
    parser.add_argument("--project", default=defaults.project)
    parser.add_argument("--entity", help="team or user; else the account's own")
    parser.add_argument("--mode", choices=["auto", "online", "offline"], default="auto", help="auto: online with a key")
    parser.add_argument("--models", action="store_true", help="upload the compressed models too")
    parser.add_argument("--dir", type=Path, help="where W&B keeps its files")
    return parser


if __name__ == "__main__":
    main()
