"""TinyBERT against its equations in numpy, its stages, its start and its augmentation."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from compressor.api import encoder_layers, keep_heads
from compressor.config import StudentConfig, TaskConfig
from compressor.errors import ConfigError, Incompatible
from compressor.students import student_config
from compressor.tasks import build_task
from compressor.tasks.base import Batch, Example
from compressor.tasks.data import TaskData
from compressor.testing import parametrize_with_checks
from compressor.testing.house import TinyHouse
from compressor.testing.tiny import FILLERS, MARKERS, tiny_bert, tiny_examples, tiny_tokenizer
from compressor.training.signals import LossInputs, Outputs
from compressor.workbench import Workbench
from compressor_plugins.distill import Distill, DistillConfig
from compressor_plugins.tinybert import (
    Intermediate,
    TinyBert,
    TinyBertConfig,
    attention_scores,
    preset_shape,
    score_error,
    squared_error,
)

RNG = np.random.default_rng(5)
SHORT = {"general_epochs": 1, "intermediate_epochs": 1}


@parametrize_with_checks([TinyBert(TinyBertConfig(**SHORT))])
def test_promises(method, check, tmp_path) -> None:
    check(method, tmp_path)


def heads_of(x, heads):
    return x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)


def scores(q, k, heads):
    q, k = heads_of(q, heads), heads_of(k, heads)
    return q @ k.transpose(0, 1, 3, 2) / np.sqrt(q.shape[-1])


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


# Losses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("relative", [False, True])
def test_the_intermediate_loss_is_the_sum_of_equations_7_to_9(tmp_path, recorded, relative) -> None:
    house = TinyHouse(tmp_path)
    options = TinyBertConfig(embedding_weight=0.5, hidden_weight=2.0, attention_weight=3.0, relative=relative, **SHORT)
    house.compress([TinyBert(options)], bench=recorded)
    loss, asked = recorded.seen[0]
    student = {"B": 3, "L": 6, "d": 12, "D": 32}
    assert asked["signals"].hidden == (-1, 0, 1, 2, 3) and asked["student_signals"].qkv == (0, 1)
    mask = np.arange(student["L"])[None, :] < np.array([6, 4, 2])[:, None]
    hs = {m: RNG.normal(size=(3, 6, 12)) for m in (-1, 0, 1)}
    ht = {m: RNG.normal(size=(3, 6, 32)) for m in (-1, 0, 1, 2, 3)}
    qkv = {m: tuple(RNG.normal(size=(3, 6, 12)) for _ in range(3)) for m in (0, 1)}
    inputs = step(house, mask, hs, ht, qkv)
    terms = loss(inputs)
    weight, bias = (p.detach().numpy() for p in asked["extra_modules"]["projection"].parameters())

    def error(a, b):
        return ((a - b) ** 2).mean() / ((b**2).mean() if relative else 1)

    embedding = error((hs[-1] @ weight.T + bias)[mask], ht[-1][mask])
    hidden = sum(error((hs[m] @ weight.T + bias)[mask], ht[t][mask]) for m, t in ((0, 1), (1, 3)))
    pairs = mask[:, :, None] & mask[:, None, :]
    attention = 0.0
    for m, t in ((0, 1), (1, 3)):
        layer = house.teacher.model.bert.encoder.layer[t].attention.self
        q, k = (ht[t - 1] @ x.weight.detach().numpy().T + x.bias.detach().numpy() for x in (layer.query, layer.key))
        mine, theirs = scores(*qkv[m][:2], 4), scores(q, k, 4)
        attention += error(mine.transpose(1, 0, 2, 3)[:, pairs], theirs.transpose(1, 0, 2, 3)[:, pairs])
    assert terms["embedding"].item() == pytest.approx(0.5 * embedding, rel=1e-4)
    assert terms["hidden"].item() == pytest.approx(2.0 * hidden, rel=1e-4)
    assert terms["attention"].item() == pytest.approx(3.0 * attention, rel=1e-4)
    moved = loss(step(house, mask, {**hs, 1: hs[1] + 1}, ht, {**qkv, 0: tuple(x + 1 for x in qkv[0])}))
    assert abs(moved["hidden"].item() - terms["hidden"].item()) > 1e-3
    assert abs(moved["attention"].item() - terms["attention"].item()) > 1e-3


def step(house, mask, hidden, taught, qkv):
    def tensors(values):
        return {k: torch.tensor(v, dtype=torch.float32) for k, v in values.items()}

    batch = Batch(
        inputs={"attention_mask": torch.tensor(mask).long()}, labels=torch.zeros(3), positions=None, ids=(0, 1, 2)
    )
    mine = {m: tuple(torch.tensor(x, dtype=torch.float32) for x in values) for m, values in qkv.items()}
    student = Outputs(logits=torch.zeros(3, 2), hidden=tensors(hidden), qkv=mine)
    return LossInputs(
        task=house.task, batch=batch, student=student, teacher=Outputs(hidden=tensors(taught)), step=0, total_steps=1
    )


def test_the_prediction_loss_is_equation_10_up_to_the_teachers_entropy(tmp_path, recorded) -> None:
    house = TinyHouse(tmp_path)
    house.compress([TinyBert(TinyBertConfig(**SHORT))], bench=recorded)
    loss, asked = recorded.seen[-1]
    assert asked["stage"] == "prediction" and asked["signals"].kinds() == {"logits"}
    zs, zt = RNG.normal(size=(3, 2)), RNG.normal(size=(3, 2))
    inputs = step(house, np.ones((3, 2), bool), {}, {}, {})
    inputs = replace(inputs, student=Outputs(logits=torch.tensor(zs)), teacher=Outputs(logits=torch.tensor(zt)))
    p, q = (np.exp(z) / np.exp(z).sum(-1, keepdims=True) for z in (zt, zs))
    cross_entropy, entropy = -(p * np.log(q)).sum(-1).mean(), -(p * np.log(p)).sum(-1).mean()
    assert loss(inputs)["prediction"].item() == pytest.approx(cross_entropy - entropy, abs=1e-5)


def test_padding_moves_no_intermediate_loss() -> None:
    q, k, tq, tk = (torch.randn(2, 5, 8) for _ in range(4))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool()

    def error(q, k, tq, tk, mask):
        return score_error(attention_scores(q, k, 2), attention_scores(tq, tk, 2), mask)

    expected = error(q, k, tq, tk, mask)
    rubbish = [torch.cat([x, 100 * torch.randn(2, 3, 8)], dim=1) for x in (q, k, tq, tk)]
    wider = torch.cat([mask, torch.zeros(2, 3, dtype=torch.bool)], dim=1)
    assert torch.allclose(error(*rubbish, wider), expected)
    disturbed = [x.clone().masked_fill_(~mask[..., None], 50.0) for x in (q, k, tq, tk)]
    assert torch.allclose(error(*disturbed, mask), expected)
    assert not torch.allclose(error(q, k, tq, tk, torch.ones_like(mask)), expected)


def test_scores_from_kept_states_are_the_teachers_own(tmp_path) -> None:
    """softmax of the scores that the loss computes is the attention that the teacher gives out."""
    house = TinyHouse(tmp_path)
    model, batch = house.teacher.model, house.batch(house.teacher)
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        given = model(**batch.inputs, output_hidden_states=True, output_attentions=True)
        layer = model.bert.encoder.layer[2].attention.self
        entering = given.hidden_states[2]
        mine = attention_scores(layer.query(entering), layer.key(entering), 4)
    keys = batch.inputs["attention_mask"].bool()[:, None, None, :]
    assert torch.allclose(mine.masked_fill(~keys, -1e9).softmax(-1), given.attentions[2], atol=1e-5)


# Stages ---------------------------------------------------------------------------------------


def with_transfer_text(house):
    texts = tuple(Example(1000 + i, e.text) for i, e in enumerate(tiny_examples(24, seed=7)))
    house.data = replace(house.data, unlabelled=texts)
    return house


def test_stages_in_order_and_the_general_one_only_with_transfer_text(tmp_path, recorded) -> None:
    house = TinyHouse(tmp_path)
    method = TinyBert(TinyBertConfig(general_epochs=2, intermediate_epochs=3))
    house.compress([method], bench=recorded)
    assert [kwargs["stage"] for _, kwargs in recorded.seen] == ["intermediate", "prediction"]
    recorded.seen.clear()
    result = with_transfer_text(house).compress([method], bench=recorded)
    assert [kwargs["stage"] for _, kwargs in recorded.seen] == ["general", "intermediate", "prediction"]
    assert [kwargs["train"].epochs for _, kwargs in recorded.seen[:2]] == [2, 3]
    assert not recorded.seen[0][1]["signals"].logits and not recorded.seen[0][1]["train"].keep_best
    assert result.lineage[0].notes["general"]["epochs"] == 2


def test_the_intermediate_stages_read_no_labels(tmp_path) -> None:
    method = TinyBert(TinyBertConfig(**SHORT))
    results = []
    for flip in (False, True):
        house = with_transfer_text(TinyHouse(tmp_path / str(flip)))
        if flip:
            house.data = replace(house.data, train=tuple(replace(e, label=1 - e.label) for e in house.data.train))
        results.append(house.compress([method]).model.state_dict())
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


# Shapes and start -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "shape", "expected"),
    [
        ("4l", (12, 384, 12, 1536), (4, 312, 1200)),
        ("4l", (12, 768, 12, 3072), (4, 312, 1200)),
        ("4l", (12, 256, 4, 1024), (4, 104, 400)),
        ("6l", (12, 384, 12, 1536), (6, None, None)),
    ],
)
def test_presets_scale_to_the_source(preset, shape, expected) -> None:
    from transformers import BertConfig

    layers, width, heads, neurons = shape
    config = BertConfig(
        num_hidden_layers=layers, hidden_size=width, num_attention_heads=heads, intermediate_size=neurons
    )
    source = replace(TinyHouseBlueprint.of(), config=config)
    found = preset_shape(preset, source)
    assert (found.layers, found.hidden_size, found.intermediate_size) == expected
    assert student_config(config, found).num_hidden_layers == expected[0]


class TinyHouseBlueprint:
    """A blueprint to put configs into."""

    @staticmethod
    def of():
        from compressor.artifact import Blueprint, Form, Head

        return Blueprint(form=Form.torch, config=None, tokenizer=None, head=Head(task_type="classification"))


def test_what_the_user_sets_goes_before_the_preset(tmp_path) -> None:
    result = TinyHouse(tmp_path).compress([TinyBert(TinyBertConfig(**SHORT))], StudentConfig(layers=3, hidden_size=24))
    config = result.model.config
    assert (config.num_hidden_layers, config.hidden_size, config.intermediate_size) == (3, 24, 25)
    assert result.lineage[0].notes["random parts"] == []


def test_random_weights_when_asked_for(tmp_path) -> None:
    result = TinyHouse(tmp_path).compress([TinyBert(TinyBertConfig(**SHORT))], StudentConfig(layers=2, init="random"))
    assert result.lineage[0].notes["initialisation"] == "random weights"
    assert result.blueprint.hidden_size == 12


@pytest.mark.parametrize("name", ["roberta", "xlm-roberta", "mpnet", "electra", "distilbert", "deberta-v2"])
def test_other_families(tmp_path, name) -> None:
    from transformers import AutoConfig, AutoModelForSequenceClassification

    house = TinyHouse(tmp_path)
    tokenizer = house.teacher.tokenizer
    small = {
        "vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64,
        "max_position_embeddings": 64, "pad_token_id": 0,
    }  # fmt: skip
    small |= {"electra": {"embedding_size": 32}, "deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"],
              "share_att_key": True, "position_buckets": 8}, "distilbert": {"hidden_dim": 64}}.get(name, {})  # fmt: skip
    if name == "distilbert":
        small = {{"hidden_size": "dim", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads"}.get(k, k): v
                 for k, v in small.items() if k != "intermediate_size"}  # fmt: skip
    config = AutoConfig.for_model(name, **small, **house.task.config_overrides())
    module = AutoModelForSequenceClassification.from_config(config).eval()
    house.teacher = replace(house.teacher, module=module, config=module.config, tokenizer=tokenizer)
    result = house.compress([TinyBert(TinyBertConfig(**SHORT))], StudentConfig(layers=2))
    assert (result.blueprint.layers, result.blueprint.hidden_size) == (2, 12)
    assert result.lineage[0].notes["random parts"] == []
    assert np.isfinite(result.lineage[0].notes["energy kept"])


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
    result = house.compress([TinyBert(TinyBertConfig(**SHORT))])
    assert result.lineage[0].notes["random parts"] == []
    assert np.isfinite(house.logits(result)).all()


def test_distill_goes_on_from_the_narrow_student(tmp_path) -> None:
    chain = [TinyBert(TinyBertConfig(**SHORT)), Distill(DistillConfig())]
    result = TinyHouse(tmp_path).compress(chain, StudentConfig(layers=2))
    assert result.blueprint.hidden_size == 12 and len(result.lineage) == 2


# Augmentation ---------------------------------------------------------------------------------


def masked_lm(folder, *, headless=False):
    from transformers import BertConfig, BertForMaskedLM, BertModel

    tokenizer = tiny_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=64,
    )  # fmt: skip
    torch.manual_seed(1)
    (BertModel(config) if headless else BertForMaskedLM(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_augmented_texts_reach_the_task_stages(tmp_path, recorded) -> None:
    house = TinyHouse(tmp_path)
    place = masked_lm(tmp_path / "mlm")
    options = TinyBertConfig(augment=2, augment_with=place, **SHORT)
    with_transfer_text(house).compress([TinyBert(options)], bench=recorded)
    extra = {kwargs["stage"]: kwargs["extra_texts"] for _, kwargs in recorded.seen}
    assert not extra["general"] and extra["intermediate"] == extra["prediction"]
    assert 48 < len(extra["prediction"]) <= 96
    assert set(" ".join(extra["prediction"]).split()) <= {*FILLERS, *MARKERS}


def test_a_masked_lm_without_a_trained_head_is_refused(tmp_path) -> None:
    place = masked_lm(tmp_path / "encoder", headless=True)
    with pytest.raises(Incompatible, match="no trained masked-LM head"):
        TinyHouse(tmp_path).compress([TinyBert(TinyBertConfig(augment=1, augment_with=place, **SHORT))])


# Refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"preset": "5l"},
        {"general_epochs": -1},
        {"intermediate_rate": 0.0},
        {"hidden_weight": -1.0},
        {"temperature": 0.0},
        {"dropout": 1.0},
        {"augment": 2},
        {"augment_with": "somewhere"},
        {"augment": 1, "augment_with": "x", "augment_probability": 0.0},
        {"augment": 1, "augment_with": "x", "augment_candidates": 0},
    ],
)
def test_options_out_of_range_are_named(options) -> None:
    with pytest.raises(ConfigError, match=list(options)[-1]):
        TinyBertConfig(**options)


@pytest.mark.parametrize(
    ("student", "options", "told"),
    [
        (StudentConfig(layers=2, heads=2), {}, "equation 7 compares head with head"),
        (StudentConfig(layers=2, heads=2), {"attention_weight": 0.0}, "no projection fits"),
        (StudentConfig(layers=4, hidden_size=32, intermediate_size=64), {}, "leave the source as it is"),
    ],
)
def test_shapes_that_cannot_be_compared_are_refused_before_work(tmp_path, student, options, told) -> None:
    with pytest.raises(Incompatible, match=told):
        TinyHouse(tmp_path).check([TinyBert(TinyBertConfig(**options))], student)


def test_heads_are_counted_and_not_cut_anew(tmp_path) -> None:
    """Of a student that keeps two heads of 8 dimensions, no four heads of 4 may be made."""
    teacher = TinyHouse(tmp_path).teacher.model
    student = copy.deepcopy(teacher)
    for layer in encoder_layers(student):
        keep_heads(student, layer, [0, 3])
    with pytest.raises(Incompatible, match="has 2 attention heads and layer 0.* 4"):
        Intermediate(TinyBertConfig(), teacher, student, None)
    Intermediate(TinyBertConfig(attention_weight=0.0), teacher, student, None)
    own = Intermediate(TinyBertConfig(), student, student, None)
    assert set(own.heads.values()) == {2} and own.pairs == {0: 0, 1: 1, 2: 2, 3: 3}


def test_other_heads_without_the_attention_loss(tmp_path) -> None:
    options = TinyBertConfig(attention_weight=0.0, **SHORT)
    result = TinyHouse(tmp_path).compress(
        [TinyBert(options)], StudentConfig(layers=2, hidden_size=24, heads=2, init="random")
    )
    assert result.model.config.num_attention_heads == 2


def test_squared_errors_equal_numpy() -> None:
    a, b = RNG.normal(size=(7, 3)), RNG.normal(size=(7, 3)) * 3
    assert squared_error(torch.tensor(a), torch.tensor(b)).item() == pytest.approx(((a - b) ** 2).mean(), rel=1e-5)
    relative = ((a - b) ** 2).mean() / (b**2).mean()
    assert squared_error(torch.tensor(a), torch.tensor(b), True).item() == pytest.approx(relative, rel=1e-5)
