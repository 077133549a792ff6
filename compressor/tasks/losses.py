"""Losses between two predictions. B examples, C classes; nothing is broadcast."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def same_shape(student: Tensor, teacher: Tensor, what: str) -> None:
    """Refuse to compare tensors that torch would silently broadcast.

    Raises:
        ValueError: The shapes differ.
    """
    if student.shape != teacher.shape:
        raise ValueError(f"{what}: student {tuple(student.shape)} and teacher {tuple(teacher.shape)} differ in shape")


def kl_to_teacher(student_NC: Tensor, teacher_NC: Tensor, temperature: float) -> Tensor:
    """Return T^2 * KL(softmax(teacher / T) || softmax(student / T)), averaged over the N rows.

    The soft-target term of Hinton et al. 2015, arXiv:1503.02531, section 2; its gradient differs from the cross-entropy
    form by nothing, since the teacher's entropy is constant. T^2 keeps the gradient's size as T changes (ibid.).
    """
    from torch.nn.functional import kl_div, log_softmax

    same_shape(student_NC, teacher_NC, "logits")
    student_log = log_softmax(student_NC.float() / temperature, dim=-1)
    teacher_log = log_softmax(teacher_NC.float() / temperature, dim=-1)
    return kl_div(student_log, teacher_log, reduction="batchmean", log_target=True) * temperature**2
