"""DistilBERT: the same function to start from, the triple loss in numpy, a checkpoint that transformers alone reads."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers

from compressor import store
from compressor.config import MethodConfig, Precision, StudentConfig, TaskConfig, TrainConfig
from compressor.errors import ConfigError, Incompatible
from compressor.tasks import build_task
from compressor.tasks.base import Example
from compressor.tasks.data import TaskData
from compressor.tasks.masked_lm import masking_seed
from compressor.testing import parametrize_with_checks
from compressor.testing.house import TinyHouse
from compressor.testing.tiny import FILLERS, tiny_bert, tiny_examples
from compressor.training.batching import encode_split
from compressor.training.loop import fit
from compressor.training.progress import silent_progress
from compressor.training.session import label_loss
from compressor.training.signals import LossInputs, Outputs
from compressor.workbench import Workbench
from compressor_plugins.checkpoint import Checkpoint, CheckpointConfig
from compressor_plugins.distilbert import DistilBert, DistilBertConfig, as_distilbert, cosine_distance
from compressor_plugins.drop_layers import DropLayers
from compressor_plugins.finetune import Finetune, FinetuneConfig
from compressor_plugins.int8_dynamic import Int8Dynamic, Int8DynamicConfig

RNG = np.random.default_rng(4)
SENTENCE, TOKEN, MASKED = (
    f"AutoModelFor{kind}" for kind in ("SequenceClassification", "TokenClassification", "MaskedLM")
)


@parametrize_with_checks([DistilBert(DistilBertConfig())])
def test_promises(method, check, tmp_path) -> None:
    check(method, tmp_path)


# the same function to start from

SHAPE = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
SHAPE |= {"max_position_embeddings": 40, "hidden_act": "gelu_new"}
OWN_SHAPE = {"vocab_size": 60, "dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 40}


def of_family(name, auto_class, **overrides):
    torch.manual_seed(1)
    shape = OWN_SHAPE if name == "distilbert" else SHAPE
    config = transformers.AutoConfig.for_model(name, **{**shape, "num_labels": 3, **overrides})
    model = getattr(transformers, auto_class).from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def padded_ids(pad):
    ids = torch.randint(5, 60, (3, 12), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0
    ids[1, 8:] = pad
    return ids, mask


@pytest.mark.parametrize("auto_class", [SENTENCE, TOKEN, MASKED])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("bert", {}),
        ("roberta", {"pad_token_id": 1}),
        ("xlm-roberta", {"pad_token_id": 1}),
        ("camembert", {"pad_token_id": 1}),
        ("electra", {"embedding_size": 32, "hidden_act": "gelu"}),
        ("distilbert", {}),
    ],
)
def test_the_student_is_the_same_function_before_it_is_trained(name, options, auto_class) -> None:
    model = of_family(name, auto_class, **({} if name == "distilbert" else {"hidden_act": "gelu"}) | options)
    student = as_distilbert(model, auto_class, {"num_labels": 3}).eval()
    assert type(student).__name__ == f"DistilBert{auto_class.removeprefix('AutoModel')}"
    ids, mask = padded_ids(model.config.pad_token_id)
    with torch.inference_mode():
        theirs = model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        ours = student(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    real = mask.bool()
    for before, after in zip(theirs.hidden_states, ours.hidden_states, strict=True):
        assert torch.allclose(before[real], after[real], atol=1e-5)  # the norms' epsilon is 1e-12 in DistilBERT
    if auto_class != SENTENCE:
        assert torch.allclose(theirs.logits[real], ours.logits[real], atol=1e-5)


def test_the_sentence_head_is_tanh_cut_straight() -> None:
    model = of_family("bert", SENTENCE)
    student = as_distilbert(model, SENTENCE, {"num_labels": 3}).eval()
    ids, mask = padded_ids(0)
    with torch.inference_mode():
        first = model.bert(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0]
        z = model.bert.pooler.dense(first)
        expected = model.classifier(z.clamp(min=-1))
        got = student(input_ids=ids, attention_mask=mask).logits
    assert torch.allclose(got, expected, atol=1e-5)
    assert z.min() < -1, "the cut should be seen"


def test_types_of_a_single_text_are_in_the_positions_and_nowhere_else() -> None:
    model = of_family("bert", SENTENCE)
    student = as_distilbert(model, SENTENCE, {"num_labels": 3})
    table = model.bert.embeddings
    expected = table.position_embeddings.weight + table.token_type_embeddings.weight[0]
    assert torch.equal(student.distilbert.embeddings.position_embeddings.weight, expected)
    assert not [n for n in student.state_dict() if "token_type" in n or "pooler" in n]


def test_layers_that_lost_heads_and_neurons_stay_so() -> None:
    from compressor.surgery import encoder_layers, keep_heads, keep_neurons

    model = of_family("bert", TOKEN)
    first = encoder_layers(model)[0]
    keep_heads(model, first, [0, 2])
    keep_neurons(model, first, range(11))
    student = as_distilbert(model, TOKEN, {"num_labels": 3}).eval()
    ids, mask = padded_ids(0)
    with torch.inference_mode():
        before, after = (m(input_ids=ids, attention_mask=mask).logits for m in (model, student))
    assert torch.allclose(before[mask.bool()], after[mask.bool()], atol=1e-5)
    assert student.distilbert.transformer.layer[0].ffn.lin1.out_features == 11


# the loss


class Recorded(Workbench):
    """Keeps the loss that the method gives to `fit`, and what it asked for."""

    seen: list = []

    def fit(self, model, loss, **kwargs):
        Recorded.seen.append((loss, kwargs))
        return super().fit(model, loss, **kwargs)


def recorded(house, options, student=None):
    Recorded.seen.clear()
    result = house.compress([DistilBert(options)], student, bench=Recorded)
    return result, *Recorded.seen[0]


def log_softmax(x):
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def cosine(a, b):
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def test_the_triple_loss_is_the_weighted_sum_of_the_formulas(tmp_path) -> None:
    house = TinyHouse(tmp_path)
    options = DistilBertConfig(temperature=3.0, alpha_ce=4.0, alpha_mlm=3.0, alpha_cos=2.0)
    _, loss, asked = recorded(house, options)
    assert asked["signals"].hidden == (3,) and asked["student_signals"].hidden == (1,)
    batch = house.batch(house.teacher)
    count, length = batch.inputs["input_ids"].shape
    s, t = RNG.normal(size=(2, count, 2))
    hs, ht = RNG.normal(size=(2, count, length, 32))

    def terms(states):
        return loss(
            LossInputs(
                task=house.task,
                batch=batch,
                student=Outputs(logits=torch.tensor(s), hidden={1: torch.tensor(states)}),
                teacher=Outputs(logits=torch.tensor(t), hidden={3: torch.tensor(ht)}),
                step=0,
                total_steps=1,
            )
        )

    got = terms(hs)
    p, q = log_softmax(t / 3), log_softmax(s / 3)
    assert got["ce"].item() == pytest.approx(4 * 9 * (np.exp(p) * (p - q)).sum(-1).mean(), abs=1e-4)
    hard = -log_softmax(s)[np.arange(count), batch.labels.numpy()].mean()
    assert got["mlm"].item() == pytest.approx(3 * hard, abs=1e-5)
    mask = batch.inputs["attention_mask"].numpy().astype(bool)
    assert got["cos"].item() == pytest.approx(2 * (1 - cosine(hs[mask], ht[mask])).mean(), abs=1e-5)
    assert terms(hs * 5)["cos"].item() == pytest.approx(got["cos"].item(), abs=1e-5)
    assert abs(terms(hs + ht)["cos"].item() - got["cos"].item()) > 1e-2


def test_the_cosine_distance_is_that_of_the_reference_loss() -> None:
    a, b = torch.randn(7, 5), torch.randn(7, 5)
    reference = torch.nn.CosineEmbeddingLoss()(a, b, torch.ones(7))
    assert cosine_distance(a, b).item() == pytest.approx(reference.item(), abs=1e-6)


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        ({"alpha_ce": 0.0, "alpha_cos": 0.0}, frozenset()),
        ({"alpha_cos": 0.0}, frozenset({"logits"})),
        ({"alpha_ce": 0.0}, frozenset({"hidden"})),
    ],
)
def test_a_weight_of_zero_leaves_its_signals_out(tmp_path, options, kinds) -> None:
    _, _, asked = recorded(TinyHouse(tmp_path), DistilBertConfig(**options))
    assert asked["signals"].kinds() == kinds


# what comes out


@pytest.mark.parametrize(("student", "layers"), [({}, 2), ({"layers": 1}, 1), ({"layers": 3, "init": [0, 1, 3]}, 3)])
def test_the_shape_is_half_of_the_layers_or_what_was_asked_for(tmp_path, student, layers) -> None:
    house = TinyHouse(tmp_path)
    result = house.compress([DistilBert(DistilBertConfig())], StudentConfig(**student))
    assert result.config.model_type == "distilbert" and result.blueprint.layers == layers
    link = house.check([DistilBert(DistilBertConfig())], StudentConfig(**student))[0]
    assert link.result.config.to_dict() == result.config.to_dict()


PLAIN = """
import json, sys, torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
folder, texts = sys.argv[1], json.loads(sys.argv[2])
model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
with torch.inference_mode():
    logits = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
