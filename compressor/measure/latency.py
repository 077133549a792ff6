"""Latency of several models on several runtimes, all measured against each other in one interleaved experiment.

A round has one process a runtime, each with all the models that the runtime takes. They pass a token: whoever was asked
computes, the others sleep. So a ratio between two models of one runtime, and one between two runtimes, come from calls
that stand side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from compressor.artifact import Form
from compressor.config import EAGER
from compressor.measure import noise
from compressor.measure.accuracy import AccuracyResult
from compressor.measure.energy import Energy, Meter, total
from compressor.measure.rounds import Samples, Taken, run_round
from compressor.measure.schedule import Arm
from compressor.results import NULL, PADDED
from compressor.runtimes import Runtime, get_runtime

if TYPE_CHECKING:
    from compressor.config import BenchConfig

MAX_LOGIT_DIFFERENCE = 1e-3  # between float32 runs of one model
MIN_AGREEMENT = 0.9  # of predictions, for models whose arithmetic is not exact


class Complaint(NamedTuple):
    """Why a round is doubtful, on one runtime or (None) on all."""

    runtime: str | None
    text: str


Judge = Callable[[Samples], list[Complaint]]  # what speaks against a round, by its samples


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencySamples:
    """One model's calls on one runtime.

    Attributes:
        samples_ns: [rounds, loads, blocks, batches] nanoseconds; the same texts in every row. The loads of all attempts at a
            round that count stand one after another.
        load_seconds: The first load of a process, libraries imported and files warm, median over what counts.
        first_call_seconds: The first call after it.
        warmup_calls: The fewest calls between a load and the first timed one.
        same_prediction_rate: Share of timed predictions that are those of the scoring run (scores: nearly).
        max_logit_difference: Largest difference from the scoring run's logits.
        energy: What all its calls together took, in all rounds, or in those attempts at a single one that can tell; None
            unless a meter was given and could tell.
    """

    samples_ns: NDArray[np.int64]
    load_seconds: float
    first_call_seconds: float
    warmup_calls: int
    same_prediction_rate: float
    max_logit_difference: float
    energy: Energy | None = None

    @property
    def p50_ms(self) -> float:
        """Median over all calls, in milliseconds."""
        return float(np.median(self.samples_ns)) / 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """How one attempt at a round went; after a doubtful one another is made, as often as `bench.repeats` says.

    Attributes:
        number: Of the round, from 0.
        attempt: Of the round, from 0.
        kept: Whether its samples count, see `counting`.
        complaints: Why it is doubtful.
        conditions: What the machine said.
    """

    number: int
    attempt: int
    kept: bool
    complaints: tuple[Complaint, ...]
    conditions: noise.Conditions


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyResult:
    """What the experiment found on one runtime.

    Attributes:
        runtime: The runtime.
        threads: Threads of a call.
        batch_size: Texts a call.
        timed: Samples by candidate name, in the order given; refused ones are missing.
        null: The first candidate loaded a second time; None when it was refused.
        padded: The first candidate on padded texts; None where that was not asked for or refused.
        refusals: Why a candidate, or an arm of the first beside it, could not be timed, in the runtime's own words.
    """

    runtime: str
    threads: int
    batch_size: int
    timed: Mapping[str, LatencySamples]
    null: LatencySamples | None
    refusals: Mapping[str, str]
    padded: LatencySamples | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyRun:
    """The whole experiment: results in the order of `bench.runtimes`, and every round that was run."""

    runtimes: tuple[LatencyResult, ...]
    rounds: tuple[Round, ...]


def measure_latency(
    candidates: Sequence[AccuracyResult],
    bench: BenchConfig,
    workdir: Path,
    *,
    seed: int,
    judge: Judge = lambda samples: [],
    texts: Mapping[str, Path] | None = None,
    meter: Meter | None = None,
    padded: Path | None = None,
) -> LatencyRun:
    """Time the candidates on every runtime of `bench`, interleaved, with a second load of the first as the null arm of each.

    A candidate that a runtime does not take, that takes the process down, or whose timed predictions are not those of its
    scoring run, is refused with a reason and has no latency.

    Args:
        candidates: Scored candidates with a replay, the one to compare with first.
        bench: Runtimes, threads, batch size, rounds, loads, blocks, warm-up and timeout.
        workdir: Folder for the jobs.
        seed: Seed of the random orders.
        judge: Tells by its samples whether a round is to be trusted.
        texts: Files of `raw_texts`, by candidate: a call then begins with the texts of its batch.
        meter: Counts the energy of each call.
        padded: The first candidate's replay after `pad_replay`: in eager torch it is timed on those texts as well.
    """
    first = candidates[0].candidate.name
    start = next((name for name in EAGER if name in bench.runtimes), None)
    arms: dict[Arm, dict[str, str]] = {}
    refusals: dict[Arm, str] = {}
    for runtime in bench.runtimes:
        engine = get_runtime(runtime)
        for scored in candidates:
            arm = Arm(runtime, scored.candidate.name)
            if why := _unfit(scored, engine):
                refusals[arm] = why
                continue
            arms[arm] = _place(scored, engine)
            if texts is not None:
                arms[arm]["texts"] = str(texts[arm.name].resolve())
            if arm.name == first:
                arms[Arm(runtime, NULL)] = arms[arm]
                if padded is not None and runtime == start:
                    arms[Arm(runtime, PADDED)] = {**arms[arm], "replay": str(padded.resolve())}
    batches = _batches(candidates)
    kept: list[Taken] = []
    rounds: list[Round] = []
    for number in range(bench.rounds if arms else 0):
        tried: list[Taken] = []
        complaints: list[tuple[Complaint, ...]] = []
        for attempt in range(bench.repeats + 1):
            order = [seed, number, attempt]
            taken = run_round(arms, refusals, bench, workdir, texts=batches, seed=order, meter=meter)
            tried.append(taken)
            complaints.append((*(Complaint(None, c) for c in taken.conditions.complaints()), *judge(taken.samples)))
            if not complaints[-1]:
                break
        counts = counting(complaints, bench)
        kept += [taken for taken, counted in zip(tried, counts, strict=True) if counted]
        rounds += [
            Round(number=number, attempt=i, kept=counts[i], complaints=complaints[i], conditions=taken.conditions)
            for i, taken in enumerate(tried)
        ]
    exact = {c.candidate.name: c.exact for c in candidates}
    names = [c.candidate.name for c in candidates]
    results = [_result(runtime, names, exact, arms, kept, refusals, bench) for runtime in bench.runtimes]
    return LatencyRun(runtimes=tuple(results), rounds=tuple(rounds))


def counting(complaints: Sequence[Sequence[object]], bench: BenchConfig) -> list[bool]:
    """Tell which attempts at a round count, by what speaks against each: the last, or where all are doubtful perhaps all.

    Where the machine disturbs every attempt none is better than another, and together they tell most: of a single round they
    are further loads, if loads come in whole pairs. Of several rounds, which weigh alike, each has one attempt that counts.
    """
    together = bool(complaints[-1]) and bench.rounds == 1 and bench.loads % 2 == 0
    return [together or i == len(complaints) - 1 for i in range(len(complaints))]


def _batches(candidates: Sequence[AccuracyResult]) -> int:
    """Return the number of batches of the workload, which is every candidate's."""
    from compressor.measure.workload import Replay

    return next((len(Replay.load(c.replay).inputs) for c in candidates if c.replay is not None), 0)


