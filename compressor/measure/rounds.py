"""One round of a latency experiment: fresh processes, one a runtime, that pass a token."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from compressor.errors import MeasureError
from compressor.machine import core_numbers, usable_cores
from compressor.measure import noise
from compressor.measure.energy import Energy, Meter
from compressor.measure.processes import side_by_side
from compressor.measure.schedule import Arm, load_order, schedule
from compressor.measure.talk import Hung, Talker, decoded, encoded
from compressor.results import NULL, PADDED

if TYPE_CHECKING:
    from compressor.config import BenchConfig

CONTROLS = frozenset({NULL, PADDED})  # arms that are no candidate's own

_FEWEST_TURNS: Final = 2
_SETTLING: Final = 3  # ends the seed of a stream of random numbers of its own

Samples = Mapping[Arm, NDArray[np.int64]]  # [loads, blocks, texts] nanoseconds of one round


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What one round gave, by arm; an answer for each load."""

    samples: Samples
    answers: Mapping[Arm, Sequence[Mapping[str, Any]]]
    conditions: noise.Conditions
    energy: Mapping[Arm, Energy] = field(default_factory=dict)


class _Failed(Exception):
    """A process ended, or gave no answer, while one of these arms was asked."""

    def __init__(self, arms: Sequence[Arm], why: str, *, final: bool) -> None:
        super().__init__(why)
        self.arms, self.why, self.final = tuple(arms), why, final


def run_round(
    arms: dict[Arm, dict[str, str]],
    refusals: dict[Arm, str],
    bench: BenchConfig,
    workdir: Path,
    *,
    texts: int,
    seed: Sequence[int],
    meter: Meter | None = None,
) -> Taken:
    """Run one round in fresh processes, which load every model `bench.loads` times, each time in another order and place.

    Where a process ends, the round starts again; a second time, whoever was asked in both is refused, for the first may have
    been the system's doing. Who gives no answer is refused at once.
    """
    before: set[Arm] = set()
    while True:
        try:
            return _attempt(arms, refusals, bench, workdir, texts=texts, seed=seed, meter=meter)
        except _Failed as failed:
            for arm in failed.arms:
                if arm in arms and (failed.final or arm in before):
                    _drop(arm, failed.why, arms, refusals)
            before |= set(failed.arms)


def _drop(arm: Arm, why: str, arms: dict[Arm, dict[str, str]], refusals: dict[Arm, str]) -> None:
    place = arms.pop(arm)
    refusals[arm] = why
    if arm.name in CONTROLS:
        return
    for control in [Arm(arm.runtime, name) for name in CONTROLS]:  # of the first candidate: they go with it
        if control in arms and arms[control]["folder"] == place["folder"]:
            del arms[control]


def _attempt(
    arms: dict[Arm, dict[str, str]],
    refusals: dict[Arm, str],
    bench: BenchConfig,
    workdir: Path,
    *,
    texts: int,
    seed: Sequence[int],
    meter: Meter | None = None,
) -> Taken:
    answers: dict[Arm, list[dict[str, Any]]] = {arm: [] for arm in arms}
    blocks = bench.blocks // bench.loads
    samples = {arm: np.zeros((bench.loads, blocks, texts), np.int64) for arm in arms}
    spans: list[tuple[noise.Reading, noise.Reading]] = []
    with ExitStack() as stack:
        runtimes = dict.fromkeys(arm.runtime for arm in arms)
        first = {arm.runtime: arm for arm in reversed(load_order(list(arms), seed=seed))}  # who is loaded first
        workers = _Workers(
            {name: stack.enter_context(_worker(name, bench, workdir, arms[first[name]])) for name in runtimes}
        )
        for arm in first.values():
            workers.ask(arm, do="nothing")  # until all are ready, and import no more
        for load in range(bench.loads):
            order = load_order(list(arms), seed=seed, load=load)
            took = {arm: said[-1]["load_seconds"] for arm, said in answers.items() if said and arm in arms}
            for arm, answer in _loaded(workers, arms, bench, order, took).items():
                answers[arm].append(answer)
                if arm in arms and (why := answer.get("refusal")):
                    _drop(arm, why, arms, refusals)
            workers.ask_each(arms, do="begin")
            calls = list(schedule(list(arms), texts=texts, blocks=blocks, seed=seed, load=load))
            questions = [encoded(do="call", arm=call.arm.name, text=call.text) for call in calls]
            settled = _settle(workers, arms, bench, texts=texts, seed=[*seed, load])
            if meter is not None:
                (meter.resume if load else meter.begin)()  # everybody sleeps
            before = noise.read()
            said: list[bytes] = []
            for call, question in zip(calls, questions, strict=True):
                mark = None if meter is None else meter.read()
                said.append(workers.say(call.arm, question))
                if meter is not None:
                    meter.add(call.arm, mark)
            if meter is not None:
                meter.pause()
            spans.append((before, noise.read()))
            for (block, text, arm), line in zip(calls, said, strict=True):
                samples[arm][load, block, text] = decoded(line)["ns"]
            for arm, agreement in workers.ask_each(arms, do="end").items():
                answers[arm][-1] |= agreement
                answers[arm][-1]["calls"] += settled
    samples = {arm: samples[arm] for arm in arms}
    energy = {} if meter is None else meter.end(samples, threads=bench.threads)
    return Taken(samples=samples, answers=answers, conditions=noise.Conditions.during(spans), energy=energy)


