"""The loss that brings a changed model back to its teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from compressor.training.signals import LossInputs, TeacherSignals

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Imitation:
    """Soft targets, and the hidden states of mapped layers where there are any: a `Loss` for `Context.fit`.

    loss = (1 - alpha) * T^2 * KL(p_teacher^T || p_student^T) + alpha * CE(y, p_student) + w * hidden

    with the soft loss of Hinton et al. 2015 (arXiv:1503.02531, section 2) and, as `hidden`, the mean over the mapped layers of
    `relative_error`. A method whose own algorithm trains uses it, so that all of them recover in the same way.

    Attributes:
        layers: Student layer -> teacher layer, both from 0; of equal width. Empty leaves the hidden term out.
        hidden_weight: w.
        alpha: Weight of the labels.
        temperature: T; 1 for a task that predicts scores.
    """

    layers: Mapping[int, int] = field(default_factory=dict)
    hidden_weight: float = 5.0
    alpha: float = 0.0
    temperature: float = 2.0

    @property
    def signals(self) -> TeacherSignals:
        """What it reads of the teacher."""
        return TeacherSignals(logits=self.alpha < 1, hidden=tuple(sorted(set(self._mapped().values()))))

    @property
    def student_signals(self) -> TeacherSignals:
        """What it reads of the student besides its logits."""
        return TeacherSignals(hidden=tuple(self._mapped()))

    def __call__(self, step: LossInputs) -> Mapping[str, Tensor]:
        """Return the named terms of one step."""
        terms: dict[str, Tensor] = {}
        temperature = 1.0 if step.task.type == "regression" else self.temperature
        if self.alpha < 1:
            soft = step.task.soft_loss(step.logits, step.teacher_logits, step.batch, temperature)
            terms["soft"] = (1 - self.alpha) * soft
        if self.alpha > 0:
            terms["hard"] = self.alpha * step.task.hard_loss(step.logits, step.batch)
        if self._mapped():
            errors = [
                relative_error(step.student.hidden[student][step.mask], step.teacher.hidden[teacher][step.mask])
                for student, teacher in self._mapped().items()
            ]
            terms["hidden"] = self.hidden_weight * sum(errors[1:], errors[0]) / len(errors)
        return terms

    def _mapped(self) -> Mapping[int, int]:
        return self.layers if self.hidden_weight > 0 else {}


def relative_error(student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
    """Return the mean squared error of N states of D dimensions over the variance of the teacher's.

    The variance is taken over the N states with N - 1 and averaged over D. Layers of small and of large scale weigh alike; 1
    means "no better than the teacher's mean state" (which itself scores (N - 1) / N).
    """
    from torch.nn.functional import mse_loss

    student_ND, teacher_ND = student_ND.float(), teacher_ND.float()
    return mse_loss(student_ND, teacher_ND) / teacher_ND.var(dim=0).mean()
