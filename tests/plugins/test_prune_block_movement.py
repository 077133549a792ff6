"""Block movement pruning: block scores in closed form, masked and cut models agree, layers really get smaller."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from compressor import store
from compressor.artifact import parameter_count
from compressor.config import StudentConfig, TaskConfig
from compressor.errors import ConfigError, Incompatible
from compressor.families import encoder_layers
from compressor.surgery import head_count, layer_parts, neuron_count
from compressor.tasks import build_task
from compressor.tasks.data import TaskData
from compressor.testing import parametrize_with_checks
from compressor.testing.encoders import FAMILIES, house_of, tiny_encoder, tiny_inputs
from compressor.testing.house import TinyHouse
from compressor.testing.tiny import tiny_bert, tiny_examples
from compressor_plugins.distill import Distill, DistillConfig
from compressor_plugins.prune_block_movement import Gates, PruneBlockMovement, PruneBlockMovementConfig, encoder_weights

# Three steps must be enough to move scores from 0 to both sides of the threshold.
QUICK = PruneBlockMovementConfig(keep=None, threshold=0.5, score_learning_rate=1.0, warm_up=0.0, cool_down=0.0)


@parametrize_with_checks([PruneBlockMovement(PruneBlockMovementConfig())])
def test_promises(method, check, tmp_path) -> None:
    check(method, tmp_path)


def scattered(model, config: PruneBlockMovementConfig) -> Gates:
    """Gates with random scores."""
    gates = Gates(model, config)
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for gate in gates._all():
            gate.scores.normal_(std=3, generator=draw)
    return gates


@pytest.mark.parametrize("family", FAMILIES)
def test_the_cut_model_computes_what_the_masked_one_did(family) -> None:
    model = tiny_encoder(family)
    config = PruneBlockMovementConfig(keep=None, threshold=0.4, heads=family != "mpnet")
    with torch.inference_mode():
        whole = model(**tiny_inputs()).logits
    gates, before = scattered(model, config), encoder_weights(model)
    with gates.closing():
        gates.finish()
        with torch.inference_mode():
            masked = model(**tiny_inputs()).logits
    gates.cut()
    with torch.inference_mode():
        cut = model(**tiny_inputs()).logits
    assert (masked - whole).abs().max() > 1e-3
    torch.testing.assert_close(cut, masked, rtol=1e-4, atol=1e-6)
    assert encoder_weights(model) < before
    assert not [key for key in model.state_dict() if "scores" in key]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_trained_cut_and_read_back(tmp_path, family) -> None:
    house = house_of(tmp_path, tiny_encoder(family))
    method = PruneBlockMovement(replace(QUICK, heads=family != "mpnet"))
    result = house.compress([method])
    assert result.lineage[0].notes["encoder_weights_kept"] < 1
    store.save(result, tmp_path / "saved", house.registry(method))
    again = store.load(tmp_path / "saved", house.registry(method))
    np.testing.assert_array_equal(house.logits(again), house.logits(result))


def test_a_structure_gets_the_sum_of_its_blocks_movements() -> None:
    """dL/dS = sum over the block of dL/dW' * W: a head's columns of the output linear, a neuron's of the second one."""
    model = tiny_bert(layers=2, dropout=0.0)
    gates = scattered(model, PruneBlockMovementConfig(keep=None, threshold=0.4))
    gates.finish()
    parts = [layer_parts(model, layer) for layer in encoder_layers(model)]
    with gates.closing():
        torch.square(model(**tiny_inputs()).logits).sum().backward()
    scores = [(p.attention_output.scores.grad.clone(), p.ffn_out.scores.grad.clone()) for p in parts]
    masks = [(gates._heads[i].mask, gates._neurons[i].mask) for i in range(2)]
    # The same masks multiplied into the weights: W' = W * M, and the gradient of W' by autograd.
    model.zero_grad()
    original = [(p.attention_output.weight.detach().clone(), p.ffn_out.weight.detach().clone()) for p in parts]
    for p, (heads, neurons) in zip(parts, masks, strict=True):
        p.attention_output.weight.data *= heads.repeat_interleave(8)
        p.ffn_out.weight.data *= neurons
    torch.square(model(**tiny_inputs()).logits).sum().backward()
    for p, (heads, neurons), (output, second) in zip(parts, scores, original, strict=True):
        movement = (p.attention_output.weight.grad * output).view(32, 4, 8).sum(dim=(0, 2))
        np.testing.assert_allclose(heads.numpy(), movement.numpy(), rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(
            neurons.numpy(), (p.ffn_out.weight.grad * second).sum(0).numpy(), rtol=1e-3, atol=1e-6
        )
    assert any(
        (mask == 0).any() and (grad[mask == 0].abs() > 1e-8).any()
        for (mask, _), (grad, _) in zip(masks, scores, strict=True)
    )


def test_regularisation_is_lambda_times_the_expected_share_that_stays() -> None:
    model = tiny_bert(layers=2)
    options = PruneBlockMovementConfig(keep=None, regularization=7.0, warm_up=0.1, cool_down=0.3, threshold=0.2)
    gates = scattered(model, options)
    parts = [layer_parts(model, layer) for layer in encoder_layers(model)]
    heads = np.concatenate([p.attention_output.scores.detach().numpy() for p in parts])
    neurons = np.concatenate([p.ffn_out.scores.detach().numpy() for p in parts])
    sigmoid = [1 / (1 + np.exp(-s.astype(np.float64))) for s in (heads, neurons)]
    expected = (sigmoid[0].sum() * 4 * 32 * 8 + sigmoid[1].sum() * 2 * 32) / (2 * (4 * 32 * 32 + 2 * 32 * 64))
    for step, share in ((0, 0.0), (40, 1 - (1 - 30 / 59) ** 3), (99, 1.0)):
        gates.before_forward(step, 100)
        assert gates.regularisation().item() == pytest.approx(7.0 * share * expected, rel=1e-5)
        masks = np.concatenate([gate.mask.numpy() for gate in gates._neurons.values()])
        np.testing.assert_array_equal(masks, sigmoid[1] > 0.2 * share)


def test_a_given_share_is_kept_by_score_over_all_layers() -> None:
    model = tiny_bert(layers=2)
    gates = scattered(model, PruneBlockMovementConfig(keep=0.25, warm_up=0.1, cool_down=0.3, regularization=7.0))
    for kind in (gates._heads, gates._neurons):
        scores = np.concatenate([gate.scores.detach().numpy() for gate in kind.values()])
        for step, share in ((0, 0.0), (40, 1 - (1 - 30 / 59) ** 3), (99, 1.0)):
            gates.before_forward(step, 100)
            kept = np.ones(scores.size)
            kept[np.argsort(scores)[: round(0.75 * share * scores.size)]] = 0
            width = scores.size // 2
            for layer in range(2):
                kept[layer * width + scores[layer * width : (layer + 1) * width].argmax()] = 1
            np.testing.assert_array_equal(np.concatenate([gate.mask.numpy() for gate in kind.values()]), kept)
            assert gates._lambda == 7.0


def test_every_layer_keeps_its_best_head_and_neuron() -> None:
    model = tiny_bert(layers=2)
    gates = Gates(model, PruneBlockMovementConfig(keep=None))
    with torch.no_grad():
        for gate in gates._all():
            gate.scores.copy_(-20 - torch.arange(len(gate.scores)).flip(0))
    gates.finish()
    gates.cut()
    for layer in encoder_layers(model):
        assert (head_count(model, layer), neuron_count(model, layer)) == (1, 1)
    assert model.config.intermediate_size == 1
    with torch.inference_mode():
        assert torch.isfinite(model(**tiny_inputs()).logits).all()


@pytest.mark.parametrize("what", ["heads", "neurons"])
def test_layers_get_smaller_and_the_notes_say_how_much(tmp_path, what) -> None:
    house = TinyHouse(tmp_path)
    options = replace(QUICK, heads=what == "heads", neurons=what == "neurons")
    result = house.compress([PruneBlockMovement(options)])
    notes, layers = result.lineage[0].notes, encoder_layers(result.model)
    assert notes["heads"] == [head_count(result.model, layer) for layer in layers]
    assert notes["neurons"] == [neuron_count(result.model, layer) for layer in layers]
    whole = [4] * 4 if what == "heads" else [64] * 4
    assert notes[what] != whole and notes["neurons" if what == "heads" else "heads"] in ([64] * 4, [4] * 4)
    gone = 32 * 8 * 4 * (16 - sum(notes["heads"])) + 2 * 32 * (256 - sum(notes["neurons"]))
    weights = 4 * (4 * 32 * 32 + 2 * 32 * 64)
    assert notes["encoder_weights_kept"] == pytest.approx(1 - gone / weights)
    biases = 3 * 8 * (16 - sum(notes["heads"])) + 256 - sum(notes["neurons"])
    assert parameter_count(house.teacher.model) - parameter_count(result.model) == gone + biases


def test_a_distilled_student_is_pruned_and_trained_again(tmp_path) -> None:
    chain = [Distill(DistillConfig()), PruneBlockMovement(QUICK), Distill(DistillConfig())]
    house = TinyHouse(tmp_path)
    result = house.compress(chain, StudentConfig(layers=2))
    assert len(result.lineage[1].notes["neurons"]) == 2
    pruned = sum(result.lineage[1].notes["neurons"])
    assert pruned == sum(neuron_count(result.model, layer) for layer in encoder_layers(result.model)) < 128


@pytest.mark.parametrize("kind", ["regression", "token_classification"])
def test_other_task_types_are_pruned_too(tmp_path, kind) -> None:
    house = TinyHouse(tmp_path)
    tokens = kind == "token_classification"
    house.task = build_task(TaskConfig(name=kind, type=kind, max_length=32), ("O", "B-X") if tokens else ())
    house.data = TaskData(
        train=tuple(tiny_examples(32, kind=kind)),
        validation=tuple(tiny_examples(12, seed=1, kind=kind)),
        test=tuple(tiny_examples(12, seed=2, kind=kind)),
        fingerprint=kind,
    )
    module = tiny_bert(layers=4, tokens=tokens, **house.task.config_overrides()).eval()
    house.teacher = replace(house.teacher, module=module, config=module.config, head=house.task.head)
    result = house.compress([PruneBlockMovement(PruneBlockMovementConfig(alpha=0.5))])
    assert result.lineage[0].notes["encoder_weights_kept"] < 0.8
    assert np.isfinite(house.logits(result)).all()


def test_mpnet_keeps_its_heads_and_may_lose_neurons(tmp_path) -> None:
    house = TinyHouse(tmp_path)
    model = tiny_encoder("mpnet")
    source = replace(house.teacher.blueprint, config=model.config)
    with pytest.raises(Incompatible, match="heads of mpnet cannot be removed") as refused:
        PruneBlockMovement(PruneBlockMovementConfig()).check(source, house.plan(StudentConfig()))
    assert "heads=false" in str(refused.value)
    PruneBlockMovement(PruneBlockMovementConfig(heads=False)).check(source, house.plan(StudentConfig()))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"heads": False, "neurons": False}, "heads=False"),
        ({"keep": 0.0}, "keep=0.0"),
        ({"threshold": 0.0}, "threshold=0.0"),
        ({"regularization": -1.0}, "regularization=-1.0"),
        ({"score_learning_rate": 0.0}, "score_learning_rate=0.0"),
        ({"warm_up": 1.0}, "warm_up=1.0"),
        ({"cool_down": 0.95}, "cool_down=0.95"),
        ({"alpha": 2.0}, "alpha=2.0"),
        ({"hidden_weight": -1.0}, "hidden_weight=-1.0"),
    ],
)
def test_options_out_of_range_are_named(options, told) -> None:
    with pytest.raises(ConfigError, match=told):
        PruneBlockMovementConfig(**options)
