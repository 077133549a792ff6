"""The order of calls, with sessions that only sleep: an instrument must see what is there and nothing else."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import pytest

from compressor.compare.verdicts import Word, compare_latency
from compressor.measure.latency_job import timed
from compressor.measure.schedule import Arm, load_order, schedule
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


def measure(blocks: int = 8, **sessions: Sleeper) -> dict[str, np.ndarray]:
    samples = {name: np.zeros((blocks, len(LENGTHS)), np.int64) for name in sessions}
    for block, text, arm in schedule([Arm("r", n) for n in sessions], texts=len(LENGTHS), blocks=blocks, seed=[0]):
        samples[arm.name][block, text], _ = timed(sessions[arm.name], INPUTS[text])
    return samples


ARMS = [Arm(runtime, name) for runtime in ("torch", "onnxruntime") for name in ("teacher", "student", "null")]


def test_every_arm_sees_every_text_once_a_block_and_neighbours_are_of_one_text() -> None:
    calls = list(schedule(ARMS, texts=5, blocks=4, seed=[0]))
    assert Counter(calls) == Counter((b, t, arm) for b in range(4) for t in range(5) for arm in ARMS)
    for start in range(0, len(calls), len(ARMS)):
        together = calls[start : start + len(ARMS)]
        assert {(c.block, c.text) for c in together} == {(together[0].block, together[0].text)}


def test_no_arm_is_favoured_by_its_place_or_by_who_comes_before_it() -> None:
    texts, blocks = 20, 400
    calls = list(schedule(ARMS, texts=texts, blocks=blocks, seed=[1]))
    places, before = dict.fromkeys(ARMS, 0.0), Counter[tuple[Arm, Arm]]()
    for i, call in enumerate(calls):
        places[call.arm] += i % len(ARMS) / (texts * blocks)
        before[calls[i - 1].arm, call.arm] += 1
    assert list(places.values()) == pytest.approx([2.5] * len(ARMS), abs=0.15)
    pairs = [before[one, other] for one in ARMS for other in ARMS if one != other]
    assert min(pairs) > 0.8 * np.mean(pairs) and max(pairs) < 1.2 * np.mean(pairs)


@pytest.mark.parametrize(("arms", "soonest"), [(2, 2), (3, 3), (6, 5), (9, 7)])
def test_within_a_block_nobody_is_called_again_before_most_others_were(arms: int, soonest: int) -> None:
    calls = list(schedule([Arm("r", str(i)) for i in range(arms)], texts=30, blocks=4, seed=[0]))
    last: dict[Arm, int] = {}
    gaps = []
    for i, call in enumerate(calls):
        if call.arm in last and calls[last[call.arm]].block == call.block:
            gaps.append(i - last[call.arm])
        last[call.arm] = i
    assert min(gaps) == soonest


def test_three_arms_keep_their_order_for_a_block_and_the_next_turns_it_round() -> None:
    arms = ARMS[:3]
    calls = list(schedule(arms, texts=5, blocks=4, seed=[0]))
    turns = [[[c.arm for c in calls[i : i + 3]] for i in range(block * 15, block * 15 + 15, 3)] for block in range(4)]
    assert all(turn == block[0] for block in turns for turn in block)
    assert turns[1][0] == turns[0][0][::-1] and turns[3][0] == turns[2][0][::-1]


def test_three_arms_with_a_block_a_load_turn_round_from_load_to_load() -> None:
    turns = []
    for load in range(4):
        calls = list(schedule(ARMS[:3], texts=5, blocks=1, seed=[0], load=load))
        turns.append([c.arm for c in calls[:3]])
        assert [c.arm for c in calls] == turns[-1] * 5
    assert turns[1] == turns[0][::-1] and turns[3] == turns[2][::-1]


def test_rounds_differ_and_a_seed_repeats() -> None:
    first, again, other = (list(schedule(ARMS, texts=5, blocks=2, seed=[0, r])) for r in (0, 0, 1))
    assert first == again != other


def test_samples_stand_under_their_text() -> None:
    samples = measure(a=Sleeper())
    assert (np.diff(samples["a"].min(axis=0)) > 0).all()  # the least: whatever else runs only adds


@pytest.mark.parametrize("factor", [1.5, 2.0])
def test_an_injected_slowdown_is_named(factor: float) -> None:
    samples = measure(base=Sleeper(), slow=Sleeper(factor), null=Sleeper())
    loads = samples["base"], samples["null"]
    verdict = compare_latency(samples["slow"], loads, null=loads, names=("slow", "base"), runtime="torch", seed=0)
    assert verdict.word is Word.slower
    assert verdict.speed_up.ratio == pytest.approx(1 / factor, rel=0.2)


def test_equal_sessions_are_not_far_apart() -> None:
    samples = measure(base=Sleeper(), same=Sleeper())
    verdict = compare_latency(samples["same"], samples["base"], names=("same", "base"), runtime="torch", seed=0)
    assert verdict.speed_up.ratio == pytest.approx(1.0, rel=0.15)


def test_nobody_is_loaded_first_more_often_than_others() -> None:
    arms = [Arm("torch", name) for name in "abc"]
    orders = [load_order(arms, seed=[0, number]) for number in range(600)]
    assert all(sorted(order) == arms for order in orders)
    assert orders[0] == load_order(arms, seed=[0, 0])
    for arm in arms:
        assert 150 < sum(order[0] == arm for order in orders) < 250


def test_the_second_load_turns_the_order_of_the_first_round() -> None:
    orders = [load_order(ARMS, seed=[0, 0], load=load) for load in range(4)]
    assert orders[1] == orders[0][::-1] and orders[3] == orders[2][::-1] and orders[2] not in orders[:2]