assert not [name for name in sys.modules if name.startswith("compressor")]
assert tokenizer.model_input_names == ["input_ids", "attention_mask"]
print(json.dumps({"class": type(model).__name__, "logits": logits.tolist(), "labels": model.config.id2label}))
"""


def test_transformers_alone_loads_it_and_computes_the_same(tmp_path) -> None:
    house = TinyHouse(tmp_path)
    result = house.compress([DistilBert(DistilBertConfig())])
    store.save(result, tmp_path / "out" / "model")
    texts = [e.text for e in house.data.test[:4]]
    ended = subprocess.run(
        [sys.executable, "-c", PLAIN, str(tmp_path / "out" / "model"), json.dumps(texts)],
        capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-2000:]
    told = json.loads(ended.stdout.splitlines()[-1])
    assert told["class"] == "DistilBertForSequenceClassification"
    assert told["labels"] == {"0": "negative", "1": "positive"}
    encoded = house.teacher.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        own = result.model(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"]).logits
    np.testing.assert_allclose(told["logits"], own.numpy(), atol=1e-6)


def pairs(n, seed=0):
    first, second = tiny_examples(n, seed=seed), tiny_examples(n, seed=seed + 50)
    return tuple(replace(a, text_pair=b.text) for a, b in zip(first, second, strict=True))


def test_a_teacher_of_pairs_still_sees_which_text_is_which(tmp_path) -> None:
    from compressor.training.signals import TeacherSignals
    from compressor.training.teacher_cache import TeacherOutputs
    from compressor_plugins.distilbert import without_types

    house = TinyHouse(tmp_path)
    house.data = TaskData(train=pairs(24), validation=pairs(8, 1), test=pairs(8, 2), fingerprint="pairs")
    result = house.compress([DistilBert(DistilBertConfig()), Finetune(FinetuneConfig())], StudentConfig(layers=2))
    assert "token_type_ids" not in house.batch(result).inputs
    # A link behind it distils with the student's tokenizer, which gives no types; the teacher must get them all the same.
    plain, typeless = house.teacher.tokenizer, without_types(house.teacher.tokenizer)
    with torch.no_grad():
        house.teacher.model.bert.embeddings.token_type_embeddings.weight[1] += 1.0
    found = []
    for tokenizer in (plain, typeless):
        split = encode_split(house.task, tokenizer, house.data.train)
        outputs = TeacherOutputs(
            house.teacher.model, plain, split=split, student_tokenizer=tokenizer,
            signals=TeacherSignals(logits=True, hidden=(3,), attention=(0,)), precision=Precision.fp32,
        )  # fmt: skip
        outputs.fill()
        found.append(outputs.for_batch([0, 1, 2], split.batch([0, 1, 2])))
    assert torch.equal(found[0].logits, found[1].logits)
    assert torch.equal(found[0].hidden[3], found[1].hidden[3])
    assert torch.equal(found[0].attention[0], found[1].attention[0])


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
    result = house.compress([DistilBert(DistilBertConfig())])
    assert result.config.model_type == "distilbert" and np.isfinite(house.logits(result)).all()


def test_chains(tmp_path) -> None:
    house = TinyHouse(tmp_path)
    after = house.compress([DropLayers(MethodConfig()), DistilBert(DistilBertConfig())], StudentConfig(layers=3))
    assert after.blueprint.layers == 3 and after.config.model_type == "distilbert"
    before = house.compress([DistilBert(DistilBertConfig()), Int8Dynamic(Int8DynamicConfig())])
    assert before.lineage[1].notes["linears_eligible"] == 2 * 6 + 2


# the general stage


@pytest.fixture
def masked(tmp_path):
    """A house whose teacher is a trained masked LM."""

    def corpus(n, seed):
        """Words in one fixed order from one of three starts, so that place and neighbours tell which one is hidden."""
        draw = random.Random(seed)
        cuts = [(draw.choice((0, 7, 14)), draw.randint(5, 14)) for _ in range(n)]
        texts = [" ".join((FILLERS * 2)[start : start + length]) for start, length in cuts]
        return tuple(Example(i, text, label=masking_seed(text)) for i, text in enumerate(texts))

    house = TinyHouse(tmp_path)
    house.task = build_task(TaskConfig(name="corpus", type="masked_lm", max_length=32), ())
    house.data = TaskData(train=corpus(192, 0), validation=corpus(32, 1), test=corpus(32, 2), fingerprint="corpus")
    config = transformers.BertConfig(
        vocab_size=len(house.teacher.tokenizer), hidden_size=32, num_hidden_layers=4, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=64,
    )  # fmt: skip
    torch.manual_seed(0)
    module = transformers.BertForMaskedLM(config)
    settings = TrainConfig(epochs=10, batch_size=16, learning_rate=5e-3, precision=Precision.fp32)
    tokenizer = house.teacher.tokenizer
    split, validation = (encode_split(house.task, tokenizer, d) for d in (house.data.train, house.data.validation))
    fit(module, label_loss, train=split, validation=validation, settings=settings, progress=silent_progress())
    house.teacher = replace(house.teacher, module=module, config=module.config, head=house.task.head)
    return house


def scores(house, artifact):
    from compressor.training.evaluate import evaluate

    return evaluate(artifact.model, encode_split(house.task, artifact.tokenizer, house.data.test)).scores


def test_general_distillation_leaves_a_checkpoint_that_a_task_is_learned_from(masked, tmp_path) -> None:
    from compressor import pretrained

    masked.train = replace(masked.train, epochs=6, learning_rate=2e-3)
    result = masked.compress([DistilBert(DistilBertConfig())])
    assert type(result.model).__name__ == "DistilBertForMaskedLM" and result.head.task_type == "masked_lm"
    start = as_distilbert(masked.compress([DropLayers(MethodConfig())]).model, MASKED, {}).eval()
    accuracy = {
        name: scores(masked, replace(masked.teacher, module=model))["masked_accuracy"]
        for name, model in (("teacher", masked.teacher.model), ("start", start), ("student", result.model))
    }
    assert accuracy["teacher"] > 0.5 and accuracy["student"] > accuracy["start"] + 0.1
    folder = tmp_path / "general" / "model"
    store.save(result, folder)
    again = store.load(folder)
    assert scores(masked, again) == scores(masked, result)
    plain = transformers.AutoModelForMaskedLM.from_pretrained(folder).eval()
    assert all(
        torch.equal(a, b) for a, b in zip(plain.state_dict().values(), result.model.state_dict().values(), strict=True)
    )
    # downstream: another task's fresh head on the encoder of the general student
    task = build_task(TaskConfig(name="toy", type="classification", max_length=32), ("negative", "positive"))
    torch.manual_seed(0)
    loaded = pretrained.load(str(folder), task)
    assert not loaded.trained and type(loaded.artifact.model).__name__ == "DistilBertForSequenceClassification"
    general = result.model.distilbert.transformer.layer[0].ffn.lin1.weight
    assert torch.equal(loaded.artifact.model.distilbert.transformer.layer[0].ffn.lin1.weight, general)
    house = TinyHouse(tmp_path / "task")
    house.data = replace(house.data, train=tuple(tiny_examples(192)), fingerprint="larger")
    house.train = TrainConfig(epochs=10, batch_size=16, learning_rate=5e-3, precision=Precision.fp32)
    options = CheckpointConfig(checkpoint=str(folder), teacher_weight=0.0, learning_rate=None)
    learned = house.compress([Checkpoint(options)])
    assert learned.config.model_type == "distilbert"
    assert learned.lineage[0].notes["validation"]["accuracy"] > 0.7


def test_the_general_loss_masks_anew_and_compares_all_real_tokens(masked) -> None:
    _, loss, asked = recorded(masked, DistilBertConfig())
    assert asked["signals"].kinds() == {"logits", "hidden"}
    split = encode_split(masked.task, masked.teacher.tokenizer, masked.data.train)
    batch = split.step_batch([0, 1, 2], 0, 5)
    shape = (*batch.labels.shape, len(masked.teacher.tokenizer))
    s, t = RNG.normal(size=(2, *shape))
    hidden = torch.randn(*batch.labels.shape, 32)
    got = loss(
        LossInputs(
            task=masked.task,
            batch=batch,
            student=Outputs(logits=torch.tensor(s), hidden={1: hidden}),
            teacher=Outputs(logits=torch.tensor(t), hidden={3: hidden}),
            step=5,
            total_steps=9,
        )
    )
    real, at = batch.inputs["attention_mask"].numpy().astype(bool), batch.positions.numpy()
    p, q = log_softmax(t[real] / 2), log_softmax(s[real] / 2)
    assert got["ce"].item() == pytest.approx(5 * 4 * (np.exp(p) * (p - q)).sum(-1).mean(), rel=1e-5)
    hard = -log_softmax(s)[at][np.arange(at.sum()), batch.labels.numpy()[at]].mean()
    assert got["mlm"].item() == pytest.approx(2 * hard, rel=1e-5)
    assert got["cos"].item() == pytest.approx(0, abs=1e-5)


# refusals


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"alpha_ce": -1.0}, "alpha_ce=-1.0"),
        ({"alpha_cos": -1.0}, "alpha_cos=-1.0"),
        ({"alpha_ce": 0.0, "alpha_mlm": 0.0, "alpha_cos": 0.0}, "alpha_ce=0"),
    ],
)
def test_options_out_of_range_are_named(options, told) -> None:
    with pytest.raises(ConfigError, match=told):
        DistilBertConfig(**options)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (("mpnet", {}), "does not take family mpnet"),
        (("deberta-v2", {}), "does not take family deberta-v2"),
        (("albert", {"embedding_size": 32}), "does not take family albert"),
        (("electra", {"embedding_size": 16}), "16 wide, its layers 32"),
        (("bert", {"position_embedding_type": "relative_key"}), "'relative_key'"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_sources_that_no_distilbert_can_hold_are_refused(tmp_path, config, told) -> None:
    house = TinyHouse(tmp_path)
    family, options = config
    made = transformers.AutoConfig.for_model(family, **{**SHAPE, **options})
    house.teacher = replace(house.teacher, config=made)
    with pytest.raises(Incompatible, match=told):
        house.check([DistilBert(DistilBertConfig())])


def test_what_cannot_be_compared_is_refused(tmp_path) -> None:
    house = TinyHouse(tmp_path)
    narrow = StudentConfig(layers=2, hidden_size=16, heads=2)
    with pytest.raises(Incompatible, match="student's is 16, the teacher's 32"):
        house.check([DistilBert(DistilBertConfig())], narrow)
    result = house.compress([DistilBert(DistilBertConfig(alpha_cos=0.0))], narrow)
    assert result.blueprint.hidden_size == 16
    house.task = build_task(TaskConfig(name="scores", type="regression", max_length=32), ())
    with pytest.raises(Incompatible, match="a temperature softens classes"):
        house.check([DistilBert(DistilBertConfig(temperature=4.0))])
