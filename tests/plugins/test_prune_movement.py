"""Movement pruning: the gradient of the scores in closed form, exact masks, and a plain dense checkpoint at the end."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compressor.errors import ConfigError, Incompatible
from compressor.surgery import encoder_linears
from compressor.testing import parametrize_with_checks
from compressor.testing.encoders import FAMILIES, house_of, tiny_encoder
from compressor.testing.house import TinyHouse
from compressor.testing.tiny import tiny_bert
from compressor_plugins.int8_dynamic import Int8Dynamic, Int8DynamicConfig
from compressor_plugins.prune_movement import (
    Masks,
    Movement,
    PruneMovement,
    PruneMovementConfig,
    ScoreStart,
    add_scores,
    parameter_groups,
)

SOFT = Movement.soft


@parametrize_with_checks([PruneMovement(PruneMovementConfig(cool_down=0.0))])
def test_promises(method, check, tmp_path) -> None:
    check(method, tmp_path)


def masked_linear(rows: int = 6, columns: int = 5):
    torch.manual_seed(0)
    linear = torch.nn.Linear(columns, rows)
    return linear, add_scores(linear)


def test_the_gradient_of_a_score_is_that_of_the_masked_weight_times_the_weight() -> None:
    linear, masked = masked_linear()
    weight, bias = linear.parametrizations.weight.original.detach().numpy(), linear.bias.detach().numpy()
    mask = np.random.default_rng(0).integers(0, 2, weight.shape).astype(np.float32)
    masked.mask.copy_(torch.from_numpy(mask))
    x, target = np.random.default_rng(1).normal(size=(2, 7, 5)).astype(np.float32), np.float32(0.3)
    out = linear(torch.from_numpy(x[0]))
    torch.square(out - target).sum().backward()
    # L = sum (x W'^T + b - y)^2  =>  dL/dW' = 2 (x W'^T + b - y)^T x
    outer = 2 * (x[0] @ (weight * mask).T + bias - target).T @ x[0]
    np.testing.assert_allclose(out.detach().numpy(), x[0] @ (weight * mask).T + bias, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(masked.scores.grad.numpy(), outer * weight, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(linear.parametrizations.weight.original.grad.numpy(), outer * mask, rtol=1e-4, atol=1e-5)
    assert (np.abs(masked.scores.grad.numpy()[mask == 0]) > 1e-6).any()  # a masked weight may come back


def test_scores_are_the_sum_of_movements_under_plain_gradient_descent() -> None:
    """S_T = -lr * sum_t (dL/dW')_t W_t: grows where training pushes a weight away from zero."""
    linear, masked = masked_linear()
    descent = torch.optim.SGD(linear.parameters(), lr=0.01)
    expected, first = np.zeros((6, 5)), linear.parametrizations.weight.original.detach().clone()
    draw = torch.Generator().manual_seed(3)
    for _ in range(20):
        descent.zero_grad()
        x = torch.randn(8, 5, generator=draw)
        torch.square(linear(x) - 1.0).mean().backward()
        original = linear.parametrizations.weight.original
        expected -= 0.01 * (original.grad * original).detach().double().numpy()  # M is 1: dL/dW' is dL/dW
        descent.step()
    np.testing.assert_allclose(masked.scores.detach().numpy(), expected, rtol=1e-3, atol=1e-7)
    moved = (linear.parametrizations.weight.original.detach().abs() - first.abs()).numpy()
    clear = np.abs(moved) > 0.005
    assert clear.sum() > 5 and (np.sign(moved[clear]) == np.sign(expected[clear])).all()


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.9])
def test_hard_keeps_exactly_the_top_scores(sparsity) -> None:
    linear, masked = masked_linear(40, 30)
    with torch.no_grad():
        masked.scores.normal_()
    masks = Masks({"one": masked}, PruneMovementConfig(sparsity=sparsity))
    masks.finish()
    scores = masked.scores.detach().numpy().ravel()
    top = np.argsort(scores)[round(sparsity * scores.size) :]
    expected = np.zeros(scores.size)
    expected[top] = 1
    np.testing.assert_array_equal(masked.mask.numpy().ravel(), expected)
    assert int((linear.weight != 0).sum()) == top.size


def test_soft_thresholds_the_sigmoid_and_lambda_rises_with_the_threshold() -> None:
    linear, masked = masked_linear(40, 30)
    with torch.no_grad():
        masked.scores.normal_(std=3)
    scores = masked.scores.detach().double().numpy()
    options = PruneMovementConfig(variant=SOFT, threshold=0.2, regularization=7.0, warm_up=0.1, cool_down=0.3)
    masks = Masks({"one": masked}, options)
    sigmoid = 1 / (1 + np.exp(-scores))
    for step, share in ((0, 0.0), (10, 0.0), (40, 1 - (1 - 30 / 59) ** 3), (69, 1.0), (99, 1.0)):
        masks.before_forward(step, 100)  # rises from step 10 to int(99 * 0.7) = 69
        np.testing.assert_array_equal(masked.mask.numpy(), sigmoid > 0.2 * share)
        assert masks.regularisation().item() == pytest.approx(7.0 * share * sigmoid.mean(), rel=1e-5)


