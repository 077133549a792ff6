"""Hidden words: how they are drawn, what they are scored by, and that a resumed training hides the same ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from compressor.config import FineTune, Precision, TaskConfig, TeacherConfig, TrainConfig
from compressor.errors import Incompatible
from compressor.machine import Machine
from compressor.tasks import build_task
from compressor.tasks.base import IGNORED
from compressor.tasks.data import load_task
from compressor.tasks.masked_lm import Vocabulary, masking_seed
from compressor.testing.tiny import FILLERS, tiny_examples, tiny_tokenizer
from compressor.training.batching import encode_split
from compressor.training.loop import fit
from compressor.training.progress import silent_progress
from compressor.training.session import label_loss
from compressor.training.signals import TeacherSignals
from compressor.training.teacher_cache import TeacherOutputs

TOKENIZER = tiny_tokenizer()


def corpus(n=40, seed=0):
    return [replace(e, label=masking_seed(e.text)) for e in tiny_examples(n, seed=seed)]


@pytest.fixture
def task():
    return build_task(TaskConfig(name="corpus", type="masked_lm", max_length=32), ())


@pytest.fixture
def split(task):
    return encode_split(task, TOKENIZER, corpus())


def tiny_masked_lm(layers=2, seed=0, hidden=32):
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(seed)
    return BertForMaskedLM(
        BertConfig(
            vocab_size=len(TOKENIZER),
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=4,
            intermediate_size=2 * hidden,
            max_position_embeddings=64,
        )
    )


# masking


def test_15_percent_are_hidden_in_the_shares_of_the_paper() -> None:
    vocabulary = Vocabulary.of(TOKENIZER)
    ids = np.array([2, *([7, 8, 9, 10] * 5000), 3, 0, 0])
    seen, labels = vocabulary.hide(ids, [1])
    drawn = labels != IGNORED
    assert drawn.sum() == 3000 and (labels[drawn] == ids[drawn]).all()
    assert not drawn[[0, -1, -2, -3]].any() and (seen[~drawn] == ids[~drawn]).all()
    masked, kept = (seen[drawn] == TOKENIZER.mask_token_id).mean(), (seen[drawn] == ids[drawn]).mean()
    assert masked == pytest.approx(0.8, abs=0.03)
    assert kept == pytest.approx(0.1 + 0.1 / len(vocabulary.ordinary), abs=0.02)
    assert not set(seen[drawn][seen[drawn] != TOKENIZER.mask_token_id]) & set(TOKENIZER.all_special_ids)


def test_a_short_text_has_one_hidden_token_and_an_empty_one_none() -> None:
    vocabulary = Vocabulary.of(TOKENIZER)
    assert (vocabulary.hide(np.array([2, 7, 3]), [0])[1] == [IGNORED, 7, IGNORED]).all()
    assert (vocabulary.hide(np.array([2, 3]), [0])[1] == IGNORED).all()


def test_a_tokenizer_without_a_mask_token_is_refused() -> None:
    from transformers import BertTokenizer

    tokenizer = BertTokenizer(vocab=TOKENIZER.get_vocab())
    tokenizer.mask_token = None
    with pytest.raises(Incompatible, match="no mask token"):
        Vocabulary.of(tokenizer)


def test_held_out_texts_hide_the_same_tokens_each_time_and_steps_other_ones(split) -> None:
    first, again = split.batch([0, 1, 2]), split.batch([0, 1, 2])
    assert torch.equal(first.labels, again.labels) and torch.equal(first.inputs["input_ids"], again.inputs["input_ids"])
    steps = [split.step_batch([0, 1, 2], seed=0, step=step) for step in range(8)]
    assert len({tuple(s.labels.flatten().tolist()) for s in steps}) > 4
    assert torch.equal(steps[3].labels, split.step_batch([0, 1, 2], seed=0, step=3).labels)
    other = split.step_batch([0, 1, 2], seed=1, step=3)
    assert not torch.equal(steps[3].inputs["input_ids"], other.inputs["input_ids"])
    for batch in (first, *steps):  # the same texts behind each masking
        whole = torch.where(batch.labels != IGNORED, batch.labels, batch.inputs["input_ids"])
        plain = [TOKENIZER(e.text)["input_ids"] for e in split.examples[:3]]
        assert [row[row != 0].tolist() for row in whole] == plain
        assert torch.equal(batch.positions, batch.labels != IGNORED)


def test_what_is_drawn_for_a_text_hangs_on_no_batch_mate(split) -> None:
    alone, beside = split.step_batch([5], 0, 7), split.step_batch([5, 1, 30], 0, 7)
    width = alone.labels.shape[1]
    assert torch.equal(alone.labels[0], beside.labels[0, :width])
    assert torch.equal(alone.inputs["input_ids"][0], beside.inputs["input_ids"][0, :width])


# losses and metric


def test_losses_and_the_metric_equal_numpy(task, split) -> None:
    batch = split.batch([0, 1, 2, 3])
    rng = np.random.default_rng(2)
    shape = (*batch.labels.shape, len(TOKENIZER))
    student, teacher = rng.normal(size=shape), rng.normal(size=shape)

    def log_softmax(x):
        return x - np.log(np.exp(x).sum(-1, keepdims=True))

    at, labels = batch.positions.numpy(), batch.labels.numpy()
    hard = -log_softmax(student)[at][np.arange(at.sum()), labels[at]].mean()
    assert task.hard_loss(torch.tensor(student), batch).item() == pytest.approx(hard, abs=1e-5)
    real = batch.inputs["attention_mask"].numpy().astype(bool)
    p, q = log_softmax(teacher[real] / 2), log_softmax(student[real] / 2)
    soft = 4 * (np.exp(p) * (p - q)).sum(-1).mean()
    assert task.soft_loss(torch.tensor(student), torch.tensor(teacher), batch, 2.0).item() == pytest.approx(
        soft, abs=1e-5
    )
    student[0][at[0], labels[0][at[0]]] = 99.0  # the first text's hidden tokens are found
    predictions = task.predict(torch.tensor(student), batch)
    found = [(student[i].argmax(-1) == labels[i])[at[i]].sum() for i in range(4)]
    assert predictions == [[n, m] for n, m in zip(found, at.sum(1), strict=True)] and predictions[0][0] == at[0].sum()
    scores = task.scores(predictions, task.references(split.examples[:4]))
    assert scores == {"masked_accuracy": pytest.approx(sum(found) / at.sum())}


def test_chance_is_the_share_of_the_commonest_word(task) -> None:
    train = [replace(e, text=text) for e, text in zip(corpus(2), ["a a a b", "b c"], strict=True)]
    held_out = [replace(e, text=text) for e, text in zip(corpus(2), ["a b", "A, a d"], strict=True)]
    assert task.chance(train, held_out) == 3 / 6


# data


def test_a_text_file_is_a_corpus(tmp_path) -> None:
    lines = [f"{a} {b} {c}" for a in FILLERS for b in FILLERS[:8] for c in FILLERS[:3]]
    (tmp_path / "corpus.txt").write_text("\n".join([*lines, "", "  "]))
    config = TaskConfig(name="corpus", type="masked_lm", source="file", train=str(tmp_path / "corpus.txt"))
    task, data = load_task(config)
    assert task.label_names == () and task.head.task_type == "masked_lm"
    rows = (*data.train, *data.validation, *data.test)
    assert sorted(e.text for e in rows) == sorted(lines)
    assert all(e.label == masking_seed(e.text) for e in rows)
    assert not {e.text for e in data.train} & {e.text for e in (*data.validation, *data.test)}


def test_a_large_corpus_holds_out_so_many_texts_and_no_more(tmp_path, monkeypatch) -> None:
    from compressor.tasks import data as module

    monkeypatch.setattr(module, "HELD_OUT_TEXTS", 5)
    (tmp_path / "corpus.txt").write_text("\n".join(f"text number {i}" for i in range(400)))
    config = TaskConfig(name="corpus", type="masked_lm", source="file", train=str(tmp_path / "corpus.txt"))
    _, data = load_task(config)
    assert (len(data.validation), len(data.test)) == (5, 5)


# teacher


def test_teacher_and_student_see_one_masking(task, split) -> None:
    teacher = tiny_masked_lm(3, seed=7).eval()
    outputs = TeacherOutputs(
        teacher,
        TOKENIZER,
        split=split,
        student_tokenizer=TOKENIZER,
        signals=TeacherSignals(logits=True, hidden=(2,)),
        precision=Precision.fp32,
    )
    outputs.fill()
    batch = split.step_batch([0, 1], seed=0, step=4)
    got = outputs.for_batch([0, 1], batch)
    with torch.inference_mode():
        expected = teacher(**batch.inputs, output_hidden_states=True)
    assert torch.allclose(got.logits, expected.logits, atol=1e-6)
    mask = batch.inputs["attention_mask"].bool()
    assert torch.allclose(got.hidden[2][mask], expected.hidden_states[-1][mask], atol=1e-6)
    assert outputs.notes == {}


def saved_masked_lm(folder, *, trained):
    model = tiny_masked_lm()
    if trained:
        task = build_task(TaskConfig(name="corpus", type="masked_lm", max_length=32), ())
        learn(task, model, epochs=6, n=160)
    (model if trained else model.bert).save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return str(folder)


def learn(task, model, *, epochs=1, n=40, checkpoints=None, hooks=(), **settings):
    settings = {
        "batch_size": 8,
        "learning_rate": 3e-3,
        "precision": Precision.fp32,
        "checkpoint_seconds": 1e9,
    } | settings
    return fit(
        model,
        label_loss,
        train=encode_split(task, TOKENIZER, corpus(n)),
        validation=encode_split(task, TOKENIZER, corpus(24, seed=1)),
        settings=TrainConfig(epochs=epochs, **settings),
        checkpoints=checkpoints,
        hooks=hooks,
        progress=silent_progress(),
    )


class Halt:
    """Stands for a crash before a step."""

    def __init__(self, at: int | None) -> None:
        self.at = at

    def before_forward(self, step, total_steps):
        if step == self.at:
            raise KeyError("halted")

    def after_step(self, step, total_steps):
        pass

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def test_a_resumed_training_hides_what_the_interrupted_one_would_have(task, tmp_path) -> None:
    whole = tiny_masked_lm()
    first = learn(task, whole, epochs=2, hooks=[Halt(None)])
    with pytest.raises(KeyError):
        learn(task, tiny_masked_lm(), epochs=2, hooks=[Halt(7)], checkpoints=tmp_path, checkpoint_seconds=0.0)
    resumed = tiny_masked_lm()
    result = learn(task, resumed, epochs=2, hooks=[Halt(None)], checkpoints=tmp_path, checkpoint_seconds=0.0)
    assert result.resumed_from == "step 7"
    assert [e.train for e in result.epochs] == [e.train for e in first.epochs]
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@pytest.fixture
def house_data(task):
    from compressor.tasks.data import TaskData

    return TaskData(
        train=tuple(corpus(40)),
        validation=tuple(corpus(24, seed=1)),
        test=tuple(corpus(16, seed=2)),
        fingerprint="corpus",
    )


def prepared(checkpoint, task, data, tmp_path, monkeypatch, finetune=FineTune.auto):
    from compressor import teacher

    monkeypatch.setenv("COMPRESSOR_CACHE", str(tmp_path / "cache"))
    config = TeacherConfig(checkpoint=checkpoint, finetune=finetune)
    machine = Machine(device="cpu", threads=1)
    return teacher.prepare(config, task, data, machine, seed=0, progress=silent_progress())


@pytest.mark.parametrize(
    ("trained", "finetune"), [(False, FineTune.auto), (False, FineTune.never), (True, FineTune.always)]
)
def test_a_teacher_without_its_own_head_is_refused_before_work(
    task, house_data, tmp_path, monkeypatch, trained, finetune
) -> None:
    model = tiny_masked_lm()
    (model if trained else model.bert).save_pretrained(tmp_path / "teacher")
    TOKENIZER.save_pretrained(tmp_path / "teacher")
    with pytest.raises(Incompatible, match="no trained head for task type masked_lm"):
        prepared(str(tmp_path / "teacher"), task, house_data, tmp_path, monkeypatch, finetune)


def test_a_teacher_whose_head_knows_nothing_is_refused(task, house_data, tmp_path, monkeypatch) -> None:
    from compressor.errors import TrainingError

    tiny_masked_lm().save_pretrained(tmp_path / "teacher")
    TOKENIZER.save_pretrained(tmp_path / "teacher")
    with pytest.raises(TrainingError, match="masked_accuracy"):
        prepared(str(tmp_path / "teacher"), task, house_data, tmp_path, monkeypatch)


def test_a_trained_masked_lm_is_a_teacher(task, house_data, tmp_path, monkeypatch) -> None:
    checkpoint = saved_masked_lm(tmp_path / "teacher", trained=True)
    ready = prepared(checkpoint, task, house_data, tmp_path, monkeypatch)
    assert ready.seconds == 0 and ready.validation["masked_accuracy"] > 0.08
    assert type(ready.artifact.model).__name__ == "BertForMaskedLM"
