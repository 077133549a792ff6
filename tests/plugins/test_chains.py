"""Chains across methods: what they save is read back as it was, and what cannot follow is refused before any work."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest

from compressor import pipeline, store
from compressor.config import ChainStep, StudentConfig
from compressor.errors import Incompatible
from compressor.registry import load as load_registry
from compressor.teacher import checkpoint_blueprint
from compressor.testing.house import Shorten, TinyHouse
from compressor_plugins.albert import Albert, AlbertConfig, Share
from compressor_plugins.distill import Distill, DistillConfig
from compressor_plugins.factorize import Factorize, FactorizeConfig
from compressor_plugins.gptq import Gptq, GptqConfig
from compressor_plugins.half import Half, HalfConfig
from compressor_plugins.minilm import MiniLM, MiniLMConfig, Version
from compressor_plugins.prune_2_4 import PruneTwoFour, PruneTwoFourConfig
from compressor_plugins.prune_block_movement import PruneBlockMovement, PruneBlockMovementConfig
from compressor_plugins.prune_ffn import NeuronScope, PruneFfn, PruneFfnConfig
from compressor_plugins.prune_heads import HeadScope, PruneHeads, PruneHeadsConfig
from compressor_plugins.prune_layers import PruneLayers, PruneLayersConfig
from compressor_plugins.prune_movement import PruneMovement, PruneMovementConfig
from compressor_plugins.prune_structured import PruneStructured, PruneStructuredConfig
from compressor_plugins.prune_vocab import PruneVocab, PruneVocabConfig
from compressor_plugins.tinybert import TinyBert, TinyBertConfig
from compressor_plugins.weight_only import Int4WeightOnly, Int4WeightOnlyConfig

HEADS = PruneHeads(PruneHeadsConfig(examples=8, reconstruct=0))
UNEVEN_HEADS = PruneHeads(PruneHeadsConfig(scope=HeadScope["global"], examples=8, reconstruct=0))
BLOCKS = PruneBlockMovement(PruneBlockMovementConfig())
UNEVEN = PruneFfn(PruneFfnConfig(scope=NeuronScope["global"], examples=8, reconstruct=0))
PACK = Gptq(GptqConfig(examples=8))
THIN = Factorize(FactorizeConfig(examples=8))
TIED = Albert(AlbertConfig(genuine=False))
PARTLY = Albert(AlbertConfig(share=Share.attention))
WHOLE = Albert(AlbertConfig())
RELATED = MiniLM(MiniLMConfig(distill_epochs=1))
MAPPED = MiniLM(MiniLMConfig(version=Version.v1, distill_epochs=1))
SLIM = TinyBert(TinyBertConfig(preset="6l", intermediate_epochs=1))
SLIM_STATES = TinyBert(TinyBertConfig(preset="6l", intermediate_epochs=1, attention_weight=0.0))
NARROW = TinyBert(TinyBertConfig(intermediate_epochs=1))
PATTERN = PruneTwoFour(PruneTwoFourConfig(recover=False))
VOCABULARY = PruneVocab(PruneVocabConfig())


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
        [HEADS, RELATED],
        [UNEVEN_HEADS, RELATED],
        [HEADS, SLIM_STATES],
        [HEADS, TIED],
        [UNEVEN, WHOLE],
        [THIN, PATTERN],
        [THIN, Int4WeightOnly(Int4WeightOnlyConfig(group_size=8))],
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
        ([HEADS, MAPPED], "version=v2"),
        ([BLOCKS, MAPPED], "version=v2"),
        ([UNEVEN_HEADS, MiniLM(MiniLMConfig(relation_heads=16))], "relation_heads=16"),
        ([HEADS, SLIM], "attention_weight=0"),
        ([BLOCKS, SLIM], "attention_weight=0"),
        ([HEADS, NARROW], "student.init=random"),
        ([UNEVEN, NARROW], "student.init=random"),
        ([HEADS, WHOLE], "all their heads"),
        ([UNEVEN_HEADS, TIED], "equal numbers of heads"),
        ([UNEVEN, TIED], "equal numbers of neurons"),
        ([UNEVEN, Int4WeightOnly(Int4WeightOnlyConfig())], "group_size=32"),
        ([Factorize(FactorizeConfig(rank=7)), PATTERN], "that 4 divides"),
        ([Factorize(FactorizeConfig(rank=7)), Int4WeightOnly(Int4WeightOnlyConfig())], "group_size=32"),
        ([BLOCKS, PATTERN], "that 4 divides"),
        ([THIN, THIN], "same options"),
        ([VOCABULARY, VOCABULARY], "same options"),
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


def test_a_narrower_student_of_a_cut_source_is_refused_for_its_projection(tmp_path) -> None:
    house, narrow = TinyHouse(tmp_path), StudentConfig(layers=2, hidden_size=16)
    with pytest.raises(Incompatible, match="student.init=random"):
        house.check([HEADS, RELATED], narrow)
    house.check([HEADS, RELATED], StudentConfig(layers=2, hidden_size=16, init="random"))


@pytest.mark.parametrize("method", [PATTERN, Int4WeightOnly(Int4WeightOnlyConfig())], ids=lambda m: type(m).__name__)
def test_groups_fit_into_the_ranks_that_defaults_give_a_teacher_of_common_widths(tmp_path, method) -> None:
    house = TinyHouse(tmp_path)
    config = copy.deepcopy(house.teacher.config)
    config.hidden_size, config.intermediate_size, config.num_attention_heads = 384, 1536, 12
    house.teacher = replace(house.teacher, config=config)
    links = house.check([Factorize(FactorizeConfig()), method], StudentConfig())
    assert links[0].result.inner_multiple == 128
    with pytest.raises(Incompatible):
        house.check([Factorize(FactorizeConfig(multiple_of=1)), method], StudentConfig())


def test_a_pruned_teacher_is_known_as_one_before_its_weights_are_read(tmp_path) -> None:
    house = TinyHouse(tmp_path)
    made = house.compress([HEADS, UNEVEN], StudentConfig())
    store.save(made, tmp_path / "pruned", house.registry(HEADS))
    found = checkpoint_blueprint(str(tmp_path / "pruned"), house.task)
    assert (found.heads, found.neurons) == (2, None) and found.inner_multiple % 8 == 0
    assert store.load(tmp_path / "pruned", house.registry(HEADS)).blueprint.cut == found.cut == made.cut
    house.teacher = made
    assert house.check([MAPPED], StudentConfig(layers=2))[0].result.heads == 2  # as many as its teacher
    with pytest.raises(Incompatible, match="4 attention heads and the teacher's 2"):
        house.check([NARROW], StudentConfig())


def test_what_a_chain_knows_of_heads_and_neurons_is_what_the_model_has(tmp_path) -> None:
    house = TinyHouse(tmp_path)
    for chain, heads, neurons in (
        ([HEADS], 2, 64),
        ([HEADS, HEADS], 1, 64),
        ([UNEVEN_HEADS], None, 64),
        ([UNEVEN], 4, None),
        ([PruneFfn(PruneFfnConfig(examples=8, reconstruct=0))], 4, 32),
        ([UNEVEN, PruneFfn(PruneFfnConfig(examples=8, reconstruct=0))], 4, None),
        ([PruneStructured(PruneStructuredConfig(hidden=0.5, heads=0.25, examples=8))], 1, 32),
    ):
        told = house.check(chain, StudentConfig())[-1].result
        made = house.compress(chain, StudentConfig()).blueprint
        assert (told.heads, told.neurons) == (heads, neurons)
        assert told.heads in (None, made.heads) and told.neurons in (None, made.neurons)


@pytest.mark.parametrize(
    "names",
    [
        ["prune_ffn", "distill", "int8_static"],
        ["distilbert", "int8_onnx"],
        ["albert", "int8_dynamic"],
        ["tinybert", "gptq"],
        ["drop_layers", "distill", "prune_heads", "int8_static"],
    ],
    ids="+".join,
)
def test_the_chains_that_people_use_are_taken_with_their_defaults(tmp_path, names) -> None:
    registry, house = load_registry(), TinyHouse(tmp_path)
    chain = [ChainStep(name=name, config=registry.get(name).method.Config()) for name in names]
    student = StudentConfig(layers=2 if "drop_layers" in names else None)
    links = pipeline.check(chain, house.plan(student), registry)
    assert [link.name for link in links] == names
    assert not links[-1].result.trainable
