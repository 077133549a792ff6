"""Rivals: other families and tokenizers beside the teacher, its help by example, and what is refused before any work."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from compressor import store
from compressor.config import MethodConfig, StudentConfig, TaskConfig
from compressor.errors import AssetError, ConfigError, Incompatible
from compressor.tasks import build_task
from compressor.tasks.data import TaskData
from compressor.testing import parametrize_with_checks
from compressor.testing.house import TinyHouse
from compressor.testing.tiny import WORDS, tiny_bert, tiny_examples, tiny_tokenizer
from compressor.training.signals import LossInputs, Outputs
from compressor.workbench import Workbench
from compressor_plugins.checkpoint import Checkpoint, CheckpointConfig
from compressor_plugins.distill import Distill, DistillConfig
from compressor_plugins.drop_layers import DropLayers
from compressor_plugins.int8_dynamic import Int8Dynamic, Int8DynamicConfig

RIVALS = Path(tempfile.gettempdir()) / f"compressor-rivals-{os.getpid()}"
RNG = np.random.default_rng(6)
SHAPE = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
SHAPE |= {"max_position_embeddings": 40}
FAMILIES = {
    "distilbert": {
        "vocab_size": 60,
        "dim": 16,
        "n_layers": 2,
        "n_heads": 2,
        "hidden_dim": 24,
        "max_position_embeddings": 40,
    },
    "albert": {**SHAPE, "embedding_size": 8, "pad_token_id": 0},
    "electra": {**SHAPE, "embedding_size": 8},
    "mobilebert": {**SHAPE, "embedding_size": 8, "intra_bottleneck_size": 8, "true_hidden_size": 8},
    "deberta-v2": {**SHAPE, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8},
}
OTHER_WORDS = tuple(reversed(WORDS))  # a vocabulary whose ids mean other words


@pytest.fixture(scope="module", autouse=True)
def rivals():
    """Save a tiny checkpoint of each family, as a stranger would: an encoder with an untrained head, and its tokenizer."""
    for family, options in FAMILIES.items():
        torch.manual_seed(3)
        config = transformers.AutoConfig.for_model(family, **options)
        transformers.AutoModel.from_config(config).save_pretrained(RIVALS / family)
        tiny_tokenizer(OTHER_WORDS).save_pretrained(RIVALS / family)
    torch.manual_seed(3)
    tiny_bert(layers=2).bert.save_pretrained(RIVALS / "bert")
    tiny_tokenizer().save_pretrained(RIVALS / "bert")
    yield
    shutil.rmtree(RIVALS)


def rival(family="distilbert", **options):
    return Checkpoint(CheckpointConfig(checkpoint=str(RIVALS / family), **options))


@parametrize_with_checks([rival()])
def test_promises(method, check, tmp_path) -> None:
    check(method, tmp_path)


class Recorded(Workbench):
    """Keeps the loss that the method gives to `fit`, and what it asked for."""

    seen: list = []

    def fit(self, model, loss, **kwargs):
        Recorded.seen.append((loss, kwargs))
        return super().fit(model, loss, **kwargs)


def recorded(house, method):
    Recorded.seen.clear()
    return house.compress([method], bench=Recorded), *Recorded.seen[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_rivals_of_every_family_learn_beside_a_teacher_of_other_tokens(tmp_path, family) -> None:
    house = TinyHouse(tmp_path)
    result, _, asked = recorded(house, rival(family))
    assert result.config.model_type == family and asked["signals"].logits
    assert result.tokenizer.get_vocab() != house.teacher.tokenizer.get_vocab()
    assert [step.method for step in result.lineage] == ["checkpoint"]
    assert result.lineage[0].notes["model_type"] == family
    link = house.check([rival(family)])[0]
    assert (link.result.layers, link.result.hidden_size) == (result.blueprint.layers, result.blueprint.hidden_size)
    folder = tmp_path / "out" / "model"
    store.save(result, folder)
    again = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    batch = house.batch(result)
    with torch.inference_mode():
        from compressor.families import forward_inputs

        plain, own = (m(**forward_inputs(m, batch.inputs)).logits for m in (again, result.model))
    assert torch.equal(plain, own)


def test_the_teachers_logits_are_those_of_the_same_example(tmp_path) -> None:
    """A loss that looks: what it is given as the teacher's logits is what the teacher says of that text, in its own tokens."""
    seen = []

    class Looking(Workbench):
        def fit(self, model, loss, **kwargs):
            def looking(step):
                seen.append((step.batch.ids, step.teacher_logits.clone()))
                return loss(step)

            return super().fit(model, looking, **kwargs)

    house = TinyHouse(tmp_path)
    house.compress([rival("albert")], bench=Looking)
    texts = {e.id: e.text for e in house.data.train}
    assert sum(len(ids) for ids, _ in seen) == len(texts)
    for ids, logits in seen:
        coded = house.teacher.tokenizer([texts[i] for i in ids], padding=True, return_tensors="pt")
        with torch.inference_mode():
            expected = house.teacher.model(**coded).logits
        assert torch.allclose(logits, expected, atol=2e-2)  # the cache was filled under the training's arithmetic


