"""The loss of `distill` against its papers' formulas in numpy, and what its options change."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compressor.config import StudentConfig, TaskConfig
from compressor.errors import ConfigError, Incompatible
from compressor.tasks import build_task
from compressor.tasks.data import TaskData
from compressor.testing.house import TinyHouse
from compressor.testing.tiny import tiny_examples
from compressor.workbench import Workbench
from compressor_plugins.distill import Distill, DistillConfig, HiddenLoss, hidden_distance

RNG = np.random.default_rng(3)
STUDENT, TEACHER = RNG.normal(size=(9, 5)), RNG.normal(size=(9, 5)) * 2 + 1


def cosine(a, b):
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (HiddenLoss.mse, ((STUDENT - TEACHER) ** 2).mean()),
        (HiddenLoss.nmse, ((STUDENT - TEACHER) ** 2).mean() / TEACHER.var(axis=0, ddof=1).mean()),
        (HiddenLoss.cosine, (1 - cosine(STUDENT, TEACHER)).mean()),
    ],
)
def test_hidden_distances_equal_numpy(kind, expected) -> None:
    got = hidden_distance(torch.tensor(STUDENT), torch.tensor(TEACHER), kind)
    assert got.item() == pytest.approx(expected, abs=1e-5)
    moved = hidden_distance(torch.tensor(STUDENT), torch.tensor(TEACHER + np.eye(9, 5)), kind)
    assert abs(moved.item() - expected) > 1e-3


def test_a_constant_guess_of_the_mean_has_a_normalised_error_of_one() -> None:
    many = torch.randn(4000, 3) * 7 + 2
    guess = many.mean(dim=0, keepdim=True).expand_as(many)
    assert hidden_distance(guess, many, HiddenLoss.nmse).item() == pytest.approx(1.0, abs=1e-3)


class Recorded(Workbench):
    """Keeps the loss that a method gives to `fit`, and what it asked for."""

    seen: list = []

    def fit(self, model, loss, **kwargs):
        Recorded.seen.append((loss, kwargs))
        return super().fit(model, loss, **kwargs)


@pytest.fixture
def recorded():
    Recorded.seen.clear()
    return Recorded


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def test_the_whole_loss_is_the_weighted_sum_of_the_formulas(tmp_path, recorded) -> None:
    from compressor.training.signals import LossInputs, Outputs

    house = TinyHouse(tmp_path)
    options = DistillConfig(temperature=3.0, alpha=0.25, hidden_weight=2.0, hidden_loss=HiddenLoss.mse)
    house.compress([Distill(options)], bench=recorded)
    loss, asked = recorded.seen[0]
    assert asked["signals"].hidden == (1, 3) and asked["student_signals"].hidden == (0, 1)
    batch = house.batch(house.teacher)
    count, length = batch.inputs["input_ids"].shape
    s, t = RNG.normal(size=(count, 2)), RNG.normal(size=(count, 2))
    hs, ht = RNG.normal(size=(2, count, length, 32)), RNG.normal(size=(2, count, length, 32))
    terms = loss(
        LossInputs(
            task=house.task,
            batch=batch,
            student=Outputs(logits=torch.tensor(s), hidden={0: torch.tensor(hs[0]), 1: torch.tensor(hs[1])}),
            teacher=Outputs(logits=torch.tensor(t), hidden={1: torch.tensor(ht[0]), 3: torch.tensor(ht[1])}),
            step=0,
            total_steps=1,
        )
    )
    p, q = softmax(t / 3.0), softmax(s / 3.0)
    soft = 9.0 * (p * np.log(p / q)).sum(-1).mean()
    hard = -np.log(softmax(s)[np.arange(count), batch.labels.numpy()]).mean()
    mask = batch.inputs["attention_mask"].numpy().astype(bool)
    hidden = np.mean([((hs[i] - ht[i])[mask] ** 2).mean() for i in range(2)])
    assert terms["soft"].item() == pytest.approx(0.75 * soft, abs=1e-5)
    assert terms["hard"].item() == pytest.approx(0.25 * hard, abs=1e-5)
    assert terms["hidden"].item() == pytest.approx(2.0 * hidden, abs=1e-5)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (DistillConfig(alpha=0.0, hidden_weight=0.0), {"soft"}),
        (DistillConfig(alpha=1.0, hidden_weight=0.0), {"hard"}),
        (DistillConfig(alpha=0.5, hidden_weight=1.0), {"soft", "hard", "hidden"}),
    ],
)
def test_a_weight_of_zero_leaves_its_term_and_its_signals_out(tmp_path, recorded, options, names) -> None:
    result = TinyHouse(tmp_path).compress([Distill(options)], bench=recorded)
    _, asked = recorded.seen[0]
    assert asked["signals"].logits == ("soft" in names)
    assert bool(asked["signals"].hidden) == ("hidden" in names)
    assert result.lineage[0].notes["epochs"] == 1


def test_a_narrower_student_learns_through_a_projection_that_is_thrown_away(tmp_path, recorded) -> None:
    house = TinyHouse(tmp_path)
    student = StudentConfig(layers=2, hidden_size=16, heads=2)
    result = house.compress([Distill(DistillConfig())], student, bench=recorded)
    _, asked = recorded.seen[0]
    assert tuple(asked["extra_modules"]["projection"].weight.shape) == (32, 16)
    assert result.blueprint.hidden_size == 16
    assert not [name for name in result.model.state_dict() if "projection" in name]


def test_dropout_is_set_while_training_and_put_back(tmp_path, recorded) -> None:
    house = TinyHouse(tmp_path)
    result = house.compress([Distill(DistillConfig(dropout=0.0))], bench=recorded)
    layers = [m.p for m in result.model.modules() if isinstance(m, torch.nn.Dropout)]
    assert layers and all(p == 0.1 for p in layers)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"alpha": 1.5}, "alpha=1.5"),
        ({"hidden_weight": -1.0}, "hidden_weight=-1.0"),
        ({"dropout": 1.0}, "dropout=1.0"),
    ],
)
def test_options_out_of_range_are_named(options, told) -> None:
    with pytest.raises(ConfigError, match=told):
        DistillConfig(**options)


@pytest.mark.parametrize(("layer_map", "told"), [([0], "has 1 entries"), ([0, 9], "no layer 9")])
def test_a_layer_map_that_does_not_fit_is_refused_before_work(tmp_path, layer_map, told) -> None:
    with pytest.raises(Incompatible, match=told):
        TinyHouse(tmp_path).check([Distill(DistillConfig(layer_map=layer_map))])


def test_a_temperature_on_scores_is_refused(tmp_path) -> None:
    house = TinyHouse(tmp_path)
    house.task = build_task(TaskConfig(name="scores", type="regression", max_length=32), ())
    with pytest.raises(Incompatible, match="a temperature softens classes"):
        house.check([Distill(DistillConfig(temperature=4.0))])
    house.check([Distill(DistillConfig())])


@pytest.mark.parametrize("kind", ["regression", "token_classification"])
def test_other_task_types_distil_too(tmp_path, kind) -> None:
    from dataclasses import replace

    from compressor.testing.tiny import tiny_bert

    house = TinyHouse(tmp_path)
    names = ("O", "B-X") if kind == "token_classification" else ()
    house.task = build_task(TaskConfig(name=kind, type=kind, max_length=32), names)
    house.data = TaskData(
        train=tuple(tiny_examples(32, kind=kind)),
        validation=tuple(tiny_examples(12, seed=1, kind=kind)),
        test=tuple(tiny_examples(12, seed=2, kind=kind)),
        fingerprint=kind,
    )
    module = tiny_bert(layers=4, tokens=kind == "token_classification", **house.task.config_overrides()).eval()
    house.teacher = replace(house.teacher, module=module, config=module.config, head=house.task.head)
    result = house.compress([Distill(DistillConfig(alpha=0.5))])
    assert result.blueprint.layers == 2
    assert np.isfinite(house.logits(result)).all()


def test_other_tokens_need_the_logits_alone(tmp_path) -> None:
    from dataclasses import replace

    house = TinyHouse(tmp_path)
    tokenizer = house.teacher.tokenizer
    words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    other = type(tokenizer)(vocab={w: i for i, w in enumerate([*words[:-2], words[-1], words[-2]])})
    plan = house.plan(StudentConfig(layers=2))
    source = replace(plan.teacher, tokenizer=other)
    with pytest.raises(Incompatible, match="vocabularies differ"):
        Distill(DistillConfig()).check(source, plan)
    Distill(DistillConfig(hidden_weight=0.0)).check(source, plan)
