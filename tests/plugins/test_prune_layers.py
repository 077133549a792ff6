"""Which layers go: by place as in the paper's figure, by block influence in numpy, by the loss without them."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from compressor.artifact import parameter_count
from compressor.config import MethodConfig, StudentConfig
from compressor.errors import ConfigError, Incompatible
from compressor.families import encoder_layers, pick_layers
from compressor.surgery import neuron_count
from compressor.testing import parametrize_with_checks
from compressor.testing.encoders import FAMILIES, house_of, tiny_encoder
from compressor.testing.house import TinyHouse
from compressor_plugins.distill import Distill, DistillConfig
from compressor_plugins.drop_layers import DropLayers
from compressor_plugins.prune_ffn import NeuronScope, PruneFfn, PruneFfnConfig
from compressor_plugins.prune_layers import LayerChoice, PruneLayers, PruneLayersConfig, block_influence, places


@parametrize_with_checks(
    [PruneLayers(PruneLayersConfig()), PruneLayers(PruneLayersConfig(by=LayerChoice.loss, drop=1, examples=16))]
)
def test_promises(method, check, tmp_path) -> None:
    check(method, tmp_path)


@pytest.mark.parametrize(
    ("by", "drop", "kept"),
    [
        (LayerChoice.top, 4, [0, 1, 2, 3, 4, 5, 6, 7]),
        (LayerChoice.bottom, 4, [4, 5, 6, 7, 8, 9, 10, 11]),
        (LayerChoice.symmetric, 4, [0, 1, 2, 3, 8, 9, 10, 11]),
        (LayerChoice.symmetric, 5, [0, 1, 2, 3, 9, 10, 11]),
        (LayerChoice.alternate, 4, [0, 1, 2, 3, 5, 7, 9, 11]),  # the paper drops its layers 11, 9, 7 and 5, from 1
        (LayerChoice.alternate, 6, [1, 3, 5, 7, 9, 11]),
        (LayerChoice.alternate, 8, [1, 3, 7, 11]),
    ],
)
def test_places_are_those_of_the_paper(by, drop, kept) -> None:
    assert places(by, 12, 12 - drop) == kept


@pytest.mark.parametrize("by", [LayerChoice.top, LayerChoice.bottom, LayerChoice.symmetric, LayerChoice.alternate])
def test_every_count_can_be_had(by) -> None:
    for depth in range(2, 14):
        for count in range(1, depth):
            kept = places(by, depth, count)
            assert len(kept) == count and kept == sorted(set(kept)) and kept[0] >= 0 and kept[-1] < depth


def test_block_influence_is_equation_1_in_numpy(tmp_path) -> None:
    house = house_of(tmp_path, tiny_encoder("bert"))
    model, batch = house.teacher.model, house.batch(house.teacher)
    with torch.inference_mode():
        states = [s.double().numpy() for s in model(**batch.inputs, output_hidden_states=True).hidden_states]
    real = batch.inputs["attention_mask"].numpy().astype(bool)
    expected = []
    for before, after in zip(states, states[1:], strict=False):
        x, y = before[real], after[real]
        expected.append(1 - ((x * y).sum(-1) / np.linalg.norm(x, axis=-1) / np.linalg.norm(y, axis=-1)).mean())
    np.testing.assert_allclose(block_influence(model, [batch]), expected, atol=1e-5)
    with torch.no_grad():
        encoder_layers(model)[1].output.dense.weight.mul_(4)
    assert block_influence(model, [batch])[1] > expected[1] + 0.01


def test_similarity_drops_the_layers_that_change_least(tmp_path) -> None:
    model = tiny_encoder("bert", num_hidden_layers=4)
    for number in (1, 2):  # these two hardly do anything
        for linear in (
            encoder_layers(model)[number].output.dense,
            encoder_layers(model)[number].attention.output.dense,
        ):
            torch.nn.init.normal_(linear.weight, std=1e-3)
    result = house_of(tmp_path, model).compress([PruneLayers(PruneLayersConfig())])
    assert result.lineage[0].notes["layers_kept"] == [0, 3]
    assert result.config.num_hidden_layers == 2


def test_loss_drops_the_layer_without_which_numpys_loss_is_lowest(tmp_path) -> None:
    house = house_of(tmp_path, tiny_encoder("bert"))
    batch = house.task.collate(
        house.teacher.tokenizer, house.data.train, house.task.encode(house.teacher.tokenizer, house.data.train)
    )

    def loss(kept) -> float:
        model = copy.deepcopy(house.teacher.model)
        pick_layers(model, kept)
        with torch.inference_mode():
            logits = model(**batch.inputs).logits.double().numpy()
        labels = batch.labels.numpy()
        return float((np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]).mean())

    first = {gone: loss([i for i in range(3) if i != gone]) for gone in range(3)}
    gone = min(first, key=first.get)
    left = [i for i in range(3) if i != gone]
    second = {i: loss([j for j in left if j != i]) for i in left}
    result = house.compress([PruneLayers(PruneLayersConfig(by=LayerChoice.loss, drop=2, examples=48))])
    notes = result.lineage[0].notes
    assert notes["layers_kept"] == [i for i in left if i != min(second, key=second.get)]
    np.testing.assert_allclose(notes["scores"], [min(first.values()), min(second.values())], atol=1e-4)


def test_chosen_layers_are_the_teachers_own_and_the_count_falls(tmp_path) -> None:
    house = house_of(tmp_path, tiny_encoder("bert"))
    result = house.compress([PruneLayers(PruneLayersConfig(layers=[0, 2]))])
    layers, before = encoder_layers(result.model), encoder_layers(house.teacher.model)
    for one, other in zip(layers, (before[0], before[2]), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    gone = parameter_count(house.teacher.model) - parameter_count(result.model)
    assert gone == sum(p.numel() for p in before[1].parameters())


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "bert"])
def test_other_families(tmp_path, family) -> None:
    house = house_of(tmp_path, tiny_encoder(family))
    if family == "albert":
        with pytest.raises(Incompatible, match="albert: its layers share their weights"):
            house.check([PruneLayers(PruneLayersConfig())])
        return
    result = house.compress([PruneLayers(PruneLayersConfig(drop=1))])
    assert result.blueprint.layers == 2 and np.isfinite(house.logits(result)).all()


def test_it_stands_in_chains(tmp_path) -> None:
    house = TinyHouse(tmp_path)
    chain = [DropLayers(MethodConfig()), PruneLayers(PruneLayersConfig(drop=1)), Distill(DistillConfig())]
    assert house.compress(chain, StudentConfig(layers=3)).blueprint.layers == 2
    narrow = PruneFfn(PruneFfnConfig(scope=NeuronScope("global"), multiple_of=1, reconstruct=0))
    result = house.compress([narrow, PruneLayers(PruneLayersConfig(layers=[1, 3]))])
    widths = result.lineage[0].notes["neurons_kept"]
    assert [neuron_count(result.model, layer) for layer in encoder_layers(result.model)] == [widths[1], widths[3]]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"drop": 0}, "drop=0"),
        ({"layers": []}, r"layers=\[\]"),
        ({"layers": [2, 1]}, r"layers=\[2, 1\]"),
        ({"layers": [0], "drop": 2}, "one of the two"),
        ({"examples": 0}, "examples=0"),
    ],
)
def test_options_out_of_range_are_named(options, told) -> None:
    with pytest.raises(ConfigError, match=told):
        PruneLayersConfig(**options)


@pytest.mark.parametrize(
    ("options", "told"),
    [({"drop": 4}, "has 4 layers"), ({"layers": [0, 4]}, "0 to 3"), ({"layers": [0, 1, 2, 3]}, "not all")],
)
def test_layers_that_are_not_there_are_refused_before_work(tmp_path, options, told) -> None:
    with pytest.raises(Incompatible, match=told):
        TinyHouse(tmp_path).check([PruneLayers(PruneLayersConfig(**options))])