@pytest.mark.parametrize("variant", list(Movement))
def test_the_result_is_a_plain_dense_checkpoint_with_zeros(tmp_path, variant) -> None:
    house = TinyHouse(tmp_path)
    own = {"threshold": 0.5} if variant is SOFT else {"sparsity": 0.75}
    options = PruneMovementConfig(
        variant=variant, start=ScoreStart.zero, score_learning_rate=1.0, warm_up=0.0, cool_down=0.0, **own
    )
    result = house.compress([PruneMovement(options)])
    linears = encoder_linears(result.model)
    assert all(type(linear) is torch.nn.Linear for linear in linears.values())
    assert set(result.model.state_dict()) == set(house.teacher.model.state_dict())
    shares = [float((linear.weight == 0).float().mean()) for linear in linears.values()]
    if variant is Movement.hard:
        assert shares == [0.75] * len(linears)
    else:
        assert min(shares) > 0.1 and max(shares) < 0.999 and len(set(shares)) > 4  # each linear finds its own
    notes = result.lineage[0].notes
    assert notes["zeros"] == sum(int((linear.weight == 0).sum()) for linear in linears.values())
    assert notes["linears"] == 4 * 6


def test_scores_start_from_the_weights_sizes_in_standard_deviations() -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(30, 40)
    weight = linear.weight.detach().double().numpy()
    masked = add_scores(linear, ScoreStart.magnitude)
    np.testing.assert_allclose(masked.scores.detach().numpy(), np.abs(weight) / weight.std(ddof=1), rtol=1e-5)
    Masks({"one": masked}, PruneMovementConfig(sparsity=0.3)).finish()
    assert set(np.flatnonzero(masked.mask.numpy() == 0)) == set(np.argsort(np.abs(weight).ravel())[:360])


def test_optimizer_groups_hold_every_parameter_once() -> None:
    model = tiny_bert(layers=1)
    masked = {name: add_scores(linear) for name, linear in encoder_linears(model).items()}
    groups = parameter_groups(model, masked, 0.5, 0.01)
    assert sorted(id(p) for g in groups for p in g["params"]) == sorted(id(p) for p in model.parameters())
    assert groups[0]["lr"] == 0.5 and groups[0]["weight_decay"] == groups[2]["weight_decay"] == 0.0
    assert len(groups[0]["params"]) == 6


@pytest.mark.parametrize("variant", list(Movement))
def test_a_killed_run_ends_with_the_same_weights(tmp_path, monkeypatch, variant) -> None:
    """The scores travel in the model's checkpoints: killed in the middle and continued equals never killed."""
    from compressor.testing import house as testing_house
    from compressor.training.interrupts import Interrupted
    from compressor.training.stage import Stage

    own = {"threshold": 0.5} if variant is SOFT else {}
    options = PruneMovementConfig(variant=variant, score_learning_rate=0.3, cool_down=0.2, **own)
    house = TinyHouse(tmp_path)
    house.train.epochs = 2
    whole = house.compress([PruneMovement(options)])

    house._runs = 10
    step = Stage._step

    def killed(self, group):
        if self.at.step == 4 and self.resumed_from is None:
            raise Interrupted(15)
        return step(self, group)

    monkeypatch.setattr(Stage, "_step", killed)
    with pytest.raises(Interrupted):
        house.compress([PruneMovement(options)])
    monkeypatch.setattr(Stage, "_step", step)
    kept = house.folder / "run-11" / "cache"
    used = testing_house.cache_at
    monkeypatch.setattr(testing_house, "cache_at", lambda _: used(kept))
    again = house.compress([PruneMovement(options)])
    assert again.lineage[0].notes["resumed_from"] == "step 4"
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name


def test_int8_may_follow(tmp_path) -> None:
    result = TinyHouse(tmp_path).compress([PruneMovement(PruneMovementConfig()), Int8Dynamic(Int8DynamicConfig())])
    assert [step.method for step in result.lineage] == ["prune_movement", "int8_dynamic"]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_taken(tmp_path, family) -> None:
    result = house_of(tmp_path, tiny_encoder(family)).compress([PruneMovement(PruneMovementConfig())])
    assert all(
        float((w.weight == 0).float().mean()) == pytest.approx(0.6, abs=1e-3)
        for w in encoder_linears(result.model).values()
    )


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"sparsity": 0.0}, "sparsity=0.0"),
        ({"threshold": 1.0}, "threshold=1.0"),
        ({"regularization": 0.0}, "regularization=0.0"),
        ({"score_learning_rate": 0.0}, "score_learning_rate=0.0"),
        ({"warm_up": 1.0}, "warm_up=1.0"),
        ({"warm_up": 0.7, "cool_down": 0.4}, "cool_down=0.4"),
        ({"alpha": -0.1}, "alpha=-0.1"),
        ({"hidden_weight": -1.0}, "hidden_weight=-1.0"),
    ],
)
def test_options_out_of_range_are_named(options, told) -> None:
    with pytest.raises(ConfigError, match=told):
        PruneMovementConfig(**options)


@pytest.mark.parametrize(
    "options", [{"variant": Movement.soft, "sparsity": 0.95}, {"threshold": 0.3}, {"regularization": 5.0}], ids=str
)
def test_options_that_the_variant_does_not_read_are_refused(tmp_path, options) -> None:
    with pytest.raises(Incompatible, match="does not read it"):
        TinyHouse(tmp_path).check([PruneMovement(PruneMovementConfig(**options))])