def test_the_loss_is_the_weighted_sum(tmp_path) -> None:
    house = TinyHouse(tmp_path)
    _, loss, _ = recorded(house, rival("bert", teacher_weight=0.25, temperature=3.0))
    batch = house.batch(house.teacher)
    count = len(batch.ids)
    s, t = RNG.normal(size=(2, count, 2))

    def log_softmax(x):
        return x - np.log(np.exp(x).sum(-1, keepdims=True))

    got = loss(
        LossInputs(
            task=house.task,
            batch=batch,
            student=Outputs(logits=torch.tensor(s)),
            teacher=Outputs(logits=torch.tensor(t)),
            step=0,
            total_steps=1,
        )
    )
    p, q = log_softmax(t / 3), log_softmax(s / 3)
    assert got["soft"].item() == pytest.approx(0.25 * 9 * (np.exp(p) * (p - q)).sum(-1).mean(), abs=1e-5)
    hard = -log_softmax(s)[np.arange(count), batch.labels.numpy()].mean()
    assert got["hard"].item() == pytest.approx(0.75 * hard, abs=1e-5)


@pytest.mark.parametrize(("weight", "asks"), [(0.0, False), (1.0, True)])
def test_help_of_the_teacher_can_be_all_or_nothing(tmp_path, weight, asks) -> None:
    method = rival(teacher_weight=weight)
    _, _, asked = recorded(TinyHouse(tmp_path), method)
    assert asked["signals"].logits is asks and asked["use_unlabelled"] is asks
    assert bool(method.capabilities.signals) is asks and type(method).capabilities.signals


def test_rate_and_epochs_of_its_own(tmp_path) -> None:
    house = TinyHouse(tmp_path)
    result, _, asked = recorded(house, rival(learning_rate=3e-4, epochs=2))
    assert (asked["train"].learning_rate, asked["train"].epochs) == (3e-4, 2)
    assert result.lineage[0].notes["epochs"] == 2
    _, _, asked = recorded(house, rival(learning_rate=None))
    assert (asked["train"].learning_rate, asked["train"].epochs) == (house.train.learning_rate, house.train.epochs)


def test_what_others_make_of_a_rival(tmp_path) -> None:
    house = TinyHouse(tmp_path)
    distilled = house.compress([rival("bert"), Distill(DistillConfig())], StudentConfig(layers=1))
    assert distilled.blueprint.layers == 1
    assert [step.method for step in distilled.lineage] == ["checkpoint", "distill"]
    assert house.compress([rival("bert"), Int8Dynamic(Int8DynamicConfig())]).lineage[1].method == "int8_dynamic"


def test_a_rival_that_this_program_made_brings_its_lineage(tmp_path) -> None:
    house = TinyHouse(tmp_path)
    first = house.compress([DropLayers(MethodConfig())], StudentConfig(layers=1))
    store.save(first, tmp_path / "out" / "model")
    result = house.compress([Checkpoint(CheckpointConfig(checkpoint=str(tmp_path / "out" / "model")))])
    assert [step.method for step in result.lineage] == ["drop_layers", "checkpoint"]


