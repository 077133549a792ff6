from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from toy_task import Toy, distillation_loss, sha256_of

from compressor.config import Precision
from compressor.errors import PluginError, TrainingError
from compressor.tasks.base import Example
from compressor.training.batching import encode_split
from compressor.training.evaluate import evaluate
from compressor.training.optimization import rate_factor
from compressor.training.precision import native_bf16, resolve_precision
from compressor.training.signals import TeacherSignals


@pytest.mark.parametrize(
    ("kind", "at_least"), [("classification", 0.9), ("regression", 0.8), ("token_classification", 0.9)]
)
def test_every_kind_of_task_is_learned(kind, at_least) -> None:
    toy = Toy(kind, examples=160)
    model, result = toy.fit(epochs=6, learning_rate=5e-3)
    means = [record.train["hard"] for record in result.epochs]
    assert means[-1] < 0.5 * means[0]
    assert result.best_score > at_least
    assert evaluate(model, toy.validation).scores[toy.task.metrics[0].name] == result.best_score
    assert not any(m.training for m in model.modules())
    assert result.steps == 6 * 10 and result.tokens == 6 * toy.train.tokens


@pytest.mark.parametrize("kind", ["classification", "token_classification"])
def test_distillation_learns_the_teacher_without_labels(kind) -> None:
    toy = Toy(kind)
    bare = tuple(replace(e, label=None) for e in toy.train.examples)
    toy.train = encode_split(toy.task, toy.tokenizer, bare)
    model, result = toy.fit(
        loss=distillation_loss, epochs=3, options={"teacher": toy.teacher(TeacherSignals(logits=True))}
    )
    assert result.epochs[-1].train["soft"] < result.epochs[0].train["soft"]
    assert result.epochs[0].train["hard"] == 0.0


def test_transfer_text_mixes_with_labelled_examples(toy) -> None:
    mixed = (*toy.train.examples, *(Example(1000 + i, "a very good film", label=None) for i in range(20)))
    toy.train = encode_split(toy.task, toy.tokenizer, mixed)
    _, result = toy.fit(loss=distillation_loss, options={"teacher": toy.teacher(TeacherSignals(logits=True))})
    assert all(math.isfinite(v) for v in result.epochs[-1].train.values())


def test_accumulated_gradients_are_those_of_the_whole_batch(toy) -> None:
    whole, _ = toy.fit(toy.model(dropout=0.0), batch_size=32, learning_rate=1e-3)
    parts, _ = toy.fit(toy.model(dropout=0.0), batch_size=16, gradient_accumulation=2, learning_rate=1e-3)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], value, rtol=1e-4, atol=2e-5, msg=name)


@pytest.mark.parametrize("bad_step", [0, 4])
def test_a_loss_that_is_not_finite_stops_before_the_weights_change(toy, bad_step) -> None:
    seen, weights = [], []
    model = toy.model()

    def loss(inputs):
        seen.append(inputs.step)
        weights.append(sha256_of(model))
        term = inputs.task.hard_loss(inputs.logits, inputs.batch)
        return {"good": term, "odd": term * (math.nan if inputs.step == bad_step else 1.0)}

    with pytest.raises(TrainingError, match=rf"'odd' \(nan\) is not finite at step {bad_step + 1} "):
        toy.fit(model, loss)
    assert seen[-1] == bad_step and sha256_of(model) == weights[-1]
    assert not any(m.training for m in model.modules()) and all(p.grad is None for p in model.parameters())


def test_a_gradient_that_is_not_finite_is_named(toy) -> None:
    def loss(inputs):
        return {"root": inputs.logits.sub(inputs.logits.detach()).abs().sqrt().sum()}  # 0 with an infinite slope

    with pytest.raises(TrainingError, match="gradient of .*classifier.* not finite at step 1 "):
        toy.fit(loss=loss, options={"parameter_groups": [{"params": list(toy_classifier(toy))}]}, model=toy.held)


def toy_classifier(toy):
    toy.held = toy.model()
    return toy.held.classifier.parameters()


def test_a_term_that_is_no_scalar_is_refused(toy) -> None:
    with pytest.raises(PluginError, match="shape"):
        toy.fit(loss=lambda inputs: {"rows": inputs.logits.sum(dim=1)})


def test_the_best_epoch_is_kept_and_ties_go_to_the_earlier(toy, monkeypatch) -> None:
    from compressor.training import stage

    scores, states, real = iter([0.5, 0.75, 0.75, 0.25]), [], stage.evaluate

    def scripted(model, *args, **options):
        states.append(sha256_of(model))
        return replace(real(model, *args, **options), scores={"accuracy": next(scores)})

    monkeypatch.setattr(stage, "evaluate", scripted)
    model, result = toy.fit(epochs=4)
    assert result.best_epoch == 2 and result.best_score == 0.75
    assert sha256_of(model) == states[1]
    scores = iter([0.9, 0.1])
    model, result = toy.fit(epochs=2, keep_best=False)
    assert sha256_of(model) == states[-1] and result.best_epoch == 1