def _unfit(scored: AccuracyResult, engine: Runtime) -> str | None:
    """Return why this artifact is not even tried on this runtime."""
    form = scored.candidate.form
    if why := engine.available():
        return why
    if not engine.accepts(form):
        return f"{engine.name} does not execute artifacts of form {form.value}"
    if form is Form.torch and engine.needs_export and scored.onnx is None:
        return scored.export_refusal or "it was not exported to ONNX"
    if scored.replay is None:
        return "its texts were not tokenised when it was scored"
    return None


def _place(scored: AccuracyResult, engine: Runtime) -> dict[str, str]:
    folder = scored.candidate.folder
    if scored.candidate.form is Form.torch and engine.needs_export:
        assert scored.onnx is not None
        folder = scored.onnx
    return {
        "folder": str(folder.resolve()),
        "form": scored.candidate.form.value,
        "replay": str((scored.replay or Path()).resolve()),
    }


def _result(
    runtime: str,
    names: Sequence[str],
    exact: Mapping[str, bool],
    arms: Mapping[Arm, object],
    kept: Sequence[Taken],
    refusals: Mapping[Arm, str],
    bench: BenchConfig,
) -> LatencyResult:
    """Put what counts together for one runtime; an arm that fell out of a later round or attempt is refused by then."""
    why = {arm.name: text for arm, text in refusals.items() if arm.runtime == runtime}
    found = {arm.name: _joined(arm, kept, bench) for arm in arms if arm.runtime == runtime}
    null, padded = found.pop(NULL, None), found.pop(PADDED, None)
    timed = {}
    fp32 = get_runtime(runtime).precision == "fp32"
    for name in names:
        if name not in found:
            continue
        if disagreement := _disagreement(found[name], exact[name] and fp32):
            why[name] = disagreement
        else:
            timed[name] = found[name]
    if null is not None and (disagreement := _disagreement(null, exact[names[0]] and fp32)):
        why[NULL], null = disagreement, None
    if padded is not None and (disagreement := _disagreement(padded, exact[names[0]])):
        why[PADDED], padded = disagreement, None
    if names[0] not in timed:  # whoever is loaded first falls first: of the arms beside it nothing is known
        why.pop(NULL, None)
    return LatencyResult(
        runtime=runtime,
        threads=bench.threads,
        batch_size=bench.batch_size,
        timed=timed,
        null=null if names[0] in timed else None,
        refusals=why,
        padded=padded if names[0] in timed else None,
    )


