"""What a loss may ask of the teacher, and what it is given at each step.

B examples, L padded tokens, D width, H heads, C logits. Layers are counted from 0; hidden[i] is the output of layer i,
and hidden[-1] stands for the embedding output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from compressor.tasks.base import Batch, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherSignals:
    """Which teacher outputs a loss reads. Layer -1 of `hidden` is the embedding output."""

    logits: bool = False
    hidden: tuple[int, ...] = ()
    attention: tuple[int, ...] = ()
    qkv: tuple[int, ...] = ()

    def kinds(self) -> frozenset[str]:
        """Return the kinds asked for, in the words of `Capabilities.signals`."""
        return frozenset(k for k in ("logits", "hidden", "attention", "qkv") if getattr(self, k))

    @property
    def token_level(self) -> bool:
        """Whether teacher and student must see the same tokens."""
        return bool(self.hidden or self.attention or self.qkv)

    def __bool__(self) -> bool:
        return bool(self.kinds())


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """Outputs of one model on one batch.

    Attributes:
        logits: [B, C] or [B, L, C].
        hidden: layer -> [B, L, D].
        attention: layer -> [B, H, L, L], probabilities.
        qkv: layer -> (q, k, v), each [B, L, H * head width], before the split into heads.
    """

    logits: Tensor | None = None
    hidden: Mapping[int, Tensor] = field(default_factory=dict)
    attention: Mapping[int, Tensor] = field(default_factory=dict)
    qkv: Mapping[int, tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LossInputs:
    """Everything a loss may read in one step. Padding is where `mask` is False."""

    task: Task
    batch: Batch
    student: Outputs  # `logits` is always present
    teacher: Outputs  # holds what `signals` asked for
    step: int  # optimizer steps done
    total_steps: int

    @property
    def mask(self) -> Tensor:
        """[B, L] bool, True on real tokens."""
        return self.batch.inputs["attention_mask"].bool()

    @property
    def logits(self) -> Tensor:
        """The student's logits."""
        assert self.student.logits is not None
        return self.student.logits

    @property
    def teacher_logits(self) -> Tensor:
        """The teacher's logits; asked for by `TeacherSignals(logits=True)`."""
        assert self.teacher.logits is not None
        return self.teacher.logits


# A loss returns named scalar terms; their sum is minimised and each is shown and recorded.
Loss = Callable[[LossInputs], Mapping[str, "Tensor"]]


class FitHook(Protocol):
    """State that lives beside the training: masks, schedules, fake quantisers."""

    def before_forward(self, step: int, total_steps: int) -> None:
        """Run before each optimizer step's first forward."""

    def after_step(self, step: int, total_steps: int) -> None:
        """Run after the optimizer stepped; `step` counts from 1."""

    def state_dict(self) -> Mapping[str, Tensor]:
        """Return what a checkpoint must hold to continue."""

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` gave."""
