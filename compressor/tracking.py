"""Mirror finished runs to Weights & Biases: `python -m compressor.tracking FOLDER...`.

The run folder is the truth and this is a copy of it, made in a process of its own: a server that is slow, full or away, or a
library that crashes, costs the copy and nothing else. The same command makes it again; a run keeps its identity there, which a
note beside its folder remembers, so that a second copy replaces the first.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from compressor import account, commit, copies
from compressor.commit import MANIFEST
from compressor.compare.runs import Rejected, Run, Why, load_runs
from compressor.config import TrackingConfig
from compressor.copies import Copy
from compressor.errors import CompressorError, ConfigError, MissingExtra, StoreError, told_as
from compressor.machine import module_paths
from compressor.report.html import PAGE
from compressor.report.html.grids import without_texts
from compressor.report.markdown import to_markdown
from compressor.results import CandidateResult, RunResult
from compressor.telemetry import silence
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
    try:
        planned = copies.wanted(folder, wanted.project, wanted.entity, wanted.project)
        options = _options(wanted, planned[-1])
        _mode(wanted)
        for copy in planned:  # if this one is lost, the next is made under the same name
            copies.note(folder, copy)
    except OSError as error:
        return f"not mirrored: {error}"
    except ConfigError as error:
        return f"not mirrored: {type(error).__name__}: {error.got}; {_again(folder, options)}"
    command = [sys.executable, "-P", "-m", "compressor.tracking", str(folder), *options]
    environment = {**os.environ, "PYTHONPATH": module_paths(), "WANDB_SILENT": "true"}
    try:
        ended = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=wanted.timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        return f"not mirrored within {wanted.timeout_s:g} s; {_again(folder, options)}"
    except OSError as error:
        return f"not mirrored: {error}; {_again(folder, options)}"
    said = [line for line in (ended.stdout + ended.stderr).splitlines() if line.strip()]
    if ended.returncode != 0:
        return f"not mirrored: {_why(ended.returncode, said)}; {_again(folder, options)}"
    return said[-1] if said else "mirrored"


def catch_up(folder: Path, wanted: TrackingConfig) -> str | None:
    """Mirror a run that was finished before, unless its copy is made; return what became of it, in a line.

    For a run that W&B's agent started this is a copy under that run's name, whoever had mirrored the folder for another.
    """
    if wanted.kind == "none":
        return None
    goes_online = account.mode_of(wanted.mode) == "online"
    made = copies.wanted(folder, wanted.project, wanted.entity, wanted.project)
    if all(copy.sent == "online" or (copy.sent and not goes_online) for copy in made):
        return None
    return start(folder, wanted)


def _mode(wanted: TrackingConfig) -> str:
    """Return the mode of W&B, one in which it makes a copy.

    Raises:
        ConfigError: W&B is switched off.
    """
    mode = account.mode_of(wanted.mode)
    if mode == "disabled":
        raise ConfigError(
            "WANDB_MODE=disabled: W&B writes and sends nothing", allowed="online, offline", hint="unset WANDB_MODE"
        )
    return mode


def _options(wanted: TrackingConfig, copy: Copy) -> list[str]:
    """Return what is typed to make a copy where it belongs."""
    typed = ["--project", copy.project] if copy.project else []
    typed += ["--entity", copy.entity] if copy.entity else []
    typed += ["--mode", wanted.mode] if wanted.mode != "auto" else []
    return [*typed, "--models"] if wanted.models else typed


def _again(folder: Path, options: Sequence[str]) -> str:
    """Return what to type for another try, of a folder that can be mirrored."""
    if not commit.is_complete(folder):
        return "the run folder is damaged"
    return f"the run folder is whole; again: python -m compressor.tracking {shlex.join([str(folder), *options])}"


def _why(code: int, said: Sequence[str]) -> str:
    """Return in a line why a mirror failed: its signal, the error that it named, or else its last words."""
    if code < 0:
        return f"its process was ended by {signal.Signals(-code).name}"
    named = [line for line in said if _ERROR.match(line)]
    return named[-1] if named else " ".join(line.strip() for line in said[-_SAID_LINES:]) or f"exit code {code}"


def mirror(run: Run, wanted: TrackingConfig, copy: Copy, *, directory: Path | None = None) -> str:
    """Send one run to W&B, or write it where `wandb sync` finds it; return its place.

    Args:
        run: The run.
        wanted: Mode, and whether models are sent.
        copy: Under which name, and where; noted beside the run folder.
        directory: Where W&B keeps its files; unset: W&B's own rule (WANDB_DIR, else the current folder).

    Raises:
        ConfigError: W&B is switched off.
        MissingExtra: wandb is not installed.
    """
    require(wanted)
    import wandb

    mode: Any = _mode(wanted)
    own: dict[str, Any] = {"id": copy.id, "resume": "allow"}
    if os.environ.get(copies.RUN_ID):
        own = {}  # a sweep's agent gives its own
    settings = wandb.Settings(console="off", disable_git=True, silent=True, x_disable_stats=True, sweep_id=copy.sweep)
    copies.note(run.folder, copy)
    session = wandb.init(
        project=copy.project,
        entity=copy.entity,
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
    sent = "offline" if session.offline else "online"
    found = replace(copy, project=session.project or copy.project, entity=session.entity or copy.entity, sent=sent)
    copies.note(run.folder, found, instead_of=copy)
    if session.offline:
        return f"written offline; to send it: wandb sync {Path(session.dir).parent}"
    return str(session.url)


def _mirrored(run: Run, wanted: TrackingConfig, copy: Copy, directory: Path | None) -> str:
    """Mirror, with what W&B raises as an error of ours."""
    require(wanted)
    import wandb  # noqa: F401 - one that cannot be imported is a fault of no run

    def refused(error: Exception) -> StoreError:
        return StoreError(f"W&B took no copy of {run.folder}: {error}", hint="--mode offline")

    with told_as(refused):
        return mirror(run, wanted, copy, directory=directory)


def identity(run: Run) -> str:
    """Return the id of a run there: its content's, so that a copy of the folder is the same run."""
    return copies.content(run.folder)


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


