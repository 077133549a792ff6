"""Derivatives by gates against finite differences of the loss, example by example."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from compressor.families import encoder_layers
from compressor.surgery import layer_parts
from compressor.testing.encoders import house_of, tiny_encoder
from compressor.training.gates import draw_batches, gate_gradients

STEP = 1e-4


def one_by_one(batch):
    for i, number in enumerate(batch.ids):
        inputs = {name: value[i : i + 1] for name, value in batch.inputs.items()}
        yield replace(batch, inputs=inputs, labels=batch.labels[i : i + 1], ids=(number,))


def loss_with(model, linear, column, factor, batch) -> float:
    """Scale one column of a linear, which is what a gate on that input does, and return numpy's cross-entropy."""
    old = linear.weight[:, column].clone()
    with torch.no_grad():
        linear.weight[:, column] = old * factor
        logits = model(**batch.inputs).logits.numpy()[0]
        linear.weight[:, column] = old
    shifted = logits - logits.max()
    return float(np.log(np.exp(shifted).sum()) - shifted[int(batch.labels[0])])


@pytest.mark.parametrize("family", ["bert", "albert"])  # ALBERT runs the same linear three times
@pytest.mark.parametrize("part", ["attention_output", "ffn_out"])
def test_gradients_equal_finite_differences_of_each_examples_loss(tmp_path, family, part) -> None:
    house = house_of(tmp_path, tiny_encoder(family).double())
    model, batch = house.teacher.model, house.batch(house.teacher)
    linear = getattr(layer_parts(model, encoder_layers(model)[-1]), part)
    found = gate_gradients(model, house.task, [batch], {"it": linear})["it"].numpy()
    assert found.shape == (16, linear.in_features)
    scratch = copy.deepcopy(model)
    copied = getattr(layer_parts(scratch, encoder_layers(scratch)[-1]), part)
    for row, example in enumerate(list(one_by_one(batch))[:3]):
        for column in (0, 5, linear.in_features - 1):
            up = loss_with(scratch, copied, column, 1 + STEP, example)
            down = loss_with(scratch, copied, column, 1 - STEP, example)
            assert found[row, column] == pytest.approx((up - down) / (2 * STEP), abs=1e-7)


def test_gradients_move_with_the_labels_and_not_with_the_batching(tmp_path) -> None:
    house = house_of(tmp_path, tiny_encoder("bert"))
    model, batch = house.teacher.model, house.batch(house.teacher)
    linears = {str(i): layer_parts(model, layer).ffn_out for i, layer in enumerate(encoder_layers(model))}
    whole = gate_gradients(model, house.task, [batch], linears)
    single = gate_gradients(model, house.task, list(one_by_one(batch)), linears)
    flipped = gate_gradients(model, house.task, [replace(batch, labels=1 - batch.labels)], linears)
    for name in linears:
        torch.testing.assert_close(whole[name], single[name], atol=1e-5, rtol=1e-4)
        assert (whole[name] - flipped[name]).abs().max() > 1e-4


def test_the_model_is_left_as_it_was(tmp_path) -> None:
    house = house_of(tmp_path, tiny_encoder("bert"))
    model = house.teacher.model.train()
    model.requires_grad_(False)
    linear = layer_parts(model, encoder_layers(model)[0]).ffn_out
    with torch.no_grad():
        found = gate_gradients(model, house.task, [house.batch(house.teacher)], {"it": linear})["it"]
    assert found.abs().sum() > 0, "frozen parameters still have gates"
    assert model.training and not linear._forward_pre_hooks and all(p.grad is None for p in model.parameters())


def test_batches_are_drawn_by_seed_until_there_are_enough(tmp_path) -> None:
    house = house_of(tmp_path, tiny_encoder("bert"))
    batches = list(one_by_one(house.batch(house.teacher)))
    assert len(draw_batches(batches, 5, seed=0)) == 5
    assert draw_batches(batches, 5, seed=0) == draw_batches(batches, 5, seed=0)
    assert [b.ids for b in draw_batches(batches, 16, seed=1)] != [b.ids for b in batches]
    assert len(draw_batches(batches, 99, seed=0)) == 16
