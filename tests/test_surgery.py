"""Heads and neurons that are gone: the rest computes what it did, and every count falls by what was predicted."""

from __future__ import annotations

import copy

import pytest
import torch

from compressor import store
from compressor.artifact import CompressedModel, Form, Head, parameter_count
from compressor.errors import Incompatible
from compressor.families import encoder_layers, pick_layers
from compressor.surgery import (
    cut,
    encoder_linears,
    head_count,
    head_size,
    heads_can_go,
    keep_heads,
    keep_neurons,
    layer_parts,
    layers_can_go,
    matched_heads,
    neuron_count,
    neurons_can_go,
    reshape,
    settle_width,
    shapes,
)
from compressor.testing.encoders import FAMILIES, tiny_encoder, tiny_inputs
from compressor.testing.tiny import tiny_tokenizer

HEADS, NEURONS = [0, 2, 3], [i for i in range(64) if i % 3]
CUT_HEADS = tuple(name for name in FAMILIES if heads_can_go(tiny_encoder(name).config) is None)


def logits(model):
    with torch.inference_mode():
        return model(**tiny_inputs()).logits


def silence(linear, columns) -> None:
    with torch.no_grad():
        linear.weight[:, columns] = 0


@pytest.mark.parametrize("family", CUT_HEADS)
def test_a_model_without_heads_is_the_model_with_those_heads_masked(family) -> None:
    model = tiny_encoder(family)
    masked, width = copy.deepcopy(model), head_size(model)
    gone = [h for h in range(4) if h not in HEADS]
    for layer in encoder_layers(masked):
        silence(layer_parts(masked, layer).attention_output, [h * width + i for h in gone for i in range(width)])
    before = logits(model)
    for layer in encoder_layers(model):
        keep_heads(model, layer, HEADS)
        assert head_count(model, layer) == 3 and head_size(model) == width
    torch.testing.assert_close(logits(model), logits(masked), atol=1e-5, rtol=0)
    assert (logits(model) - before).abs().max() > 1e-4, "the masked heads did nothing, so the test shows nothing"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_without_neurons_is_the_model_with_those_neurons_masked(family) -> None:
    model = tiny_encoder(family)
    masked = copy.deepcopy(model)
    for layer in encoder_layers(masked):
        silence(layer_parts(masked, layer).ffn_out, [i for i in range(64) if i not in NEURONS])
    before = logits(model)
    for layer in encoder_layers(model):
        keep_neurons(model, layer, NEURONS)
        assert neuron_count(model, layer) == len(NEURONS)
    torch.testing.assert_close(logits(model), logits(masked), atol=1e-5, rtol=0)
    assert (logits(model) - before).abs().max() > 1e-4


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_parameters_fall_by_the_predicted_number(family) -> None:
    model = tiny_encoder(family)
    before, width = parameter_count(model), head_size(model)
    layer = encoder_layers(model)[1]
    keep_heads(model, layer, [1])
    heads_gone = 3 * width * (4 * 32 + 3)  # rows of q, k, v with their biases, columns of the output
    assert before - parameter_count(model) == heads_gone
    keep_neurons(model, layer, range(10))
    assert before - parameter_count(model) == heads_gone + 54 * (2 * 32 + 1)


def test_surgery_goes_on_where_it_left_off_and_keeps_modes() -> None:
    model = tiny_encoder("bert").train()
    model.requires_grad_(False)
    once, layer = copy.deepcopy(model), encoder_layers(model)[0]
    keep_heads(model, layer, [1, 2, 3])
    keep_heads(model, layer, [0, 2])  # of those that are left: 1 and 3 of the old ones
    keep_heads(once, encoder_layers(once)[0], [1, 3])
    for one, other in zip(layer_parts(model, layer), layer_parts(once, encoder_layers(once)[0]), strict=True):
        torch.testing.assert_close(one.weight, other.weight)
        assert one.training and not one.weight.requires_grad


@pytest.mark.parametrize("kept", [[], [1, 0], [0, 0], [4], [-1]])
def test_impossible_choices_are_refused(kept) -> None:
    model = tiny_encoder("bert")
    with pytest.raises(Incompatible, match="were to be kept"):
        keep_heads(model, encoder_layers(model)[0], kept)


