"""Verdicts: three-way, never from significance alone, and in words a reader can use."""

from __future__ import annotations

import numpy as np
import pytest

from compressor.compare.verdicts import Word, compare_accuracy, compare_latency, noise_of
from compressor.tasks.metrics import Accuracy, Pearson, Spearman

NAMES = ("student", "teacher")


def judge(n: int, lost: int, gained: int, wrong: int = 0, **options: object) -> object:
    """Judge a student that loses and gains so many of n examples; both get `wrong` wrong."""
    references = np.zeros(n, int)
    ours, theirs = references.copy(), references.copy()
    ours[:lost] = 1
    theirs[lost : lost + gained] = 1
    ours[n - wrong :] = theirs[n - wrong :] = 1 if wrong else 0
    return compare_accuracy(Accuracy(), ours, theirs, references, ("a", "b"), names=NAMES, seed=0, **options)


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


@pytest.mark.parametrize(
    ("margin", "word"), [(0.01, Word.worse), (0.08, Word.worse), (0.09, Word.equivalent), (0.2, Word.equivalent)]
)
def test_the_margin_is_a_share_of_the_baselines_value(margin: float, word: Word) -> None:
    verdict = judge(2000, 80, 20, wrong=1000, margin=margin)
    assert verdict.margin == pytest.approx(margin * 0.49)  # the teacher gets 980 of 2,000 right
    assert verdict.ci95.low == pytest.approx(-0.04, abs=0.001)
    assert verdict.word is word


@pytest.mark.parametrize(
    ("n", "lost", "gained", "keeps_99", "keeps_999"),
    [
        (20_000, 2, 2, True, True),
        (20_000, 60, 20, True, False),
        (2000, 60, 20, False, False),
        (200, 0, 0, False, False),  # two hundred equal answers do not show it
        (50_000, 0, 0, True, True),
    ],
)
def test_the_gates_are_held_against_the_whole_interval(
    n: int, lost: int, gained: int, keeps_99: bool, keeps_999: bool
) -> None:
    verdict = judge(n, lost, gained)
    assert (verdict.keeps_99, verdict.keeps_999) == (keeps_99, keeps_999)
    whole = 1 - gained / n
    assert verdict.keeps_99 == (verdict.ci95.low >= -0.01 * whole)
    assert verdict.keeps_999 == (verdict.ci95.low >= -0.001 * whole)


class Loss(Accuracy):
    name = "loss"
    higher_is_better = False

    def of_sums(self, sums):
        return 1 - super().of_sums(sums)


def test_the_gates_of_a_loss_look_the_other_way() -> None:
    references = np.zeros(2000, int)
    poor, good = (np.arange(2000) < wrong for wrong in (1000, 500))
    better = compare_accuracy(Loss(), good, poor, references, ("a", "b"), names=NAMES, seed=0)
    worse = compare_accuracy(Loss(), poor, good, references, ("a", "b"), names=NAMES, seed=0)
    assert (better.word, better.keeps_999) == (Word.better, True)
    assert (worse.word, worse.keeps_99) == (Word.worse, False)


def test_every_metric_has_a_p_value() -> None:
    rng = np.random.default_rng(0)
    references = rng.normal(size=200)
    ours, theirs = references + rng.normal(size=200), references + 0.2 * rng.normal(size=200)
    for metric in (Pearson(), Spearman()):
        verdict = compare_accuracy(metric, ours, theirs, references, (), names=NAMES, seed=0)
        assert verdict.word is Word.worse
        assert 0 < verdict.p_value < 0.001
        same = compare_accuracy(metric, theirs, theirs, references, (), names=NAMES, seed=0)
        assert same.p_value == 1.0
    # Four of four discordant pairs against the student.
    assert judge(200, 4, 0).p_value == pytest.approx(2 * 0.5**4)


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
    base, fast, null = samples(1, 1), samples(0.93, 2), samples(0.94, 3)
    alone = compare_latency(fast, base, names=NAMES, runtime="torch", seed=0)
    beside = compare_latency(fast, (base, null), null=(base, null), names=NAMES, runtime="torch", seed=0)
    assert alone.word is Word.faster
    assert beside.word is Word.inconclusive
    assert beside.unstable
    assert "noisy" in beside.sentence()


def test_an_instrument_that_strays_by_more_than_the_margin_calls_nothing_equivalent() -> None:
    base, same = samples(1, 1), samples(0.995, 2)
    for strayed, word in ((0.995, Word.equivalent), (0.98, Word.inconclusive)):
        null = (base, samples(strayed, 3))
        assert compare_latency(same, base, null=null, names=NAMES, runtime="torch", seed=0).word is word


def test_equal_models_are_never_called_different() -> None:
    for seed in range(100):
        verdict = compare_latency(
            samples(1, 2 * seed, 0.02), samples(1, 2 * seed + 1, 0.02), names=NAMES, runtime="torch", seed=seed
        )
        assert verdict.word in (Word.equivalent, Word.inconclusive)


@pytest.mark.parametrize(("null", "noise"), [(None, 0.01), (1.002, 0.01), (0.992, 0.01), (1.016, 0.016), (0.95, 0.05)])
def test_the_threshold_is_as_far_as_the_null_arm_strayed(null: float | None, noise: float) -> None:
    assert noise_of(null) == pytest.approx(noise)