def _joined(arm: Arm, kept: Sequence[Taken], bench: BenchConfig) -> LatencySamples:
    samples, energy = [taken.samples[arm] for taken in kept], [taken.energy.get(arm) for taken in kept]
    if bench.rounds == 1:  # attempts at one, some of which may tell what others cannot
        samples = [np.concatenate(samples)]
        energy = [e for e in energy if e is not None and e.joules is not None] or energy[-1:]
    answers = [answer for taken in kept for answer in taken.answers[arm]]
    firsts = [taken.answers[arm][0] for taken in kept]
    return LatencySamples(
        samples_ns=np.stack(samples),
        load_seconds=float(np.median([a["load_seconds"] for a in firsts])),
        first_call_seconds=float(np.median([a["first_call_seconds"] for a in firsts])),
        warmup_calls=min(a["calls"] for a in answers),
        same_prediction_rate=min(a["same_prediction_rate"] for a in answers),
        max_logit_difference=max(a["max_logit_difference"] for a in answers),
        energy=total(energy),
    )


def _disagreement(samples: LatencySamples, exact: bool) -> str | None:
    """Return why these predictions are not the saved model's, or None."""
    rate, worst = samples.same_prediction_rate, samples.max_logit_difference
    if exact and (worst > MAX_LOGIT_DIFFERENCE or rate < 1):
        return (
            f"it gives other results than the saved model: logits differ by up to {worst:.1e} "
            f"(allowed {MAX_LOGIT_DIFFERENCE:.0e}), {rate:.1%} of the predictions are the same"
        )
    if rate < MIN_AGREEMENT:
        return f"only {rate:.1%} of its predictions are those of the saved model (allowed from {MIN_AGREEMENT:.0%})"
    return None