def test_families_whose_parts_are_tied_say_why() -> None:
    mpnet = tiny_encoder("mpnet")
    assert "relative position bias" in (heads_can_go(mpnet.config) or "")
    with pytest.raises(Incompatible, match="mpnet"):
        keep_heads(mpnet, encoder_layers(mpnet)[0], [0])
    assert layers_can_go(mpnet.config) is None and neurons_can_go(mpnet.config) is None
    assert layers_can_go(tiny_encoder("albert").config) == "its layers share their weights"


def test_eligible_linears_are_those_inside_the_layers_and_shared_ones_count_once() -> None:
    bert, albert = tiny_encoder("bert"), tiny_encoder("albert")
    assert len(encoder_linears(bert)) == 3 * 6
    assert len(encoder_linears(albert)) == 6
    assert all(bert.get_submodule(name) is linear for name, linear in encoder_linears(bert).items())


def test_shapes_are_read_off_the_model_and_put_back() -> None:
    model = tiny_encoder("roberta")
    assert shapes(model) is None
    keep_heads(model, encoder_layers(model)[2], [1])
    keep_neurons(model, encoder_layers(model)[0], range(40))
    wanted = shapes(model)
    assert wanted == [{"heads": 4, "neurons": 40}, {"heads": 4, "neurons": 64}, {"heads": 1, "neurons": 64}]
    fresh = reshape(tiny_encoder("roberta", seed=1), wanted)
    fresh.load_state_dict(model.state_dict())
    torch.testing.assert_close(logits(fresh), logits(model))


def test_one_width_for_all_layers_goes_into_the_config() -> None:
    model = tiny_encoder("distilbert")
    for layer in encoder_layers(model)[:2]:
        keep_neurons(model, layer, range(24))
    settle_width(model)
    assert model.config.hidden_dim == 64 and shapes(model) is not None
    keep_neurons(model, encoder_layers(model)[2], range(24))
    settle_width(model)
    assert model.config.hidden_dim == 24 and shapes(model) is None


def test_layers_can_be_picked_after_surgery() -> None:
    model = tiny_encoder("bert")
    keep_heads(model, encoder_layers(model)[2], [0, 1])
    pick_layers(model, [0, 2])
    assert shapes(model) == [{"heads": 4, "neurons": 64}, {"heads": 2, "neurons": 64}]
    assert torch.isfinite(logits(model)).all()


def test_what_was_cut_is_told_where_it_is_not_as_the_config_says() -> None:
    model = tiny_encoder("bert")
    assert cut(model.config, shapes(model)) == {}
    for layer in encoder_layers(model):
        keep_heads(model, layer, [0, 1])
    assert cut(model.config, shapes(model)) == {"heads": 2}
    keep_neurons(model, encoder_layers(model)[0], range(8))
    assert cut(model.config, shapes(model)) == {"heads": 2, "neurons": None}


def test_heads_are_matched_by_count() -> None:
    whole, model = tiny_encoder("bert"), tiny_encoder("bert")
    keep_heads(model, encoder_layers(model)[1], [0, 3])
    assert matched_heads(model, 0, whole, 2) == 4 and matched_heads(model, 1, model, 1) == 2
    with pytest.raises(Incompatible, match="layer 1 has 2 attention heads and layer 2"):
        matched_heads(model, 1, whole, 2)


@pytest.mark.parametrize("family", CUT_HEADS)
def test_a_cut_model_is_saved_and_loaded(tmp_path, family) -> None:
    model = tiny_encoder(family)
    for number, layer in enumerate(encoder_layers(model)):
        keep_heads(model, layer, range(1 + number))
        keep_neurons(model, layer, range(16 + 8 * number))
    head = Head(task_type="classification", label_names=("a", "b"))
    artifact = CompressedModel(
        form=Form.torch, config=model.config, tokenizer=tiny_tokenizer(), head=head, module=model
    )
    store.save(artifact, tmp_path / "cut")
    again = store.load(tmp_path / "cut")
    assert shapes(again.model) == shapes(model)
    torch.testing.assert_close(logits(again.model), logits(model), atol=0, rtol=0)


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_a_cut_model_is_exported(tmp_path, family) -> None:
    from compressor.runtimes.export import export_onnx

    model = tiny_encoder(family)
    for number, layer in enumerate(encoder_layers(model)):
        keep_heads(model, layer, range(1 + number))
        keep_neurons(model, layer, range(16 + 8 * number))
    tokenizer = tiny_tokenizer()
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    path = export_onnx(model, tokenizer, tmp_path)  # compares with torch on shapes that it was not traced with
    assert path.stat().st_size > 0
