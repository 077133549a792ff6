"""Patient distillation: the layer maps of the paper, its loss in numpy, what it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from compressor.config import MethodConfig, StudentConfig, TaskConfig
from compressor.errors import ConfigError, Incompatible
from compressor.tasks import build_task
from compressor.tasks.data import TaskData
from compressor.testing import parametrize_with_checks
from compressor.testing.house import TinyHouse
from compressor.testing.tiny import tiny_bert, tiny_examples
from compressor.training.signals import LossInputs, Outputs
from compressor.workbench import Workbench
from compressor_plugins.drop_layers import DropLayers
from compressor_plugins.int8_dynamic import Int8Dynamic, Int8DynamicConfig
from compressor_plugins.pkd import Patience, PatientDistill, PatientDistillConfig, patience_distance, patience_pairs

RNG = np.random.default_rng(5)


@parametrize_with_checks([PatientDistill(PatientDistillConfig())])
def test_promises(method, check, tmp_path) -> None:
    check(method, tmp_path)


@pytest.mark.parametrize(
    ("teacher", "student", "kind", "counted_from_1"),
    [
        (12, 6, Patience.skip, [2, 4, 6, 8, 10]),  # both examples of section 3
        (12, 6, Patience.last, [7, 8, 9, 10, 11]),
        (12, 3, Patience.skip, [4, 8]),
        (12, 3, Patience.last, [10, 11]),
        (12, 1, Patience.skip, []),
    ],
)
def test_the_layer_maps_are_the_papers(teacher, student, kind, counted_from_1) -> None:
    assert patience_pairs(teacher, student, kind) == {i: t - 1 for i, t in enumerate(counted_from_1)}


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_the_distance_is_that_of_unit_vectors() -> None:
    s, t = RNG.normal(size=(7, 5)), RNG.normal(size=(7, 5))
    got = patience_distance(torch.tensor(s), torch.tensor(t))
    assert got.item() == pytest.approx(((unit(s) - unit(t)) ** 2).mean(), abs=1e-6)
    assert patience_distance(torch.tensor(s * 9), torch.tensor(t)).item() == pytest.approx(got.item(), abs=1e-6)
    turned = patience_distance(torch.tensor(s), torch.tensor(t + np.eye(7, 5)))
    assert abs(turned.item() - got.item()) > 1e-3


class Recorded(Workbench):
    """Keeps the loss that the method gives to `fit`, and what it asked for."""

    seen: list = []

    def fit(self, model, loss, **kwargs):
        Recorded.seen.append((loss, kwargs))
        return super().fit(model, loss, **kwargs)


def recorded(house, options, student=None):
    Recorded.seen.clear()
    result = house.compress([PatientDistill(options)], student, bench=Recorded)
    return result, *Recorded.seen[0]


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def test_the_whole_loss_is_equation_8(tmp_path) -> None:
    house = TinyHouse(tmp_path)
    _, loss, asked = recorded(
        house, PatientDistillConfig(temperature=3.0, alpha=0.7, beta=40.0), StudentConfig(layers=3)
    )
    assert asked["signals"].hidden == (1, 2) and asked["student_signals"].hidden == (0, 1)
    batch = house.batch(house.teacher)
    count, length = batch.inputs["input_ids"].shape
    s, t = RNG.normal(size=(2, count, 2))
    hs, ht = RNG.normal(size=(2, 2, count, length, 32))

    def terms(student_states):
        return loss(
            LossInputs(
                task=house.task,
                batch=batch,
                student=Outputs(logits=torch.tensor(s), hidden=dict(enumerate(torch.tensor(student_states)))),
                teacher=Outputs(logits=torch.tensor(t), hidden={1: torch.tensor(ht[0]), 2: torch.tensor(ht[1])}),
                step=0,
                total_steps=1,
            )
        )

    p, q = softmax(t / 3.0), softmax(s / 3.0)
    got = terms(hs)
    assert got["soft"].item() == pytest.approx(0.7 * 9.0 * (p * np.log(p / q)).sum(-1).mean(), abs=1e-5)
    hard = -np.log(softmax(s)[np.arange(count), batch.labels.numpy()]).mean()
    assert got["hard"].item() == pytest.approx(0.3 * hard, abs=1e-5)
    patience = np.mean([((unit(hs[i][:, 0]) - unit(ht[i][:, 0])) ** 2).mean() for i in range(2)])
    assert got["patience"].item() == pytest.approx(40.0 * patience, abs=1e-5)
    elsewhere = hs.copy()
    elsewhere[:, :, 1:] += 1.0  # no token but the first counts
    assert terms(elsewhere)["patience"].item() == got["patience"].item()


def test_states_of_the_first_real_token_count_where_padding_is_on_the_left(tmp_path) -> None:
    from compressor_plugins.pkd import first_token

    house = TinyHouse(tmp_path)
    batch = house.batch(house.teacher)
    batch.inputs["attention_mask"] = batch.inputs["attention_mask"].flip(1)
    step = LossInputs(task=house.task, batch=batch, student=Outputs(), teacher=Outputs(), step=0, total_steps=1)
    places = torch.arange(batch.inputs["input_ids"].shape[1]).float().expand_as(batch.inputs["input_ids"])[..., None]
    assert first_token(places, step)[:, 0].tolist() == (batch.inputs["attention_mask"] == 0).sum(dim=1).tolist()


def test_half_of_the_layers_is_the_default(tmp_path) -> None:
    house = TinyHouse(tmp_path)
    result, _, asked = recorded(house, PatientDistillConfig(), StudentConfig())
    assert result.blueprint.layers == 2
    assert asked["signals"].hidden == (1,)
    assert result.lineage[0].notes["patience_layers"] == [1]


def test_a_source_that_lost_layers_keeps_the_others(tmp_path) -> None:
    house = TinyHouse(tmp_path)
    result = house.compress(
        [DropLayers(MethodConfig()), PatientDistill(PatientDistillConfig())], StudentConfig(layers=3)
    )
    assert result.blueprint.layers == 3


@pytest.mark.parametrize(
    ("options", "terms", "signals"),
    [
        ({"alpha": 0.0, "beta": 0.0}, {"hard"}, frozenset()),
        ({"alpha": 1.0, "beta": 0.0}, {"soft"}, frozenset({"logits"})),
        ({"alpha": 0.0}, {"hard", "patience"}, frozenset({"hidden"})),
    ],
)
def test_a_weight_of_zero_leaves_its_term_and_its_signals_out(tmp_path, options, terms, signals) -> None:
    house = TinyHouse(tmp_path)
    result, _, asked = recorded(house, PatientDistillConfig(**options))
    assert asked["signals"].kinds() == signals
    assert result.blueprint.layers == 2


@pytest.mark.parametrize(
    ("options", "told"),
    [({"temperature": 0.0}, "temperature=0.0"), ({"alpha": 1.5}, "alpha=1.5"), ({"beta": -1.0}, "beta=-1.0")],
)
def test_options_out_of_range_are_named(options, told) -> None:
    with pytest.raises(ConfigError, match=told):
        PatientDistillConfig(**options)


def test_a_narrower_student_is_refused_before_work(tmp_path) -> None:
    house = TinyHouse(tmp_path)
    narrow = StudentConfig(layers=2, hidden_size=16, heads=2)
    with pytest.raises(Incompatible, match="student's is 16, the teacher's 32"):
        house.check([PatientDistill(PatientDistillConfig())], narrow)
    house.check([PatientDistill(PatientDistillConfig(beta=0.0))], narrow)


def test_other_tokens_are_refused_before_work(tmp_path) -> None:
    house = TinyHouse(tmp_path)
    tokenizer = house.teacher.tokenizer
    words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    other = type(tokenizer)(vocab={w: i for i, w in enumerate([*words[:-2], words[-1], words[-2]])})
    plan = house.plan(StudentConfig(layers=2))
    with pytest.raises(Incompatible, match="vocabularies differ"):
        PatientDistill(PatientDistillConfig()).check(replace(plan.teacher, tokenizer=other), plan)


def test_scores_are_distilled_without_a_temperature(tmp_path) -> None:
    house = TinyHouse(tmp_path)
    house.task = build_task(TaskConfig(name="scores", type="regression", max_length=32), ())
    house.data = TaskData(
        train=tuple(tiny_examples(32, kind="regression")),
        validation=tuple(tiny_examples(12, seed=1, kind="regression")),
        test=tuple(tiny_examples(12, seed=2, kind="regression")),
        fingerprint="scores",
    )
    module = tiny_bert(layers=4, **house.task.config_overrides()).eval()
    house.teacher = replace(house.teacher, module=module, config=module.config, head=house.task.head)
    with pytest.raises(Incompatible, match="a temperature softens classes"):
        house.check([PatientDistill(PatientDistillConfig(temperature=10.0))])
    result = house.compress([PatientDistill(PatientDistillConfig())])
    assert result.blueprint.layers == 2 and np.isfinite(house.logits(result)).all()


SHAPE = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64}
SHAPE |= {"max_position_embeddings": 66, "pad_token_id": 0}
DISTILBERT = {"vocab_size": 40, "dim": 32, "n_layers": 4, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 66}
RELATIVE = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 16}


@pytest.mark.parametrize(
    ("family", "shape"),
    [
        ("roberta", SHAPE),
        ("xlm-roberta", SHAPE),
        ("mpnet", SHAPE),
        ("electra", {**SHAPE, "embedding_size": 16}),
        ("distilbert", DISTILBERT),
        ("deberta-v2", {**SHAPE, **RELATIVE}),
    ],
)
def test_other_families_follow_their_teacher_too(tmp_path, family, shape) -> None:
    from transformers import AutoConfig, AutoModelForSequenceClassification

    house = TinyHouse(tmp_path)
    config = AutoConfig.for_model(family, **shape)
    for name, value in house.task.config_overrides().items():
        setattr(config, name, value)
    module = AutoModelForSequenceClassification.from_config(config).eval()
    house.teacher = replace(house.teacher, module=module, config=module.config)
    result, _, asked = recorded(house, PatientDistillConfig())
    assert result.blueprint.layers == 2 and asked["signals"].hidden == (1,)


def test_int8_follows(tmp_path) -> None:
    result = TinyHouse(tmp_path).compress(
        [PatientDistill(PatientDistillConfig()), Int8Dynamic(Int8DynamicConfig())], StudentConfig(layers=2)
    )
    assert [step.method for step in result.lineage] == ["pkd", "int8_dynamic"]
