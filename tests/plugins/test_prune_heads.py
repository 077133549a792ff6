"""Head scores against their papers' equations in numpy; what remains is the model with the other heads masked."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from compressor import store
from compressor.artifact import Form, parameter_count
from compressor.config import MethodConfig, StudentConfig
from compressor.errors import ConfigError, Incompatible
from compressor.families import encoder_layers
from compressor.measure.size import measure_size
from compressor.measure.work import measure_work
from compressor.surgery import encoder_linears, head_count, heads_can_go, layer_parts
from compressor.testing import parametrize_with_checks
from compressor.testing.encoders import FAMILIES, house_of, tiny_encoder
from compressor.testing.house import TinyHouse
from compressor_plugins.distill import Distill, DistillConfig
from compressor_plugins.drop_layers import DropLayers
from compressor_plugins.prune_ffn import PruneFfn, PruneFfnConfig
from compressor_plugins.prune_heads import (
    HeadImportance,
    HeadScope,
    PruneHeads,
    PruneHeadsConfig,
    choose,
    importance,
)

GLOBAL = HeadScope("global")


@parametrize_with_checks(
    [
        PruneHeads(PruneHeadsConfig()),
        PruneHeads(PruneHeadsConfig(scope=GLOBAL, importance=HeadImportance.michel, reconstruct=0)),
    ]
)
def test_promises(method, check, tmp_path) -> None:
    check(method, tmp_path)


def loss_of(logits, label) -> float:
    shifted = logits - logits.max()
    return float(np.log(np.exp(shifted).sum()) - shifted[label])


def derivatives(model, batch, layer: int) -> np.ndarray:
    """Return [examples, heads]: central differences of each example's loss by the size of a head's output."""
    model = copy.deepcopy(model).double()
    linear = layer_parts(model, encoder_layers(model)[layer]).attention_output
    weight, step, found = linear.weight.detach().clone(), 1e-4, np.zeros((len(batch.ids), 4))
    for head in range(4):
        losses = []
        for factor in (1 + step, 1 - step):
            with torch.no_grad():
                linear.weight.copy_(weight)
                linear.weight[:, head * 8 : head * 8 + 8] *= factor
                logits = model(**batch.inputs).logits.numpy()
            losses.append([loss_of(row, int(label)) for row, label in zip(logits, batch.labels, strict=True)])
        found[:, head] = (np.array(losses[0]) - np.array(losses[1])) / (2 * step)
    return found


def test_scores_equal_the_papers_equations(tmp_path) -> None:
    from compressor.training.gates import gate_gradients

    house = house_of(tmp_path, tiny_encoder("bert"))
    model, batch = house.teacher.model, house.batch(house.teacher)
    for layer in range(3):
        linear = layer_parts(model, encoder_layers(model)[layer]).attention_output
        gradients = gate_gradients(model, house.task, [batch], {"it": linear})["it"]
        by_hand = derivatives(model, batch, layer)
        michel = np.abs(by_hand).mean(axis=0)
        got = importance(gradients, 8, HeadImportance.michel).numpy()
        np.testing.assert_allclose(got, michel / np.sqrt((michel**2).sum()), atol=1e-3)
        taylor = importance(gradients, 8, HeadImportance.taylor).numpy()
        np.testing.assert_allclose(taylor, (by_hand**2).mean(axis=0), rtol=2e-2, atol=1e-6)
        flipped = replace(batch, labels=1 - batch.labels)
        other = gate_gradients(model, house.task, [flipped], {"it": linear})["it"]
        assert np.abs(importance(other, 8, HeadImportance.michel).numpy() - got).max() > 1e-3


def test_the_share_is_met_and_every_layer_keeps_a_head() -> None:
    scores = [torch.tensor([5.0, 6.0, 7.0, 8.0]), torch.tensor([0.1, 0.2, 0.4, 0.3])]
    assert choose(scores, 0.5, HeadScope.per_layer) == [[2, 3], [2, 3]]
    assert choose(scores, 0.5, GLOBAL) == [[1, 2, 3], [2]]
    assert choose(scores, 0.1, GLOBAL) == [[3], [2]]
    assert choose([torch.ones(4)], 0.5, HeadScope.per_layer) == [[0, 1]], "ties go to the lower head"


@pytest.mark.parametrize("kind", list(HeadImportance))
def test_the_result_is_the_teacher_with_the_other_heads_masked(tmp_path, kind) -> None:
    house = house_of(tmp_path, tiny_encoder("bert"))
    result = house.compress([PruneHeads(PruneHeadsConfig(importance=kind, scope=GLOBAL, reconstruct=0))])
    kept = result.lineage[0].notes["heads_kept"]
    assert sum(map(len, kept)) == 6 and all(kept)
    masked = copy.deepcopy(house.teacher.model)
    for layer, heads in zip(encoder_layers(masked), kept, strict=True):
        weight = layer_parts(masked, layer).attention_output.weight
        with torch.no_grad():
            for head in set(range(4)) - set(heads):
                weight[:, head * 8 : head * 8 + 8] = 0
    np.testing.assert_allclose(
        house.logits(result), house.logits(replace(house.teacher, module=masked)), atol=1e-5, rtol=0
    )


def test_parameters_and_operations_fall_by_the_predicted_number(tmp_path) -> None:
    house = house_of(tmp_path, tiny_encoder("bert"))
    result = house.compress([PruneHeads(PruneHeadsConfig(keep=0.5))])

    def products(model) -> int:
        return sum(linear.weight.numel() for linear in encoder_linears(model).values())

    gone = 3 * 2 * 8  # layers, heads a layer, width of a head
    before = house.teacher.model
    assert products(before) - products(result.model) == gone * 4 * 32
    assert parameter_count(before) - parameter_count(result.model) == gone * (4 * 32 + 3)
    assert {head_count(result.model, layer) for layer in encoder_layers(result.model)} == {2}

    length, sizes, macs = 7, [], []
    batch = {"input_ids": np.full((1, length), 5), "attention_mask": np.ones((1, length), np.int64)}
    for name, artifact in (("before", house.teacher), ("after", result)):
        store.save(artifact, tmp_path / name)
        sizes.append(measure_size(tmp_path / name).weights_bytes)
        macs.append(measure_work(Form.torch, artifact.module, tmp_path / name, [batch], 1).macs_per_text)
    # Of each unit of width a token's four projections, and both products with every other token.
    assert macs[0] - macs[1] == gone * (4 * 32 * length + 2 * length**2)
    assert sizes[0] - sizes[1] == pytest.approx(4 * gone * (4 * 32 + 3), abs=64), (
        "but for names and shapes in the header"
    )


def test_the_refit_brings_the_hidden_states_nearer(tmp_path) -> None:
    distances = []
    for examples in (0, 48):
        house = house_of(tmp_path / str(examples), tiny_encoder("bert"))
        result = house.compress([PruneHeads(PruneHeadsConfig(reconstruct=examples))])
        inputs = house.batch(result).inputs
        with torch.inference_mode():
            states = [m.base_model(**inputs)[0] for m in (result.model, house.teacher.model)]
        distances.append(float((states[0] - states[1]).square().mean()))
    assert distances[1] < 0.8 * distances[0]


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "bert"])
def test_other_families(tmp_path, family) -> None:
    house = house_of(tmp_path, tiny_encoder(family))
    if heads_can_go(house.teacher.config) is not None:
        with pytest.raises(Incompatible, match=f"{family}: its relative position bias"):
            house.check([PruneHeads(PruneHeadsConfig())])
        return
    result = house.compress([PruneHeads(PruneHeadsConfig(keep=0.25))])
    assert {head_count(result.model, layer) for layer in encoder_layers(result.model)} == {1}
    assert np.isfinite(house.logits(result)).all()


def test_it_stands_in_chains(tmp_path) -> None:
    house = TinyHouse(tmp_path)
    result = house.compress([PruneHeads(PruneHeadsConfig()), PruneFfn(PruneFfnConfig()), Distill(DistillConfig())])
    assert {head_count(result.model, layer) for layer in encoder_layers(result.model)} == {2}
    chain = [DropLayers(MethodConfig()), Distill(DistillConfig()), PruneHeads(PruneHeadsConfig(scope=GLOBAL))]
    result = house.compress(chain, StudentConfig(layers=2))
    assert result.blueprint.layers == 2
    assert sum(head_count(result.model, layer) for layer in encoder_layers(result.model)) == 4


@pytest.mark.slow
def test_uneven_heads_of_a_taught_student_are_quantised_with_calibration(tmp_path) -> None:
    pytest.importorskip("nncf")
    from compressor_plugins.int8_static import Int8Static, Int8StaticConfig

    house = TinyHouse(tmp_path)
    heads = PruneHeads(PruneHeadsConfig(scope=GLOBAL, keep=0.4))
    chain = [DropLayers(MethodConfig()), Distill(DistillConfig()), heads, Int8Static(Int8StaticConfig(examples=16))]
    result = house.compress(chain, StudentConfig(layers=2))
    counts = result.lineage[-1].notes
    assert counts["linears_quantised"] == counts["linears_eligible"] == 2 * 6 + 2
    assert sorted(map(len, result.lineage[2].notes["heads_kept"])) == [1, 2]
    assert np.isfinite(house.logits(result)).all()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"keep": 0.0}, "keep=0.0"),
        ({"keep": 1.0}, "keep=1.0"),
        ({"examples": 0}, "examples=0"),
        ({"reconstruct": -1}, "reconstruct=-1"),
    ],
)
def test_options_out_of_range_are_named(options, told) -> None:
    with pytest.raises(ConfigError, match=told):
        PruneHeadsConfig(**options)


def test_a_share_that_removes_nothing_is_refused_before_work(tmp_path) -> None:
    with pytest.raises(Incompatible, match="keeps all of 4 heads"):
        TinyHouse(tmp_path).check([PruneHeads(PruneHeadsConfig(keep=0.9))])