def test_frozen_embeddings_stay_and_are_thawed_again(toy) -> None:
    model = toy.model()
    table = model.get_input_embeddings().weight
    before = table.detach().clone()
    toy.fit(model, freeze_embeddings=True)
    assert torch.equal(table, before) and table.requires_grad
    toy.fit(model)
    assert not torch.equal(table, before)


def test_global_state_is_left_alone(toy) -> None:
    torch.manual_seed(5)
    before, threads, model = torch.get_rng_state(), torch.get_num_threads(), toy.model()
    torch.set_rng_state(before)
    with torch.no_grad():
        toy.fit(model)
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_the_seed_decides_and_nothing_else(toy) -> None:
    torch.manual_seed(1)
    one = sha256_of(toy.fit()[0])
    torch.manual_seed(2)
    assert sha256_of(toy.fit()[0]) == one
    assert sha256_of(toy.fit(options={"seed": 1})[0]) != one
    assert sha256_of(toy.fit(options={"stage": "other"})[0]) != one


def test_the_same_seed_gives_the_same_bits_in_another_process(toy, toy_path) -> None:
    here = torch.get_num_threads()
    code = (
        f"import sys, torch; torch.set_num_threads({here}); sys.path.insert(0, {toy_path!r})\n"
        "from toy_task import Toy, sha256_of\nprint(sha256_of(Toy().fit()[0]))"
    )
    ended = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == sha256_of(toy.fit()[0])


def test_extra_modules_are_trained_along(toy) -> None:
    scale = torch.nn.Linear(2, 2)
    before = scale.weight.detach().clone()

    def loss(inputs):
        return {"hard": inputs.task.hard_loss(scale(inputs.logits.float()), inputs.batch)}

    model = toy.model()
    groups = [{"params": list(model.parameters()), "lr": 1e-4}]
    toy.fit(model, loss, options={"extra_modules": {"scale": scale}, "parameter_groups": groups})
    assert not torch.equal(scale.weight, before) and not scale.training


def test_hooks_surround_each_optimizer_step(toy) -> None:
    calls = []

    class Hook:
        def before_forward(self, step, total_steps):
            calls.append(("before", step, total_steps))

        def after_step(self, step, total_steps):
            calls.append(("after", step, total_steps))

        def state_dict(self):
            return {}

        def load_state_dict(self, state):
            pass

    toy.fit(epochs=1, gradient_accumulation=2, options={"hooks": [Hook()]})
    assert calls == [(when, i + (when == "after"), 3) for i in range(3) for when in ("before", "after")]


def test_the_rate_rises_and_falls() -> None:
    rates = [rate_factor(i, 20, 0.2) for i in range(20)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0 and rates[-1] == 1 / 16 and rates[4:] == sorted(rates[4:], reverse=True)
    assert rate_factor(0, 5, 0.0) == 1.0


@pytest.mark.skipif(not native_bf16("cpu"), reason="this CPU only emulates bf16")
def test_bf16_learns_too() -> None:
    _, result = Toy(examples=160).fit(epochs=5, learning_rate=5e-3, precision=Precision.auto)
    assert result.precision == "bf16" and result.epochs[-1].train["hard"] < result.epochs[0].train["hard"]


def test_bf16_is_refused_where_it_is_emulated(monkeypatch) -> None:
    from compressor.errors import ConfigError
    from compressor.training import precision

    monkeypatch.setattr(precision, "native_bf16", lambda device: False)
    assert resolve_precision(Precision.auto, "cpu") is Precision.fp32
    with pytest.raises(ConfigError, match="bf16"):
        resolve_precision(Precision.bf16, "cpu")


def test_evaluation_keeps_example_order_and_modes(toy) -> None:
    model = toy.model().train()
    model.classifier.eval()
    found = evaluate(model, toy.validation)
    assert model.training and not model.classifier.training
    alone = [label for i in range(len(toy.validation)) for label in predict_one(model, toy, i)]
    assert found.predictions == alone
    right = sum(p == e.label for p, e in zip(found.predictions, toy.validation.examples, strict=True))
    assert found.scores["accuracy"] == right / len(toy.validation)


def predict_one(model, toy, i):
    batch = toy.validation.batch([i])
    model.eval()
    with torch.no_grad():
        return toy.task.predict(model(**batch.inputs).logits, batch)
