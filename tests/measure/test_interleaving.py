"""The timing loop, with sessions that only sleep: an instrument must see what is there and nothing else."""

from __future__ import annotations

import gc
import time

import numpy as np
import pytest

from compressor.compare.verdicts import Word, compare_latency
from compressor.measure.latency_job import time_interleaved
from compressor.runtimes.base import Inputs, Logits, Session

LENGTHS = (4, 6, 8, 10, 12)


class Sleeper(Session):
    """Takes 0.1 ms a token, times a factor."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor
        self.calls: list[int] = []

    def run(self, inputs: Inputs) -> Logits:
        length = inputs["input_ids"].shape[1]
        self.calls.append(length)
        time.sleep(length * 1e-4 * self.factor)
        return np.zeros((1, 2), np.float32)


INPUTS = [{"input_ids": np.zeros((1, n), np.int64)} for n in LENGTHS]


def measure(blocks: int = 8, **sessions: Sleeper):
    return time_interleaved(sessions, dict.fromkeys(sessions, INPUTS), blocks=blocks, warmup_calls=2, seed=0)


def test_every_text_is_issued_equally_often() -> None:
    a, b = Sleeper(), Sleeper()
    samples, outputs = measure(blocks=5, a=a, b=b)
    for session in (a, b):
        warm, timed = session.calls[: len(LENGTHS)], session.calls[len(LENGTHS) :]
        assert sorted(warm) == sorted(LENGTHS)  # every shape is seen before it is timed
        assert {n: timed.count(n) for n in LENGTHS} == dict.fromkeys(LENGTHS, 5)
    assert samples["a"].shape == (5, len(LENGTHS))
    assert len(outputs["a"]) == len(LENGTHS)
    assert gc.isenabled()


def test_samples_stand_under_their_text() -> None:
    samples, _ = measure(a=Sleeper())
    assert (np.diff(np.median(samples["a"], axis=0)) > 0).all()


@pytest.mark.parametrize("factor", [1.5, 2.0])
def test_an_injected_slowdown_is_named(factor: float) -> None:
    samples, _ = measure(base=Sleeper(), slow=Sleeper(factor), null=Sleeper())
    verdict = compare_latency(
        samples["slow"], samples["base"], null_ns=samples["null"], names=("slow", "base"), runtime="torch", seed=0
    )
    assert verdict.word is Word.slower
    assert verdict.speed_up.ratio == pytest.approx(1 / factor, rel=0.2)


def test_equal_sessions_are_not_far_apart() -> None:
    samples, _ = measure(base=Sleeper(), same=Sleeper())
    verdict = compare_latency(samples["same"], samples["base"], names=("same", "base"), runtime="torch", seed=0)
    assert verdict.speed_up.ratio == pytest.approx(1.0, rel=0.15)
