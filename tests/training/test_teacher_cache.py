from __future__ import annotations

import pytest
import torch
from toy_task import Toy, distillation_loss

from compressor.config import Precision
from compressor.errors import Incompatible, TrainingError
from compressor.testing.tiny import FILLERS, MARKERS, tiny_tokenizer
from compressor.training.batching import encode_split
from compressor.training.outputs import eager_attention, run_model
from compressor.training.precision import native_bf16
from compressor.training.signals import TeacherSignals
from compressor.training.teacher_cache import TeacherOutputs

HIDDEN = TeacherSignals(logits=True, hidden=(-1, 0, 2))
PRECISIONS = [Precision.fp32] + [Precision.bf16] * native_bf16("cpu")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", ["classification", "token_classification"])
def test_kept_and_fresh_outputs_agree_within_bf16(kind, precision) -> None:
    toy = Toy(kind)
    kept = toy.teacher(HIDDEN, precision=precision)
    fresh = toy.teacher(HIDDEN, precision=precision, cache_gb=0.0)
    kept.fill()
    fresh.fill()
    assert kept.keeps_hidden and not fresh.keeps_hidden
    assert not kept.notes and "cache_gb=0" in fresh.notes["teacher_hidden_states"]
    indices = [3, 50, 7, 0]
    batch = toy.train.batch(indices)
    one, two = kept.for_batch(indices, batch), fresh.for_batch(indices, batch)
    assert one.hidden.keys() == two.hidden.keys() == set(HIDDEN.hidden)
    for layer in HIDDEN.hidden:
        assert one.hidden[layer].shape == (4, batch.inputs["input_ids"].shape[1], 32)
        torch.testing.assert_close(one.hidden[layer], two.hidden[layer], rtol=2**-6, atol=2**-6)
    mask = batch.inputs["attention_mask"].bool()
    direct = run_model(kept.model.eval(), batch.inputs, TeacherSignals()).logits.detach()
    mine, direct = (one.logits[mask], direct[mask]) if kind == "token_classification" else (one.logits, direct)
    torch.testing.assert_close(mine, direct, rtol=2**-6, atol=2**-6 if precision is Precision.bf16 else 1e-5)


def test_attention_and_projections_are_computed_with_the_batch(toy) -> None:
    teacher = toy.teacher(TeacherSignals(attention=(1,), qkv=(0, 2)))
    teacher.fill()
    before = teacher.model.config._attn_implementation
    indices = [4, 9]
    batch = toy.train.batch(indices)
    found = teacher.for_batch(indices, batch)
    length = batch.inputs["input_ids"].shape[1]
    assert found.logits is None
    assert found.attention[1].shape == (2, 4, length, length)
    torch.testing.assert_close(found.attention[1].sum(-1), torch.ones(2, 4, length))
    assert found.qkv.keys() == {0, 2} and all(t.shape == (2, length, 32) for t in found.qkv[2])
    layer = teacher.model.bert.encoder.layer[2].attention.self
    states = run_model(teacher.model, batch.inputs, TeacherSignals(hidden=(1,))).hidden[1]
    torch.testing.assert_close(found.qkv[2][0], layer.query(states), rtol=1e-4, atol=1e-5)
    assert teacher.model.config._attn_implementation == before
    assert not any(m._forward_hooks for m in (layer.query, layer.key, layer.value))


def test_every_signal_can_be_learned_from(toy) -> None:
    signals = TeacherSignals(logits=True, hidden=(2,), attention=(2,), qkv=(2,))
    mine = TeacherSignals(hidden=(1,), attention=(1,), qkv=(1,))

    def loss(inputs):
        pairs = [
            ("hidden", inputs.student.hidden[1], inputs.teacher.hidden[2]),
            ("attention", inputs.student.attention[1], inputs.teacher.attention[2]),
            ("value", inputs.student.qkv[1][2], inputs.teacher.qkv[2][2]),
        ]
        return {name: (a - b).square().mean() for name, a, b in pairs} | distillation_loss(inputs)

    _, result = toy.fit(loss=loss, epochs=3, options={"teacher": toy.teacher(signals), "student_signals": mine})
    first, last = result.epochs[0].train, result.epochs[-1].train
    assert set(last) == {"hidden", "attention", "value", "soft", "hard"}
    assert last["hidden"] < first["hidden"] and last["value"] < 0.8 * first["value"]


def test_a_layer_that_is_not_there_is_named(toy) -> None:
    batch = toy.train.batch([0])
    for signals in (TeacherSignals(hidden=(3,)), TeacherSignals(qkv=(3,)), TeacherSignals(attention=(3,))):
        model = toy.model(3).eval()
        with pytest.raises(Incompatible, match="layer 3"), eager_attention(model):
            run_model(model, batch.inputs, signals)


def test_logits_cross_tokenizers_example_by_example(toy) -> None:
    other = tiny_tokenizer((*reversed(FILLERS), *MARKERS))
    teacher = TeacherOutputs(
        toy.model(3, seed=7).eval(),
        other,
        split=toy.train,
        student_tokenizer=toy.tokenizer,
        signals=TeacherSignals(logits=True),
        precision=Precision.fp32,
    )
    teacher.fill()
    indices = [5, 1]
    theirs = encode_split(toy.task, other, toy.train.examples).batch(indices)
    with torch.no_grad():
        direct = teacher.model(**theirs.inputs).logits
    torch.testing.assert_close(teacher.for_batch(indices, toy.train.batch(indices)).logits, direct)


@pytest.mark.parametrize(
    ("kind", "signals"),
    [("classification", TeacherSignals(hidden=(0,))), ("token_classification", TeacherSignals(logits=True))],
)
def test_token_level_signals_across_tokenizers_are_refused(kind, signals) -> None:
    toy = Toy(kind)
    with pytest.raises(Incompatible, match="different tokenizers"):
        toy.teacher(signals, student_tokenizer=tiny_tokenizer((*reversed(FILLERS), *MARKERS)))


def test_a_teacher_with_nan_logits_stops_before_training(toy) -> None:
    teacher = toy.teacher(TeacherSignals(logits=True))
    with torch.no_grad():
        teacher.model.classifier.bias[0] = float("nan")
    with pytest.raises(TrainingError, match="teacher's logits for example"):
        toy.fit(loss=distillation_loss, options={"teacher": teacher})


def test_the_teacher_is_left_as_it_was(toy) -> None:
    teacher = toy.teacher(HIDDEN)
    teacher.model.train()
    before = {k: v.clone() for k, v in teacher.model.state_dict().items()}
    toy.fit(loss=distillation_loss, options={"teacher": teacher})
    assert teacher.model.training and all(p.grad is None for p in teacher.model.parameters())
    assert all(torch.equal(before[k], v) for k, v in teacher.model.state_dict().items())