def _loaded(
    workers: _Workers,
    arms: Mapping[Arm, Mapping[str, str]],
    bench: BenchConfig,
    order: Sequence[Arm],
    took: Mapping[Arm, float],
) -> dict[Arm, dict[str, Any]]:
    """Load and warm up the models and return what was said of each; those of a runtime in this order.

    The first loads, whose seconds are published, have the machine to themselves. Later ones of different runtimes go on side by
    side on all cores, for nobody is timed meanwhile; the runtime that `took` longest before begins.
    """
    lanes, together = [list(order)], max(1, usable_cores() // bench.threads)
    if took and together > 1:
        lanes = [[arm for arm in order if arm.runtime == name] for name in dict.fromkeys(arm.runtime for arm in order)]
        lanes.sort(key=lambda lane: -sum(took[arm] for arm in lane))
    if len(lanes) > 1:
        workers.ask_each(arms, do="roam")

    def go(lane: Sequence[Arm]) -> dict[Arm, dict[str, Any]]:
        said = {arm: workers.ask(arm, do="load", **arms[arm]) for arm in lane}
        for arm in (arm for arm in lane if "refusal" not in said[arm]):
            said[arm] |= workers.ask(arm, do="warm", calls=bench.warmup_calls)
        return said

    found = side_by_side(go, lanes, together)
    return {arm: answer for said in found for arm, answer in said.items()}


def _settle(workers: _Workers, arms: Collection[Arm], bench: BenchConfig, *, texts: int, seed: Sequence[int]) -> int:
    """Call all models in turn, as they will be timed, for the warm-up's seconds; return how many calls each got.

    Whoever was warmed up last finds its weights near: of five equal models with calls of 1.6 ms, warmed up one after another,
    the last took 22 % less than the first when they were first called in turn, and 3 % less after seven turns (0.06 s). Models
    with calls of 10 ms and more, whose weights no core holds, were 1 to 6 % off in the first turn and in no later one.
    """
    if not arms:  # all were refused
        return 0
    until, turns = time.monotonic() + bench.warmup_seconds, 0
    calls = schedule(list(arms), texts=texts, blocks=sys.maxsize, seed=[*seed, _SETTLING])
    while turns < _FEWEST_TURNS or time.monotonic() < until:
        for _, text, arm in islice(calls, len(arms)):
            workers.ask(arm, do="settle", text=text)
        turns += 1
    return turns


class _Workers:
    """The processes of a round, by runtime."""

    def __init__(self, talkers: Mapping[str, Talker]) -> None:
        self._talkers = talkers

    def ask(self, arm: Arm, **question: Any) -> dict[str, Any]:
        """Ask something of one arm."""
        return self._ask(arm.runtime, [arm], arm=arm.name, **question)

    def ask_each(self, arms: Collection[Arm], **question: Any) -> dict[Arm, Any]:
        """Ask every process; what it says of its arms by their names is returned."""
        said: dict[Arm, Any] = {}
        for runtime in self._talkers:
            if own := [arm for arm in arms if arm.runtime == runtime]:
                answer = self._ask(runtime, own, **question)
                said |= {arm: answer[arm.name] for arm in own if arm.name in answer}
        return said

    def say(self, arm: Arm, question: bytes) -> bytes:
        """Ask an encoded question of one arm, whose name is in it; return its answer as it came."""
        try:
            return self._talkers[arm.runtime].say(question)
        except MeasureError as error:
            raise _failed([arm], error) from error

    def _ask(self, runtime: str, about: Sequence[Arm], **question: Any) -> dict[str, Any]:
        try:
            return self._talkers[runtime].ask(**question)
        except MeasureError as error:
            raise _failed(about, error) from error


def _failed(about: Sequence[Arm], error: MeasureError) -> _Failed:
    return _Failed(about, error.got, final=isinstance(error, Hung))


def _worker(runtime: str, bench: BenchConfig, workdir: Path, first: Mapping[str, str]) -> Talker:
    """Start the process of a runtime, which gets ready with the model that it will be asked for first."""
    cores = core_numbers()
    return Talker(
        {"kind": "latency", "runtime": runtime, "threads": bench.threads, "first": first, "all_cores": cores},
        workdir / f"latency-{runtime}",
        name=f"timing on {runtime}",
        threads=bench.threads,
        timeout_s=bench.timeout_s,
        cores=cores[-bench.threads :] if bench.pin and bench.threads < len(cores) else (),
    )
