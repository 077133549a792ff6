from __future__ import annotations

import numpy as np
import pytest
import torch

from compressor.config import TaskConfig
from compressor.tasks import build_task
from compressor.tasks.base import IGNORED, Batch
from compressor.tasks.losses import kl_to_teacher


def softmax(x, t):
    e = np.exp(x / t - (x / t).max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def batch_of(labels, positions=None):
    return Batch(inputs={}, labels=labels, positions=positions, ids=())


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_soft_targets_equal_hintons_formula_in_numpy(temperature) -> None:
    rng = np.random.default_rng(1)
    student, teacher = rng.normal(size=(7, 3)), rng.normal(size=(7, 3))
    p, q = softmax(teacher, temperature), softmax(student, temperature)
    expected = temperature**2 * (p * (np.log(p) - np.log(q))).sum(axis=1).mean()
    got = kl_to_teacher(torch.tensor(student), torch.tensor(teacher), temperature)
    assert got.item() == pytest.approx(expected, abs=1e-6)
    moved = kl_to_teacher(torch.tensor(student), torch.tensor(teacher) + torch.eye(7, 3), temperature)
    assert abs(moved.item() - expected) > 1e-3


def test_nothing_is_broadcast() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        kl_to_teacher(torch.zeros(4, 2), torch.zeros(4, 1), 1.0)
    regression = build_task(TaskConfig(type="regression"), ())
    with pytest.raises(ValueError, match="differ in shape"):
        regression.soft_loss(torch.zeros(4, 1), torch.zeros(4, 2), batch_of(torch.zeros(4)))


def test_kl_over_one_logit_would_train_nothing_so_regression_uses_squares() -> None:
    scores = torch.randn(4, 1, requires_grad=True)
    kl_to_teacher(scores, torch.randn(4, 1), 1.0).backward()
    assert scores.grad is not None and scores.grad.abs().max() == 0
    task = build_task(TaskConfig(type="regression"), ())
    student = torch.randn(4, 1, requires_grad=True)
    task.soft_loss(student, student.detach() + 1, batch_of(torch.zeros(4))).backward()
    assert student.grad is not None and student.grad.abs().min() > 0
    with pytest.raises(ValueError, match="temperature"):
        task.soft_loss(student, student, batch_of(torch.zeros(4)), temperature=2.0)


def test_unlabelled_examples_count_nothing_in_the_hard_loss() -> None:
    task = build_task(TaskConfig(), ("a", "b"))
    logits = torch.randn(3, 2)
    labelled = task.hard_loss(logits[:2], batch_of(torch.tensor([0, 1])))
    mixed = task.hard_loss(logits, batch_of(torch.tensor([0, 1, IGNORED])))
    assert mixed.item() == pytest.approx(labelled.item(), abs=1e-6)
    assert task.hard_loss(logits, batch_of(torch.full((3,), IGNORED))).item() == 0.0

    regression = build_task(TaskConfig(type="regression"), ())
    scores = torch.tensor([[1.0], [2.0], [9.0]])
    assert regression.hard_loss(scores, batch_of(torch.tensor([0.0, 0.0, float("nan")]))).item() == pytest.approx(2.5)


def test_token_soft_loss_reads_first_pieces_only() -> None:
    task = build_task(TaskConfig(type="token_classification"), ("O", "B-X"))
    student, teacher = torch.randn(2, 5, 2), torch.randn(2, 5, 2)
    positions = torch.tensor([[1, 0, 1, 0, 0], [1, 1, 0, 0, 0]], dtype=torch.bool)
    before = task.soft_loss(student, teacher, batch_of(torch.zeros(2, 5), positions))
    student[0, 1] += 100.0
    after = task.soft_loss(student, teacher, batch_of(torch.zeros(2, 5), positions))
    assert before.item() == after.item()
    student[0, 2] += 3.0 * torch.tensor([1.0, -1.0])
    assert task.soft_loss(student, teacher, batch_of(torch.zeros(2, 5), positions)).item() != before.item()
