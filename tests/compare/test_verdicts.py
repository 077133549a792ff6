"""Verdicts: three-way, never from significance alone, and in words a reader can use."""

from __future__ import annotations

import numpy as np
import pytest

from compressor.compare.verdicts import Word, compare_accuracy, compare_latency
from compressor.tasks.metrics import Accuracy

NAMES = ("student", "teacher")


def judge(n: int, lost: int, gained: int, wrong: int = 0) -> object:
    """Judge a student that loses and gains so many of n examples; both get `wrong` wrong."""
    references = np.zeros(n, int)
    ours, theirs = references.copy(), references.copy()
    ours[:lost] = 1
    theirs[lost : lost + gained] = 1
    ours[n - wrong :] = theirs[n - wrong :] = 1 if wrong else 0
    return compare_accuracy(Accuracy(), ours, theirs, references, ("a", "b"), names=NAMES, seed=0)


@pytest.mark.parametrize(
    ("n", "lost", "gained", "word"),
    [
        (2000, 100, 20, Word.worse),
        (2000, 20, 100, Word.better),
        (2000, 6, 5, Word.equivalent),
        (200, 8, 4, Word.inconclusive),
        (2000, 0, 0, Word.equivalent),
        (50, 0, 0, Word.inconclusive),  # fifty equal answers do not show 1 %
    ],
)
def test_accuracy(n: int, lost: int, gained: int, word: Word) -> None:
    verdict = judge(n, lost, gained)
    assert verdict.word is word
    assert verdict.difference == pytest.approx((gained - lost) / n)
    assert "student" in verdict.sentence() and "teacher" in verdict.sentence()


def test_a_significant_loss_within_the_margin_is_equivalent() -> None:
    verdict = judge(20_000, 60, 20)
    assert verdict.p_value < 0.001
    assert verdict.word is Word.equivalent


def test_an_inconclusive_sentence_says_what_could_be_found() -> None:
    verdict = judge(200, 8, 4)
    assert f"from {verdict.detectable * 100:.1f} points" in verdict.sentence()


def samples(factor: float, seed: int, noise: float = 0.004) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (1e7 * factor * rng.lognormal(0, noise, (12, 20))).astype(np.int64)


@pytest.mark.parametrize(
    ("factor", "noise", "word"),
    [
        (0.5, 0.01, Word.faster),
        (1.5, 0.01, Word.slower),
        (1.002, 0.004, Word.equivalent),
        (0.985, 0.5, Word.inconclusive),
    ],
)
def test_latency(factor: float, noise: float, word: Word) -> None:
    verdict = compare_latency(samples(factor, 1, noise), samples(1, 2, noise), names=NAMES, runtime="torch", seed=0)
    assert verdict.word is word
    assert "torch" in verdict.sentence()


def test_a_null_arm_that_strays_widens_the_threshold_and_is_told() -> None:
    base, fast, null = samples(1, 1), samples(0.96, 2), samples(0.94, 3)
    alone = compare_latency(fast, base, names=NAMES, runtime="torch", seed=0)
    beside = compare_latency(fast, base, null_ns=null, names=NAMES, runtime="torch", seed=0)
    assert alone.word is Word.faster
    assert beside.word is Word.inconclusive
    assert beside.unstable
    assert "noisy" in beside.sentence()


def test_equal_models_are_never_called_different() -> None:
    for seed in range(100):
        verdict = compare_latency(
            samples(1, 2 * seed, 0.02), samples(1, 2 * seed + 1, 0.02), names=NAMES, runtime="torch", seed=seed
        )
        assert verdict.word in (Word.equivalent, Word.inconclusive)
