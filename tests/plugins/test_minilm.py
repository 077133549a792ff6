"""MiniLM against its equations in numpy, across heads and widths, its stages and its assistant."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from compressor.api import encoder_layers, keep_heads
from compressor.config import StudentConfig, TaskConfig
from compressor.errors import ConfigError, Incompatible
from compressor.tasks import build_task
from compressor.tasks.base import Batch, Example
from compressor.tasks.data import TaskData
from compressor.testing import parametrize_with_checks
from compressor.testing.house import TinyHouse
from compressor.testing.tiny import tiny_bert, tiny_examples
from compressor.training.signals import LossInputs, Outputs
from compressor.workbench import Workbench
from compressor_plugins.distill import Distill, DistillConfig
from compressor_plugins.minilm import (
    MiniLM,
    MiniLMConfig,
    Relations,
    Version,
    chosen_layer,
    distribution_error,
    relation_error,
    relation_heads,
)

RNG = np.random.default_rng(11)
MASK = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0]]).astype(bool)
QUICK = {"distill_epochs": 1}


@parametrize_with_checks([MiniLM(MiniLMConfig(**QUICK))])
def test_promises(method, check, tmp_path) -> None:
    check(method, tmp_path)


class Recorded(Workbench):
    """Keeps what a method gives to `fit`."""

    seen: list = []

    def fit(self, model, loss, **kwargs):
        Recorded.seen.append((loss, kwargs))
        return super().fit(model, loss, **kwargs)


@pytest.fixture
def recorded():
    Recorded.seen.clear()
    return Recorded


# Losses, text by text: no padding exists in the reference --------------------------------------


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def relations(x_LW, heads):
    """softmax(X X^T / sqrt(d)) of each head, for the real tokens of one text."""
    x = x_LW.reshape(len(x_LW), heads, -1).transpose(1, 0, 2)
    return softmax(x @ x.transpose(0, 2, 1) / np.sqrt(x.shape[-1]))


def kl(p, q):
    return (p * np.log(p / q)).sum(-1)


def over_texts(mine, theirs, heads):
    rows = [kl(relations(t[m], heads), relations(s[m], heads)) for s, t, m in zip(mine, theirs, MASK, strict=True)]
    return np.concatenate(rows, axis=1).mean()


def tensor(x):
    return torch.tensor(x, dtype=torch.float32)


@pytest.mark.parametrize("heads", [1, 4, 8])
def test_relations_of_other_widths_equal_numpy(heads) -> None:
    mine, theirs = RNG.normal(size=(3, 6, 16)), RNG.normal(size=(3, 6, 32)) * 2
    got = relation_error(tensor(mine), tensor(theirs), heads, torch.tensor(MASK))
    assert got.item() == pytest.approx(over_texts(mine, theirs, heads), rel=1e-4)
    moved = relation_error(tensor(mine * 1.5), tensor(theirs), heads, torch.tensor(MASK))
    assert abs(moved.item() - got.item()) > 1e-3
    assert relation_error(tensor(theirs), tensor(theirs), heads, torch.tensor(MASK)).item() == pytest.approx(
        0, abs=1e-6
    )


def attentions(queries, keys):
    """Attention distributions [B, H, L, L] of 2 heads with padded keys at probability 0."""
    q, k = (x.reshape(3, 6, 2, -1).transpose(0, 2, 1, 3) for x in (queries, keys))
    scores = q @ k.transpose(0, 1, 3, 2) / np.sqrt(q.shape[-1])
    return softmax(np.where(MASK[:, None, None, :], scores, -1e9))


def test_attention_distributions_equal_numpy() -> None:
    mine, theirs = (attentions(RNG.normal(size=(3, 6, 8)), RNG.normal(size=(3, 6, 8))) for _ in range(2))
    got = distribution_error(tensor(mine), tensor(theirs), torch.tensor(MASK))
    rows = [kl(t[:, m][..., m], s[:, m][..., m]) for s, t, m in zip(mine, theirs, MASK, strict=True)]
    assert got.item() == pytest.approx(np.concatenate(rows, axis=1).mean(), rel=1e-4)


@pytest.mark.parametrize("loss", ["relation", "attention"])
def test_padding_changes_no_loss(loss) -> None:
    mask = torch.tensor(MASK)
    wider = torch.cat([mask, torch.zeros(3, 4, dtype=torch.bool)], dim=1)
    if loss == "relation":
        mine, theirs = torch.randn(3, 6, 16), torch.randn(3, 6, 32)
        expected = relation_error(mine, theirs, 4, mask)
        longer = [torch.cat([x, 50 * torch.randn(3, 4, x.shape[-1])], dim=1) for x in (mine, theirs)]
        got = relation_error(*longer, 4, wider)
        disturbed = [x.masked_fill(~mask[..., None], 7.0) for x in (mine, theirs)]
        assert torch.allclose(relation_error(*disturbed, 4, mask), expected)
        assert not torch.allclose(relation_error(mine, theirs, 4, torch.ones_like(mask)), expected)
    else:
        mine, theirs = (tensor(attentions(RNG.normal(size=(3, 6, 8)), RNG.normal(size=(3, 6, 8)))) for _ in range(2))
        expected = distribution_error(mine, theirs, mask)
        longer = [torch.rand(3, 2, 10, 10) for _ in range(2)]  # padded queries attend to something
        for wide, narrow in zip(longer, (mine, theirs), strict=True):
            wide[..., :6, :] = 0
            wide[..., :6, :6] = narrow
        got = distribution_error(*longer, wider)
    assert torch.isfinite(got) and torch.allclose(got, expected, atol=1e-6)


def test_gradients_are_finite_where_texts_are_padded() -> None:
    x = torch.randn(3, 6, 16, requires_grad=True)
    relation_error(x, torch.randn(3, 6, 16), 4, torch.tensor(MASK)).backward()
    assert torch.isfinite(x.grad).all() and (x.grad[~torch.tensor(MASK)] == 0).all()


def inputs_of(house, student, teacher):
    batch = Batch(
        inputs={"attention_mask": torch.tensor(MASK).long()}, labels=torch.zeros(3), positions=None, ids=(0, 1, 2)
    )
    return LossInputs(task=house.task, batch=batch, student=student, teacher=teacher, step=0, total_steps=1)


def test_version_2_sums_three_relations_of_the_chosen_layer(tmp_path, recorded) -> None:
    house = TinyHouse(tmp_path)
    result = house.compress([MiniLM(MiniLMConfig(relation_heads=2, teacher_layer=2, **QUICK))], bench=recorded)
    loss, asked = recorded.seen[0]
    assert asked["signals"].hidden == (1,) and asked["student_signals"].qkv == (1,)
    assert result.lineage[0].notes["relations"]["teacher layer"] == 2
    qkv, entering = [RNG.normal(size=(3, 6, 32)) for _ in range(3)], RNG.normal(size=(3, 6, 32))
    student = Outputs(logits=torch.zeros(3, 2), qkv={1: tuple(tensor(x) for x in qkv)})
    terms = loss(inputs_of(house, student, Outputs(hidden={1: tensor(entering)})))
    layer = house.teacher.model.bert.encoder.layer[2].attention.self
    for name, mine in zip(("query", "key", "value"), qkv, strict=True):
        linear = getattr(layer, name)
        theirs = entering @ linear.weight.detach().numpy().T + linear.bias.detach().numpy()
        assert terms[name].item() == pytest.approx(over_texts(mine, theirs, 2), rel=1e-3)
    assert len(terms) == 3


def test_version_1_is_the_attention_and_the_value_relation_of_the_last_layer(tmp_path, recorded) -> None:
    house = TinyHouse(tmp_path)
    house.compress([MiniLM(MiniLMConfig(version=Version.v1, **QUICK))], bench=recorded)
    loss, asked = recorded.seen[0]
    assert asked["signals"].attention == asked["signals"].qkv == (3,)
    mine, theirs = (attentions(RNG.normal(size=(3, 6, 8)), RNG.normal(size=(3, 6, 8))) for _ in range(2))
    values = RNG.normal(size=(2, 3, 6, 32))
    student = Outputs(logits=torch.zeros(3, 2), qkv={1: (tensor(values[0]),) * 3}, attention={1: tensor(mine)})
    teacher = Outputs(qkv={3: (tensor(values[1]),) * 3}, attention={3: tensor(theirs)})
    terms = loss(inputs_of(house, student, teacher))
    rows = [kl(t[:, m][..., m], s[:, m][..., m]) for s, t, m in zip(mine, theirs, MASK, strict=True)]
    assert terms["attention"].item() == pytest.approx(np.concatenate(rows, axis=1).mean(), rel=1e-4)
    assert terms["value"].item() == pytest.approx(over_texts(values[0], values[1], 4), rel=1e-4)


def with_heads(model, heads):
    """Return a copy of the model whose layers keep only these heads."""
    cut = copy.deepcopy(model)
    for layer in encoder_layers(cut):
        keep_heads(cut, layer, heads)
    return cut


def test_relation_heads_follow_the_heads_that_the_student_still_has(tmp_path) -> None:
    house = TinyHouse(tmp_path)
    teacher = house.teacher.model
    student = with_heads(teacher, [1, 2, 3])  # queries are 24 wide, the teacher's 32
    loss = Relations(MiniLMConfig(), teacher, student)
    assert loss.heads == relation_heads(24, 32) == 2
    qkv, entering = [RNG.normal(size=(3, 6, 24)) for _ in range(3)], RNG.normal(size=(3, 6, 32))
    mine = Outputs(logits=torch.zeros(3, 2), qkv={3: tuple(tensor(x) for x in qkv)})
    terms = loss(inputs_of(house, mine, Outputs(hidden={2: tensor(entering)})))
    layer = teacher.bert.encoder.layer[3].attention.self
    for name, own in zip(("query", "key", "value"), qkv, strict=True):
        linear = getattr(layer, name)
        theirs = entering @ linear.weight.detach().numpy().T + linear.bias.detach().numpy()
        assert terms[name].item() == pytest.approx(over_texts(own, theirs, 2), rel=1e-3)


def test_version_1_compares_heads_only_where_there_are_as_many(tmp_path) -> None:
    teacher, options = TinyHouse(tmp_path).teacher.model, MiniLMConfig(version=Version.v1)
    cut = with_heads(teacher, [0, 2])
    with pytest.raises(Incompatible, match="has 2 attention heads and layer 3.* 4"):
        Relations(options, teacher, cut)
    assert Relations(options, cut, cut).heads == 2  # the config says 4


def test_a_layer_that_is_the_teachers_own_has_no_loss(tmp_path) -> None:
    """From the first state to the loss: q, k and v by way of kept states are those that the teacher computes."""
    house = TinyHouse(tmp_path)
    model, batch = house.teacher.model, house.batch(house.teacher)
    loss = Relations(MiniLMConfig(), model, model)
    layer = model.bert.encoder.layer[3].attention.self
    with torch.inference_mode():
        entering = model(**batch.inputs, output_hidden_states=True).hidden_states[3]
        qkv = {3: (layer.query(entering), layer.key(entering), layer.value(entering))}
        step = replace(inputs_of(house, Outputs(qkv=qkv), Outputs(hidden={2: entering})), batch=batch)
        assert max(term.item() for term in loss(step).values()) < 1e-6


@pytest.mark.parametrize(("layers", "asked", "expected"), [(12, None, 11), (24, None, 20), (6, None, 5), (12, 8, 8)])
def test_the_teacher_layer(layers, asked, expected) -> None:
    assert chosen_layer(layers, asked) == expected


@pytest.mark.parametrize(
    ("widths", "heads"), [((384, 768), 48), ((768, 768), 48), ((312, 384), 24), ((32, 32), 4), ((7, 7), 1)]
)
def test_relation_heads_divide_both_widths(widths, heads) -> None:
    assert relation_heads(*widths) == heads


# Stages ---------------------------------------------------------------------------------------


def test_the_relation_stage_reads_no_labels_and_the_fine_tuning_what_alpha_says(tmp_path, recorded) -> None:
    house = TinyHouse(tmp_path)
    texts = tuple(Example(1000 + i, e.text) for i, e in enumerate(tiny_examples(24, seed=7)))
    house.data = replace(house.data, unlabelled=texts)
    house.compress([MiniLM(MiniLMConfig(distill_epochs=2, alpha=1.0))], bench=recorded)
    (_, relate), (tune, last) = recorded.seen
    assert relate["stage"] == "relations" and relate["use_unlabelled"] and relate["train"].epochs == 2
    assert not relate["signals"].logits and not relate["train"].keep_best
    assert not last["signals"] and not last["use_unlabelled"]
    labels = torch.tensor([0, 1, 1])
    z = RNG.normal(size=(3, 2))
    step = inputs_of(house, Outputs(logits=tensor(z)), Outputs())
    step = replace(step, batch=replace(step.batch, labels=labels))
    assert tune(step)["hard"].item() == pytest.approx(-np.log(softmax(z)[np.arange(3), labels]).mean(), rel=1e-4)
    assert set(tune(step)) == {"hard"}


def test_an_assistant_is_as_deep_as_the_teacher_and_as_wide_as_the_student(tmp_path, recorded) -> None:
    house = TinyHouse(tmp_path)
    shapes = []

    class Watched(recorded):
        def fit(self, model, loss, **kwargs):
            shapes.append((kwargs.get("stage"), model.config.num_hidden_layers, model.config.hidden_size))
            return super().fit(model, loss, **kwargs)

    student = StudentConfig(layers=2, hidden_size=16)
    result = house.compress([MiniLM(MiniLMConfig(assistant=True, **QUICK))], student, bench=Watched)
    assert shapes == [("assistant", 4, 16), ("relations", 2, 16), (None, 2, 16)]
    guided, asked = recorded.seen[1]
    assert not asked["signals"] and guided.assistant is not None and guided.layer == 3
    assert not any(p.requires_grad or p.grad is not None for p in guided.assistant.parameters())
    assert result.blueprint.hidden_size == 16 and "assistant" in result.lineage[0].notes


def test_version_1_by_way_of_an_assistant(tmp_path) -> None:
    options = MiniLMConfig(version=Version.v1, assistant=True, **QUICK)
    result = TinyHouse(tmp_path).compress([MiniLM(options)], StudentConfig(layers=2, hidden_size=16))
    assert result.blueprint.layers == 2


def test_other_heads_and_widths_without_a_projection(tmp_path) -> None:
    options = MiniLMConfig(**QUICK)
    result = TinyHouse(tmp_path).compress(
        [MiniLM(options)], StudentConfig(layers=2, hidden_size=24, heads=3, init="random")
    )
    assert result.model.config.num_attention_heads == 3
    assert result.lineage[0].notes["relations"]["relation heads"] == 2


def test_the_default_student_has_half_of_the_layers(tmp_path) -> None:
    result = TinyHouse(tmp_path).compress([MiniLM(MiniLMConfig(**QUICK))], StudentConfig())
    assert (result.blueprint.layers, result.blueprint.hidden_size) == (2, 32)


@pytest.mark.parametrize("version", list(Version))
@pytest.mark.parametrize("name", ["roberta", "mpnet", "electra", "distilbert", "deberta-v2"])
def test_other_families(tmp_path, name, version) -> None:
    from transformers import AutoConfig, AutoModelForSequenceClassification

    house = TinyHouse(tmp_path)
    small = {
        "vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
        "max_position_embeddings": 64, "pad_token_id": 0,
    }  # fmt: skip
    if name == "distilbert":
        small = {"vocab_size": 40, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "pad_token_id": 0}
    if name == "deberta-v2":
        small |= {
            "relative_attention": True,
            "pos_att_type": ["c2p", "p2c"],
            "share_att_key": True,
            "position_buckets": 8,
        }
    config = AutoConfig.for_model(name, **small, **house.task.config_overrides())
    module = AutoModelForSequenceClassification.from_config(config).eval()
    house.teacher = replace(house.teacher, module=module, config=module.config)
    result = house.compress([MiniLM(MiniLMConfig(version=version, **QUICK))], StudentConfig(layers=1))
    assert result.blueprint.layers == 1


@pytest.mark.parametrize("kind", ["regression", "token_classification"])
def test_other_task_types(tmp_path, kind) -> None:
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
    result = house.compress([MiniLM(MiniLMConfig(alpha=0.5, **QUICK))])
    assert np.isfinite(house.logits(result)).all()


def test_distill_goes_on_from_it(tmp_path) -> None:
    result = TinyHouse(tmp_path).compress([MiniLM(MiniLMConfig(**QUICK)), Distill(DistillConfig())])
    assert len(result.lineage) == 2


# Refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"relation_heads": 0}, "relation_heads=0"),
        ({"teacher_layer": -1}, "teacher_layer=-1"),
        ({"distill_epochs": -1}, "distill_epochs=-1"),
        ({"distill_rate": 1.0}, "distill_rate=1.0"),
        ({"alpha": 1.5}, "alpha=1.5"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"dropout": -0.1}, "dropout=-0.1"),
        ({"version": Version.v1, "relation_heads": 8}, "version=v1 relation_heads=8"),
        ({"assistant": True, "distill_epochs": 0}, "assistant=true"),
    ],
)
def test_options_out_of_range_are_named(options, told) -> None:
    with pytest.raises(ConfigError, match=told):
        MiniLMConfig(**options)


@pytest.mark.parametrize(
    ("options", "student", "told"),
    [
        ({"relation_heads": 5}, {}, "does not divide the widths 32 and 32"),
        ({"teacher_layer": 4}, {}, "the teacher has 4 layers"),
        ({"assistant": True}, {}, "would be the teacher itself"),
        ({"version": Version.v1}, {"heads": 2, "init": "random"}, "compares head with head"),
        ({}, {"hidden_size": 16, "heads": 2}, "cannot start from a source of 4"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_work(tmp_path, options, student, told) -> None:
    with pytest.raises(Incompatible, match=told):
        TinyHouse(tmp_path).check([MiniLM(MiniLMConfig(**options))], StudentConfig(layers=2, **student))
