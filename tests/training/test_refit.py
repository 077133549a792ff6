"""Refitted output linears against numpy's least squares."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from compressor.families import encoder_layers
from compressor.surgery import keep_neurons, layer_parts
from compressor.testing.encoders import house_of, tiny_encoder
from compressor.training.refit import Block, least_squares, refit_outputs

DRAW = np.random.default_rng(5)


def test_without_a_ridge_it_is_numpys_solution() -> None:
    x, y = DRAW.normal(size=(50, 7)), DRAW.normal(size=(50, 3))
    expected = np.linalg.lstsq(x, y, rcond=None)[0]
    args = [torch.tensor(a) for a in (x.T @ x, x.T @ y, DRAW.normal(size=(7, 3)))]
    np.testing.assert_allclose(least_squares(*args, ridge=0.0).numpy(), expected, atol=1e-10)


def test_the_ridge_is_numpys_solution_of_the_stacked_system() -> None:
    x, y, prior = DRAW.normal(size=(50, 7)), DRAW.normal(size=(50, 3)), DRAW.normal(size=(7, 3))
    weight = np.sqrt(0.1 * np.diag(x.T @ x).mean())
    stacked = np.linalg.lstsq(np.vstack([x, weight * np.eye(7)]), np.vstack([y, weight * prior]), rcond=None)[0]
    got = least_squares(torch.tensor(x.T @ x), torch.tensor(x.T @ y), torch.tensor(prior), ridge=0.1)
    np.testing.assert_allclose(got.numpy(), stacked, atol=1e-10)


def test_unseen_directions_keep_their_weights() -> None:
    x, prior = np.zeros((4, 3)), DRAW.normal(size=(3, 2))
    x[:, 0] = 1
    got = least_squares(torch.tensor(x.T @ x), torch.tensor(x.T @ np.ones((4, 2))), torch.tensor(prior), ridge=1e-3)
    np.testing.assert_allclose(got.numpy()[1:], prior[1:])


def pruned(tmp_path, family):
    house = house_of(tmp_path, tiny_encoder(family))
    reference = house.teacher.model
    model = copy.deepcopy(reference)
    for layer in encoder_layers(model):
        keep_neurons(model, layer, range(0, 64, 2))
    blocks = []
    for own, other in zip(encoder_layers(model), encoder_layers(reference), strict=True):
        one, two = layer_parts(model, own), layer_parts(reference, other)
        blocks.append((Block(one.ffn_in, one.ffn_out), Block(two.ffn_in, two.ffn_out)))
    return house, model, reference, blocks


def entering(model, linear, batch):
    found = []
    handle = linear.register_forward_pre_hook(lambda module, args: found.append(args[0].detach()))
    model(**batch.inputs)
    handle.remove()
    real = batch.inputs["attention_mask"].bool()
    return np.concatenate([x[real].double().numpy() for x in found])


def test_the_first_block_is_numpys_solution_for_block_and_skip(tmp_path) -> None:
    house, model, reference, blocks = pruned(tmp_path, "bert")
    batch = house.batch(house.teacher)
    (own, other) = blocks[0]
    a, h = entering(model, own.output, batch), entering(model, own.entry, batch)
    wide = entering(reference, other.output, batch)
    wanted = entering(reference, other.entry, batch) + wide @ other.output.weight.detach().double().numpy().T
    wanted = wanted + other.output.bias.detach().double().numpy() - h
    expected = np.linalg.lstsq(np.hstack([a, np.ones((len(a), 1))]), wanted, rcond=None)[0]
    refit_outputs(model, reference, blocks[:1], [batch], ridge=1e-9)
    np.testing.assert_allclose(own.output.weight.detach().numpy(), expected[:-1].T, atol=2e-3)
    np.testing.assert_allclose(own.output.bias.detach().numpy(), expected[-1], atol=2e-3)


@pytest.mark.parametrize("family", ["bert", "distilbert", "deberta-v2", "albert"])
def test_the_refitted_model_is_nearer_to_the_reference(tmp_path, family) -> None:
    house, model, reference, blocks = pruned(tmp_path, family)
    batch = house.batch(house.teacher)

    def distance() -> float:
        with torch.inference_mode():
            return float(
                (model.base_model(**batch.inputs)[0] - reference.base_model(**batch.inputs)[0]).square().mean()
            )

    before = distance()
    kept = copy.deepcopy(reference.state_dict())
    refit_outputs(model, reference, blocks, [batch])
    assert distance() < 0.6 * before
    assert all(torch.equal(kept[name], value) for name, value in reference.state_dict().items())
    assert not any(m._forward_pre_hooks for m in [*model.modules(), *reference.modules()])
