"""What must be the same before two latencies may meet: machine, protocol, software, threads, batch, teacher."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

_UNAVAILABLE = "unavailable"
_SOFTWARE = ("torch", "transformers", "onnxruntime", "openvino")
_DECISIVE = (
    "KMP_AFFINITY",
    "GOMP_CPU_AFFINITY",
    "LD_PRELOAD",
    "MALLOC_ARENA_MAX",
    "ONEDNN_MAX_CPU_ISA",
    "ATEN_CPU_CAPABILITY",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What decides how fast a machine is, as far as a run recorded it; two equal ones are taken for one machine."""

    cpu: str
    flags: tuple[str, ...]
    cores: str
    quota: str
    used_cores: str
    memory_gb: str
    governor: str
    smt: str
    architecture: str
    gpus: tuple[str, ...] = ()  # by name; none where none could be used, or the run is older than this field
    unknown: str = ""  # names the run whose machine was not recorded: it is like no other

    @classmethod
    def of(cls, environment: Mapping[str, Any], run: str) -> Machine:
        """Read a run's manifest of the environment; `run` names it where it does not say which machine it was."""

        def text(key: str) -> str:
            return str(environment.get(key, _UNAVAILABLE))

        flags, affinity, memory = (environment.get(k) for k in ("cpu_flags", "affinity", "memory_bytes"))
        known = text("cpu") != _UNAVAILABLE and text("cores") != _UNAVAILABLE
        return cls(
            cpu=text("cpu"),
            flags=tuple(map(str, flags)) if isinstance(flags, list) else (str(flags),),
            cores=text("cores"),
            quota=text("cpu_quota"),
            used_cores=str(len(affinity)) if isinstance(affinity, list) else _UNAVAILABLE,
            # Rounded: another kernel keeps some megabytes more for itself.
            memory_gb=str(round(memory / 2**30)) if isinstance(memory, int) else _UNAVAILABLE,
            governor=text("governor"),
            smt=text("smt"),
            architecture=text("machine"),
            gpus=_gpu_names(environment.get("gpus")),
            unknown="" if known else run,
        )

    def words(self) -> str:
        """Say it on one line."""
        if self.unknown:
            return f"unknown machine of {self.unknown}"
        return ", ".join((f"{self.cpu}, {self.used_cores} of {self.cores} cores, {self.memory_gb} GB", *self.gpus))


def _gpu_names(found: object) -> tuple[str, ...]:
    if not isinstance(found, list):
        return () if found is None else (str(found),)
    return tuple(str(one.get("name")) if isinstance(one, Mapping) else str(one) for one in found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """All that two latencies must share, but for the runtime and the task, whose texts `workload` is about."""

    machine: Machine
    protocol: str
    software: tuple[tuple[str, str], ...]
    threads: int
    batch_size: int
    workload: str  # which texts were timed
    teacher: str  # what ratios are taken against

    def words(self) -> str:
        """Say it on one line."""
        software = ", ".join(f"{name} {version}" for name, version in self.software)
        return (
            f"{self.machine.words()}; {self.threads} thread{'s' * (self.threads != 1)}, batch {self.batch_size}, protocol "
            f"{self.protocol}; {self.workload}; {software or 'unknown software'}; against {self.teacher}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A column of latencies: they may be compared within it, and with nothing outside of it."""

    label: str  # the runtime, with `@A`, `@B`, ... where it was timed under several conditions
    task: str
    runtime: str
    conditions: Conditions


def software(environment: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return the versions of what executes models, and the variables that tell it how, where they were set."""
    packages, variables = (_mapping(environment.get(key)) for key in ("packages", "variables"))
    versions = [(name, str(packages[name])) for name in _SOFTWARE if name in packages]
    return (*versions, *((name, str(variables[name])) for name in _DECISIVE if name in variables))


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def settings(keys: Iterable[tuple[str, str, Conditions]]) -> dict[tuple[str, str, Conditions], Setting]:
    """Name every (task, runtime, conditions).

    Where a task was timed under several conditions, a letter tells them apart; equal conditions have one letter everywhere.
    """
    distinct = list(dict.fromkeys(keys))
    letters: dict[Conditions, str] = {}
    of_task: dict[str, set[Conditions]] = {}
    for task, _, conditions in distinct:
        letters.setdefault(conditions, _letters(len(letters)))
        of_task.setdefault(task, set()).add(conditions)
    return {
        (task, runtime, conditions): Setting(
            label=runtime if len(of_task[task]) == 1 else f"{runtime}@{letters[conditions]}",
            task=task,
            runtime=runtime,
            conditions=conditions,
        )
        for task, runtime, conditions in distinct
    }


def _letters(index: int) -> str:
    """Return A, ..., Z, AA, AB, ..."""
    text = ascii_uppercase[index % 26]
    return text if index < 26 else _letters(index // 26 - 1) + text