@pytest.mark.parametrize("kind", ["regression", "token_classification"])
def test_other_task_types(tmp_path, kind) -> None:
    house = TinyHouse(tmp_path)
    names = ("O", "B-X") if kind == "token_classification" else ()
    house.task = build_task(TaskConfig(name=kind, type=kind, max_length=32), names)
    splits = {
        name: tuple(tiny_examples(24, seed=i, kind=kind)) for i, name in enumerate(("train", "validation", "test"))
    }
    house.data = TaskData(**splits, fingerprint=kind)
    module = tiny_bert(layers=4, tokens=kind == "token_classification", **house.task.config_overrides()).eval()
    house.teacher = replace(house.teacher, module=module, config=module.config, head=house.task.head)
    if kind == "token_classification":
        with pytest.raises(Incompatible, match="cuts text into other tokens"):
            house.check([rival("electra")])
        result = house.compress([rival("electra", teacher_weight=0.0)])
    else:
        with pytest.raises(Incompatible, match="a temperature softens classes"):
            house.check([rival("electra", temperature=4.0)])
        result = house.compress([rival("electra")])
    assert np.isfinite(house.logits(result)).all()
    assert house.compress([rival("bert")]).config.model_type == "bert"


# refusals, all of them in `check`: the teacher has not been trained by then


def refused(house, name, error, told, **options):
    with pytest.raises(error, match=told):
        house.check([Checkpoint(CheckpointConfig(checkpoint=str(name), **options))])


def test_a_checkpoint_that_is_not_there(tmp_path) -> None:
    missing = tmp_path / "nowhere"
    refused(
        TinyHouse(tmp_path), missing, ConfigError, f"method.checkpoint.checkpoint={missing}: there is no such folder"
    )


def test_pickled_weights(tmp_path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(RIVALS / "electra", folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(AssetError, match="method.checkpoint.checkpoint") as caught:
        TinyHouse(tmp_path).check([Checkpoint(CheckpointConfig(checkpoint=str(folder)))])
    assert "pickles may run code and are not opened" in str(caught.value)


def test_a_decoder_and_a_compiled_model_of_ours(tmp_path) -> None:
    house = TinyHouse(tmp_path)
    transformers.BartConfig(vocab_size=60, d_model=16, encoder_layers=1, decoder_layers=1).save_pretrained(
        tmp_path / "bart"
    )
    tiny_tokenizer().save_pretrained(tmp_path / "bart")
    (tmp_path / "bart" / "model.safetensors").touch()
    refused(house, tmp_path / "bart", Incompatible, "of type bart, not a transformer encoder")
    shutil.copytree(RIVALS / "bert", tmp_path / "int8")
    record = {"schema_version": store.SCHEMA_VERSION, "form": "onnx"}
    (tmp_path / "int8" / store.RECORD).write_text(json.dumps(record))
    refused(house, tmp_path / "int8", Incompatible, "compiled model")


def test_texts_longer_than_its_positions(tmp_path) -> None:
    house = TinyHouse(tmp_path)
    house.task = build_task(TaskConfig(name="toy", type="classification", max_length=48), ("negative", "positive"))
    refused(house, RIVALS / "electra", Incompatible, "has 40 positions")


def test_a_link_before_it_would_be_thrown_away(tmp_path) -> None:
    with pytest.raises(Incompatible, match="what 'drop_layers' made would be thrown away"):
        TinyHouse(tmp_path).check([DropLayers(MethodConfig()), rival()], StudentConfig(layers=2))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"checkpoint": ""}, "checkpoint="),
        ({"teacher_weight": 1.5}, "teacher_weight=1.5"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"learning_rate": 2.0}, "learning_rate=2.0"),
        ({"epochs": 0}, "epochs=0"),
    ],
)
def test_options_out_of_range_are_named(options, told) -> None:
    with pytest.raises(ConfigError, match=told):
        CheckpointConfig(**options)
