"""Chains across methods: what they save is read back as it was, and what cannot follow is refused before any work."""

from __future__ import annotations

import numpy as np
import pytest

from compressor import store
from compressor.config import StudentConfig
from compressor.errors import Incompatible
from compressor.testing.house import Shorten, TinyHouse
from compressor_plugins.albert import Albert, AlbertConfig, Share
from compressor_plugins.distill import Distill, DistillConfig
from compressor_plugins.factorize import Factorize, FactorizeConfig
from compressor_plugins.gptq import Gptq, GptqConfig
from compressor_plugins.half import Half, HalfConfig
from compressor_plugins.minilm import MiniLM, MiniLMConfig
from compressor_plugins.prune_ffn import NeuronScope, PruneFfn, PruneFfnConfig
from compressor_plugins.prune_heads import PruneHeads, PruneHeadsConfig
from compressor_plugins.prune_layers import PruneLayers, PruneLayersConfig
from compressor_plugins.prune_movement import PruneMovement, PruneMovementConfig
from compressor_plugins.prune_structured import PruneStructured, PruneStructuredConfig
from compressor_plugins.tinybert import TinyBert, TinyBertConfig

HEADS = PruneHeads(PruneHeadsConfig(examples=8, reconstruct=0))
UNEVEN = PruneFfn(PruneFfnConfig(scope=NeuronScope["global"], examples=8, reconstruct=0))
PACK = Gptq(GptqConfig(examples=8))
THIN = Factorize(FactorizeConfig(examples=8))
TIED = Albert(AlbertConfig(genuine=False))
PARTLY = Albert(AlbertConfig(share=Share.attention))
WHOLE = Albert(AlbertConfig())


@pytest.mark.parametrize(
    "chain",
    [
        [HEADS, PACK],
        [UNEVEN, PACK],
        [HEADS, THIN],
        [UNEVEN, THIN],
        [HEADS, UNEVEN, THIN, Distill(DistillConfig()), Half(HalfConfig())],
        [WHOLE, PruneStructured(PruneStructuredConfig(hidden=0.5, examples=8))],
        [WHOLE, HEADS],
    ],
    ids=lambda chain: "+".join(type(m).__name__ for m in chain),
)
def test_what_a_chain_saves_is_read_back(tmp_path, chain) -> None:
    house = TinyHouse(tmp_path)
    result = house.compress(chain, StudentConfig())
    registry = house.registry(chain[0])
    store.save(result, tmp_path / "saved", registry)
    again = store.load(tmp_path / "saved", registry)
    np.testing.assert_array_equal(house.logits(again), house.logits(result))


@pytest.mark.parametrize(
    ("chain", "told"),
    [
        ([THIN, PruneLayers(PruneLayersConfig())], "replaced modules"),
        ([THIN, HEADS], "replaced modules"),
        ([PACK, HEADS], "quantised"),
        ([TIED, HEADS], "share weights"),
        ([TIED, PruneMovement(PruneMovementConfig())], "share weights"),
        ([PARTLY, THIN], "share weights"),
    ],
    ids=lambda value: "+".join(type(m).__name__ for m in value) if isinstance(value, list) else None,
)
def test_what_cannot_follow_is_refused_before_any_work(tmp_path, chain, told) -> None:
    with pytest.raises(Incompatible, match=told):
        TinyHouse(tmp_path).check(chain, StudentConfig())


@pytest.mark.parametrize(
    "method", [MiniLM(MiniLMConfig()), TinyBert(TinyBertConfig(preset="6l"))], ids=["minilm", "tinybert"]
)
def test_a_recipe_does_not_halve_what_was_halved_before(tmp_path, method) -> None:
    house = TinyHouse(tmp_path)
    links = house.check([Shorten(Shorten.Config()), method], StudentConfig(layers=2))
    assert [link.result.layers for link in links] == [2, 2]
    assert house.compress([Shorten(Shorten.Config()), method], StudentConfig(layers=2)).blueprint.layers == 2


def test_neurons_of_equal_score_are_counted_not_kept_together(tmp_path) -> None:
    import torch

    from compressor.families import encoder_layers
    from compressor.surgery import layer_parts, neuron_count

    house = TinyHouse(tmp_path)
    with torch.no_grad():
        for layer in encoder_layers(house.teacher.model):
            layer_parts(house.teacher.model, layer).ffn_out.weight[:, 10:] = 0  # their scores are 0
    result = house.compress([UNEVEN], StudentConfig())
    total = sum(neuron_count(result.model, layer) for layer in encoder_layers(result.model))
    before = sum(neuron_count(house.teacher.model, layer) for layer in encoder_layers(house.teacher.model))
    assert abs(total / before - UNEVEN.config.keep) < 0.1
