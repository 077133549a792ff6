"""Holm's correction against Holm's own procedure and closed testing; the best set on data whose answer is known."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from compressor.compare.multiplicity import best_set, holm
from compressor.tasks.metrics import Accuracy

LABELS = ("no", "yes")


def test_holm_by_hand() -> None:
    # 0.005 * 4, 0.01 * 3, 0.03 * 2, then 0.04 * 1, which may not be below the one before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02], abs=1e-15)
    assert holm([0.7, 0.6]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def closed_testing(p_values: Sequence[float]) -> list[float]:
    """Adjust by Bonferroni tests of every intersection that holds the hypothesis (Marcus, Peritz & Gabriel 1976)."""
    m = len(p_values)
    subsets = [s for size in range(1, m + 1) for s in itertools.combinations(range(m), size)]
    return [max(min(1.0, len(s) * min(p_values[j] for j in s)) for s in subsets if i in s) for i in range(m)]


def rejected(p_values: Sequence[float], level: float) -> set[int]:
    """Step down as Holm wrote it."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    out: set[int] = set()
    for step, i in enumerate(order):
        if p_values[i] > level / (len(order) - step):
            break
        out.add(i)
    return out


def test_holm_equals_closed_testing_and_its_own_procedure() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        raw = list(rng.random(rng.integers(1, 7)) ** 3)
        found = holm(raw)
        assert found == pytest.approx(closed_testing(raw), abs=1e-9)
        for level in (0.01, 0.05, 0.2):
            assert {i for i, p in enumerate(found) if p <= level} == rejected(raw, level)


@pytest.mark.parametrize("bad", [float("nan"), -0.1, 1.1])
def test_holm_refuses_what_is_no_p_value(bad: float) -> None:
    with pytest.raises(ValueError, match="allowed: 0 to 1"):
        holm([0.5, bad])


def test_holm_keeps_the_family_level() -> None:
    rng = np.random.default_rng(1)
    null = rng.random((2000, 6))
    raw = (null.min(axis=1) <= 0.05).mean()
    kept = np.mean([min(holm(row)) <= 0.05 for row in null])
    assert raw > 0.2
    assert 0.03 < kept < 0.065  # 0.05 within three standard errors


def answers(n: int, wrong: Sequence[int]) -> np.ndarray:
    found = np.ones(n, int)
    found[list(wrong)] = 0
    return found


def test_the_best_set_holds_ties_and_leaves_out_what_is_clearly_worse() -> None:
    n = 500
    predictions = {
        "poor": answers(n, range(100)),
        "best": answers(n, range(20)),
        "close": answers(n, range(10, 33)),
    }
    found = best_set(Accuracy(), predictions, np.ones(n, int), LABELS, seed=0)
    assert found.best == "best"
    assert found.members == ("best", "close")
    assert set(found.p_values) == {"poor", "close"}
    # 10 against 13 discordant for `close`; 80 against none for `poor`, doubled by Holm.
    assert found.p_values["poor"] == pytest.approx(2 * 2 * 0.5**80)
    assert found.p_values["close"] > 0.6


def test_one_candidate_is_the_best_and_none_is_an_error() -> None:
    alone = best_set(Accuracy(), {"only": [0, 1]}, [0, 1], LABELS, seed=0)
    assert (alone.best, alone.members, alone.p_values) == ("only", ("only",), {})
    with pytest.raises(ValueError, match="no candidates"):
        best_set(Accuracy(), {}, [], LABELS, seed=0)


class ErrorRate(Accuracy):
    name = "error_rate"
    higher_is_better = False

    def of_sums(self, sums):
        return 1 - super().of_sums(sums)


def test_the_best_of_a_loss_is_the_lowest() -> None:
    predictions = {"a": answers(200, range(60)), "b": answers(200, range(5))}
    found = best_set(ErrorRate(), predictions, np.ones(200, int), LABELS, seed=0)
    assert found.best == "b"
    assert found.members == ("b",)


def test_among_equals_a_given_one_is_seldom_left_out() -> None:
    rng, runs, k = np.random.default_rng(2), 250, 5
    dropped = np.zeros(k)
    for seed in range(runs):
        predictions = {str(i): (rng.random(300) < 0.8).astype(int) for i in range(k)}
        found = best_set(Accuracy(), predictions, np.ones(300, int), LABELS, seed=seed)
        dropped += [str(i) not in found.members for i in range(k)]
    assert dropped.sum() > 0, "a test that never rejects would pass too"
    assert dropped.mean() / runs < 0.05
