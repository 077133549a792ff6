"""Worker side of `latency`: all candidates in one process, interleaved call by call."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressor.artifact import Form
from compressor.measure.latency import MAX_LOGIT_DIFFERENCE
from compressor.measure.worker import opener
from compressor.measure.workload import Replay
from compressor.runtimes import RUNTIMES, Session
from compressor.runtimes.base import Inputs, Logits

_HUGE = 1e30  # JSON has no infinity
# A score counts as the same within this share of the expected scores' standard deviation. Where all are, timed and expected
# scores correlate with at least sqrt(1 - 0.1^2) = 0.995.
_SAME_SCORE = 0.1


def run(job: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Load every candidate, replay the workload, and write `samples.parquet`; a candidate that fails is left out."""
    runtime = RUNTIMES[job["runtime"]]

    def open_model(folder: Path) -> Any:
        return opener(job)(folder).model

    sessions: dict[str, Session] = {}
    replays: dict[str, Replay] = {}
    answer: dict[str, Any] = {"refusals": {}, "agreement": {}, "load_seconds": {}}
    with ExitStack() as stack:
        for candidate in job["candidates"]:
            name, replay = candidate["name"], Replay.load(Path(candidate["replay"]))
            started = time.perf_counter()
            try:
                folder, form = Path(candidate["folder"]), Form(candidate["form"])
                session = stack.enter_context(runtime.load(folder, form, job["threads"], open_model=open_model))
                session.run(replay.inputs[0])
            except Exception as error:  # whatever a runtime raises becomes this candidate's refusal, in its own words
                answer["refusals"][name] = " ".join(f"{type(error).__name__}: {error}".split())[:600]
                continue
            sessions[name], replays[name] = session, replay
            answer["load_seconds"][name] = time.perf_counter() - started
        if sessions and job["blocks"]:
            samples, outputs = time_interleaved(
                sessions,
                {name: replay.inputs for name, replay in replays.items()},
                blocks=job["blocks"],
                warmup_calls=job["warmup_calls"],
                seed=job["seed"],
            )
            _save(out, samples)
            answer["agreement"] = {name: _agreement(replays[name], outputs[name]) for name in sessions}
    answer["timed"] = list(sessions)
    return answer


def time_interleaved(
    sessions: Mapping[str, Session],
    inputs: Mapping[str, Sequence[Inputs]],
    *,
    blocks: int,
    warmup_calls: int,
    seed: int,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
) -> tuple[dict[str, NDArray[np.int64]], dict[str, list[Logits]]]:
    """Time every session on every input, once a block.

    In each block the inputs come in fresh random order, and each input visits the sessions in fresh random order, so
    that drift of the machine falls on all of them alike.

    Returns:
        Nanoseconds as name -> [blocks, inputs], and the outputs of the first timed block by name.
    """
    names = list(sessions)
    count = len(inputs[names[0]])
    samples = {name: np.zeros((blocks, count), np.int64) for name in names}
    outputs: dict[str, list[Logits]] = {name: [np.empty(0, np.float32)] * count for name in names}
    rng = np.random.default_rng(seed)
    for name in names:
        _warm_up(sessions[name], inputs[name], warmup_calls)
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        for block in range(blocks):
            for i in rng.permutation(count):
                for k in rng.permutation(len(names)):
                    name = names[k]
                    session, batch = sessions[name], inputs[name][i]
                    started = clock_ns()
                    logits = session.run(batch)
                    samples[name][block, i] = clock_ns() - started
                    if block == 0:
                        outputs[name][i] = logits.copy()
    finally:
        gc.enable()
        gc.unfreeze()
    return samples, outputs


def _warm_up(session: Session, inputs: Sequence[Inputs], calls: int) -> None:
    """Run every distinct shape once, since engines prepare each on first sight, then until `calls` are made."""
    shapes = {next(iter(batch.values())).shape: batch for batch in inputs}
    for call in range(max(calls, len(shapes))):
        session.run(list(shapes.values())[call % len(shapes)])


def _agreement(replay: Replay, outputs: Sequence[Logits]) -> dict[str, float]:
    """Compare the timed run's predictions with the scoring run's: classes, or scores where there is one logit."""
    spread = float(np.concatenate(replay.expected).std()) if replay.expected[0].shape[-1] == 1 else 0.0
    tolerance = max(_SAME_SCORE * spread, MAX_LOGIT_DIFFERENCE)  # scores that hardly differ still have float noise
    same = rows = 0
    worst = 0.0
    for i, (expected, logits) in enumerate(zip(replay.expected, outputs, strict=True)):
        found = replay.rows(i, logits)
        if found.shape != expected.shape:
            return {"same_prediction_rate": 0.0, "max_logit_difference": _HUGE}
        if expected.shape[-1] == 1:  # argmax would be 0 whatever the score
            same += int((np.abs(found - expected) <= tolerance).sum())
        else:
            same += int((found.argmax(-1) == expected.argmax(-1)).sum())
        rows += len(found)
        worst = max(worst, float(np.abs(found - expected).max(initial=0.0)))
    finite = worst if np.isfinite(worst) else _HUGE
    return {"same_prediction_rate": same / max(rows, 1), "max_logit_difference": finite}


def _save(out: Path, samples: Mapping[str, NDArray[np.int64]]) -> None:
    """Write one row a call: candidate, block, text, ns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: dict[str, list[Any]] = {"candidate": [], "block": [], "text": [], "ns": []}
    for name, values in samples.items():
        blocks, texts = np.indices(values.shape)
        rows["candidate"] += [name] * values.size
        rows["block"] += blocks.ravel().tolist()
        rows["text"] += texts.ravel().tolist()
        rows["ns"] += values.ravel().tolist()
    pq.write_table(pa.table(rows), out / "samples.parquet")
