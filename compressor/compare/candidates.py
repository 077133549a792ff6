"""Which results of many runs are one candidate: the same chain with the same options on the same teacher.

The seed, what is measured and how long it takes, the device and the folder are no options: runs that differ in these alone are
repeats of one candidate. Of the task's settings those count that vary between runs of one task (transfer text, say), and so
do its examples, where a file of the same name holds others; the task itself is a column, so that a chain on three tasks is one
row.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.compare.runs import Run
from compressor.results import CandidateResult, Comparison

TEACHER = "teacher"
_FOREIGN_TO_TEACHER = ("task.unlabelled", "task.unlabelled_limit")  # text that only students read
_DATA, _EXAMPLES = "task.data", "task.examples"  # what stands for all splits, and how many examples are tested
_NO_OPTIONS = ("task.name", "task.accept_licence", "teacher.train.checkpoint_seconds", "teacher.train.cache_gb",
               "train.checkpoint_seconds", "train.cache_gb")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """A candidate in one run, beside the teacher of that run.

    `teacher_recipe` names it, and is equal for teachers that differ in nothing but the seed.
    """

    run: Run
    result: CandidateResult
    teacher_recipe: str

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.run.result.seed

    @property
    def teacher(self) -> CandidateResult:
        """The teacher that was measured beside it."""
        return self.run.result.teacher

    def against(self, baseline: str) -> tuple[Comparison, ...]:
        """Return what the run itself found out against another model of the same run."""
        compared = self.run.result.comparisons
        return tuple(c for c in compared if c.candidate == self.result.name and c.baseline == baseline)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One row: all runs of one chain with one set of options.

    Attributes:
        label: What it is called; unique among the candidates.
        chain: Methods, first applied first; empty for a teacher.
        role: teacher, result or baseline (what it was in its first run).
        options: Every setting that makes it what it is, by its name on the command line.
        arms: Its runs, of all tasks and seeds.
    """

    label: str
    chain: tuple[str, ...]
    role: str
    options: Mapping[str, Any]
    arms: tuple[Arm, ...]

    def on(self, task: str) -> tuple[Arm, ...]:
        """Return its runs of one task, by seed."""
        return tuple(sorted((a for a in self.arms if a.run.result.task == task), key=lambda a: a.seed))

    def scored(self, task: str, metric: str) -> tuple[Arm, ...]:
        """Return its runs of one task that have a metric, by seed."""
        return tuple(arm for arm in self.on(task) if metric in arm.result.metrics)


def join(runs: Sequence[Run]) -> tuple[Candidate, ...]:
    """Return the candidates of all runs, teachers first, then in the order in which they appear."""
    varying, data = _varying_task_settings(runs), _varying_data(runs)
    groups: dict[str, tuple[dict[str, Any], list[Arm]]] = {}
    for run in runs:
        teacher = options_of(run, run.result.teacher)
        digest = hashlib.sha256(json.dumps(teacher, sort_keys=True).encode()).hexdigest()[:6]
        recipe = f"{teacher.get('teacher.checkpoint')}, recipe {digest}"
        for result in run.result.candidates:
            options = options_of(run, result, varying) | data[run.folder]
            key = json.dumps(options, sort_keys=True)
            groups.setdefault(key, (options, []))[1].append(Arm(run=run, result=result, teacher_recipe=recipe))
    ordered = sorted(groups.values(), key=lambda group: group[1][0].result.role != TEACHER)
    labels = _labels([(_plain_name(arms), options) for options, arms in ordered])
    return tuple(
        Candidate(
            label=label,
            chain=tuple(step.method for step in arms[0].result.lineage),
            role=arms[0].result.role,
            options=options,
            arms=tuple(arms),
        )
        for label, (options, arms) in zip(labels, ordered, strict=True)
    )