def _flat(prefix: str, values: object) -> Iterator[tuple[str, Any]]:
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from _flat(f"{prefix}.{key}" if prefix else str(key), value)
    else:
        yield prefix, values


def main(arguments: Sequence[str] | None = None) -> None:
    """Mirror run folders, wherever they were made; the exit code is that of the first that could not be, the others are."""
    options = _parser().parse_args(arguments)
    silence()
    default = TrackingConfig().project
    try:
        project = default if options.project is None else options.project
        wanted = TrackingConfig(kind="wandb", project=project, mode=options.mode, models=options.models)
        runs = load_runs(options.folders, verify=True)
    except CompressorError as error:
        raise SystemExit(_tell(error)) from None
    codes = []
    for rejected in runs.rejected:
        print(f"left out: {rejected.folder}: {rejected.reason}", file=sys.stderr)
        if _was_meant(rejected, options.folders):
            codes.append(StoreError.exit_code)
    for run in runs.runs:
        for copy in copies.wanted(run.folder, options.project, options.entity, default):
            try:
                print(_mirrored(run, wanted, copy, options.dir))
            except CompressorError as error:
                codes.append(_tell(error))
    raise SystemExit(next(iter(codes), 0))


def _tell(error: CompressorError) -> int:
    """Print an error; return its exit code."""
    print(f"{type(error).__name__}: {error}", file=sys.stderr)
    return error.exit_code


def _was_meant(rejected: Rejected, given: Sequence[Path]) -> bool:
    """Tell whether a folder that is left out should have been mirrored: it holds a run, or was named."""
    if rejected.why in (Why.damaged, Why.other_schema):
        return True
    return rejected.why is not Why.copy and rejected.folder in [path.resolve() for path in given]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m compressor.tracking", description="Mirror finished run folders to Weights & Biases."
    )
    parser.add_argument("folders", nargs="+", type=Path, help="run folders, or folders of them")
    parser.add_argument(
        "--project", help=f"else where the run was mirrored to before; first {TrackingConfig().project}"
    )
    parser.add_argument("--entity", help="team or user; else as before; first the account's own")
    parser.add_argument("--mode", choices=["auto", "online", "offline"], default="auto", help="auto: online with a key")
    parser.add_argument("--models", action="store_true", help="upload the compressed models too")
    parser.add_argument("--dir", type=Path, help="where W&B keeps its files")
    return parser


if __name__ == "__main__":
    main()
