"""Magnitude pruning: the schedule's formula, exactly the smallest weights, and zeros that stay while a model trains."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from compressor.errors import ConfigError, Incompatible
from compressor.surgery import encoder_linears
from compressor.testing import parametrize_with_checks
from compressor.testing.encoders import FAMILIES, house_of, tiny_encoder
from compressor.testing.house import TinyHouse
from compressor.testing.tiny import tiny_bert
from compressor_plugins.finetune import Finetune, FinetuneConfig
from compressor_plugins.int8_dynamic import Int8Dynamic, Int8DynamicConfig
from compressor_plugins.prune_magnitude import PruneMagnitude, PruneMagnitudeConfig, PruneSchedule, WeightScope, Zeros

ONE_SHOT = PruneSchedule.one_shot
PER_LAYER = WeightScope["per_layer"]


@parametrize_with_checks(
    [PruneMagnitude(PruneMagnitudeConfig(every=1)), PruneMagnitude(PruneMagnitudeConfig(schedule=ONE_SHOT))]
)
def test_promises(method, check, tmp_path) -> None:
    check(method, tmp_path)


def weights(model) -> dict[str, np.ndarray]:
    return {name: linear.weight.detach().numpy() for name, linear in encoder_linears(model).items()}


def flat(model) -> np.ndarray:
    return np.concatenate([w.ravel() for w in weights(model).values()])


@pytest.mark.parametrize("sparsity", [0.25, 0.8])
def test_one_shot_takes_exactly_the_smallest_weights_of_all_linears(tmp_path, sparsity) -> None:
    house = TinyHouse(tmp_path)
    result = house.compress([PruneMagnitude(PruneMagnitudeConfig(schedule=ONE_SHOT, sparsity=sparsity))])
    before, after = flat(house.teacher.model), flat(result.model)
    gone = np.argsort(np.abs(before), kind="stable")[: round(sparsity * before.size)]
    expected = before.copy()
    expected[gone] = 0
    np.testing.assert_array_equal(after, expected)
    notes = result.lineage[0].notes
    assert (notes["zeros"], notes["prunable_weights"], notes["linears"]) == (gone.size, before.size, 4 * 6)


def test_per_layer_gives_every_linear_the_same_share(tmp_path) -> None:
    house = TinyHouse(tmp_path)
    result = house.compress([PruneMagnitude(PruneMagnitudeConfig(schedule=ONE_SHOT, scope=PER_LAYER, sparsity=0.7))])
    before = weights(house.teacher.model)
    for name, after in weights(result.model).items():
        limit = np.sort(np.abs(before[name]).ravel())[round(0.7 * after.size)]
        np.testing.assert_array_equal(after, np.where(np.abs(before[name]) < limit, 0, before[name]))


def test_the_share_of_zeros_follows_the_formula_step_by_step() -> None:
    torch.manual_seed(0)
    linears = encoder_linears(tiny_bert(layers=2))
    zeros = Zeros(linears, PruneMagnitudeConfig(sparsity=0.9, begin=0.1, end=0.7, every=5))
    total, total_steps, expected = sum(w.weight.numel() for w in linears.values()), 101, 0.0
    for step in range(total_steps):
        zeros.before_forward(step, total_steps)
        first, last = 10, 70  # of 101 steps
        if step % 5 == 0 or step >= last:  # s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (n dt))^3 with s_i = 0
            expected = 0.9 - 0.9 * (1 - np.clip((step - first) / (last - first), 0, 1)) ** 3
        assert sum(int((w.weight == 0).sum()) for w in linears.values()) == round(expected * total), step
        for linear in linears.values():  # what an optimizer does
            linear.weight.data += 0.01
        zeros.after_step(step + 1, total_steps)
        assert sum(int((w.weight == 0).sum()) for w in linears.values()) == round(expected * total)


def test_equal_weights_are_counted_out_too() -> None:
    linear = torch.nn.Linear(8, 4)
    torch.nn.init.ones_(linear.weight)
    Zeros({"one": linear}, PruneMagnitudeConfig()).choose(0.25)
    assert int((linear.weight == 0).sum()) == 8


def test_a_run_that_was_killed_goes_on_with_its_zeros() -> None:
    torch.manual_seed(0)
    first = encoder_linears(tiny_bert(layers=1))
    zeros = Zeros(first, PruneMagnitudeConfig(every=4))
    for step in range(5):
        zeros.before_forward(step, 10)
    torch.manual_seed(0)
    second = encoder_linears(tiny_bert(layers=1))
    again = Zeros(second, PruneMagnitudeConfig(every=4))
    again.load_state_dict({name: value.clone() for name, value in zeros.state_dict().items()})
    again.after_step(5, 10)
    for name, linear in first.items():
        assert torch.equal(linear.weight, second[name].weight)
        assert bool((linear.weight == 0).any())


def test_training_needs_no_declaring_where_nothing_trains(tmp_path) -> None:
    assert PruneMagnitude(PruneMagnitudeConfig()).capabilities.needs_training
    one_shot = PruneMagnitude(PruneMagnitudeConfig(schedule=ONE_SHOT))
    assert not one_shot.capabilities.needs_training and PruneMagnitude.capabilities.needs_training
    with pytest.raises(Incompatible, match="nothing trains"):
        TinyHouse(tmp_path).check([PruneMagnitude(PruneMagnitudeConfig(schedule=ONE_SHOT, every=3))])


def test_int8_follows_and_a_training_method_is_warned_about(tmp_path, caplog) -> None:
    house = TinyHouse(tmp_path)
    prune = PruneMagnitude(PruneMagnitudeConfig(schedule=ONE_SHOT))
    result = house.compress([prune, Int8Dynamic(Int8DynamicConfig())])
    assert [step.method for step in result.lineage] == ["prune_magnitude", "int8_dynamic"]
    logging.getLogger("compressor").propagate = True
    with caplog.at_level(logging.WARNING, logger="compressor"):
        house.check([prune, Finetune(FinetuneConfig())])
    assert "'finetune' trains all weights, so it fills the zeros that 'prune_magnitude' left" in caplog.text


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_taken(tmp_path, family) -> None:
    result = house_of(tmp_path, tiny_encoder(family)).compress([PruneMagnitude(PruneMagnitudeConfig(every=1))])
    assert float((flat(result.model) == 0).mean()) == pytest.approx(0.6, abs=1e-3)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"sparsity": 1.0}, "sparsity=1.0"),
        ({"begin": 1.0}, "begin=1.0"),
        ({"begin": 0.5, "end": 0.5}, "end=0.5"),
        ({"every": 0}, "every=0"),
        ({"alpha": 2.0}, "alpha=2.0"),
        ({"hidden_weight": -1.0}, "hidden_weight=-1.0"),
    ],
)
def test_options_out_of_range_are_named(options, told) -> None:
    with pytest.raises(ConfigError, match=told):
        PruneMagnitudeConfig(**options)