def options_of(run: Run, result: CandidateResult, varying: Collection[str] = ()) -> dict[str, Any]:
    """Return the settings that make a candidate what it is, flat; `varying` are the task's that count."""
    config = run.config
    task = {key: value for key, value in _flat("task", config["task"]) if key in varying} if varying else {}
    options: dict[str, Any] = dict(_flat("teacher", config["teacher"])) | task
    if result.role == TEACHER:
        options = {k: v for k, v in options.items() if k not in _FOREIGN_TO_TEACHER}
    else:
        options["method"] = "+".join(step.method for step in result.lineage)
        used: dict[str, int] = {}
        for step in result.lineage:
            used[step.method] = used.get(step.method, 0) + 1
            again = f"#{used[step.method]}" if used[step.method] > 1 else ""
            options |= _flat(f"method.{step.method}{again}", step.config)
        options |= _flat("student", config["student"])
        options |= _flat("train", config["train"])
    return {key: value for key, value in options.items() if key not in _NO_OPTIONS}


def _varying_task_settings(runs: Sequence[Run]) -> set[str]:
    seen: dict[tuple[str, str], set[str]] = {}
    for run in runs:
        for key, value in _flat("task", run.config["task"]):
            seen.setdefault((run.result.task, key), set()).add(json.dumps(value))
    return {key for (_, key), values in seen.items() if len(values) > 1}


def _varying_data(runs: Sequence[Run]) -> dict[Path, dict[str, Any]]:
    """Return by its folder what tells a run's examples from those of others of its task; nothing where all have the same.

    Older results say how many there are, and no more.
    """
    known = {run.folder: {_EXAMPLES: _tested(run), _DATA: _digest(run)} for run in runs}
    found: dict[Path, dict[str, Any]] = {run.folder: {} for run in runs}
    for task in {run.result.task for run in runs}:
        ours = [run.folder for run in runs if run.result.task == task]
        for key in (_EXAMPLES, _DATA):
            if len({known[folder][key] for folder in ours} - {None}) > 1:
                for folder in ours:
                    found[folder][key] = known[folder][key]
    return found


def _tested(run: Run) -> int | None:
    return next((metric.n for name, metric in run.result.teacher.metrics.items() if "@" not in name), None)


def _digest(run: Run) -> str | None:
    splits = run.result.environment.get("splits")
    if not isinstance(splits, Mapping):
        return None
    return hashlib.sha256(json.dumps(splits, sort_keys=True, default=str).encode()).hexdigest()[:6]


def _flat(prefix: str, values: object) -> Iterator[tuple[str, Any]]:
    """Yield every leaf under its dotted name; what JSON cannot hold as text."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from _flat(f"{prefix}.{key}", value)
    elif isinstance(values, (list, tuple)):
        yield prefix, json.loads(json.dumps(values, default=str))
    elif isinstance(values, float) and not math.isfinite(values):
        yield prefix, str(values)
    else:
        yield prefix, values if isinstance(values, (str, int, float, type(None))) else str(values)


def _plain_name(arms: Sequence[Arm]) -> str:
    """Return the experiment that made all of them, else the chain."""
    first = arms[0].result
    if first.role == TEACHER:
        return TEACHER
    named = {
        a for arm in arms for a in arm.run.overrides if a.startswith("experiment=") and arm.result.role == "result"
    }
    if len(named) == 1 and all(named <= set(arm.run.overrides) for arm in arms):
        return named.pop().removeprefix("experiment=")
    return "+".join(step.method for step in first.lineage) or first.name


def _labels(candidates: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Return unique labels: the plain name, and where that is not enough the options that tell them apart."""
    labels = [name for name, _ in candidates]
    for name in dict.fromkeys(labels):
        group = [i for i, (other, _) in enumerate(candidates) if other == name]
        keys = sorted({k for i in group for k in candidates[i][1]}, key=_importance)
        for key in keys:
            values = [candidates[i][1].get(key) for i in group]
            extended = [labels[i] + ("" if v is None else f" {key}={v}") for i, v in zip(group, values, strict=True)]
            if len(set(extended)) > len({labels[i] for i in group}):
                for i, label in zip(group, extended, strict=True):
                    labels[i] = label
    return [f"{label} ({i})" if label in labels[:i] else label for i, label in enumerate(labels)]


def _importance(key: str) -> tuple[int, str]:
    order = ("student.", "method", "train.", "task.", "teacher.checkpoint", "teacher.")
    return next((i for i, prefix in enumerate(order) if key.startswith(prefix)), len(order)), key
