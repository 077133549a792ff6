"""Distillation with soft targets, the labels, and optionally the hidden states of mapped layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from compressor.api import (
    Blueprint,
    Capabilities,
    CompressedModel,
    CompressionMethod,
    ConfigError,
    Context,
    Incompatible,
    LossInputs,
    MethodConfig,
    Plan,
    TeacherSignals,
    relative_error,
    spread,
)

if TYPE_CHECKING:
    from torch import Tensor, nn


class HiddenLoss(StrEnum):
    """Distance between hidden states: squared error, the same over the teacher's variance, or 1 - cosine."""

    mse = "mse"
    nmse = "nmse"
    cosine = "cosine"


@dataclass(slots=True, kw_only=True)
class DistillConfig(MethodConfig):
    """Options of `distill`."""

    temperature: float = 2.0  # softens both distributions; classes only
    alpha: float = 0.0  # weight of the hard loss; the soft loss has 1 - alpha
    hidden_weight: float = 5.0  # weight of the hidden-state loss; 0 leaves it out
    hidden_loss: HiddenLoss = HiddenLoss.nmse  # mse, nmse (over the teacher's variance), cosine
    layer_map: list[int] | None = None  # teacher layer (from 0) for each student layer; unset: evenly spread
    dropout: float = 0.0  # of the student while it trains; the soft targets regularise already

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ConfigError(f"method.distill.temperature={self.temperature}", allowed="above 0")
        if not 0 <= self.alpha <= 1:
            raise ConfigError(f"method.distill.alpha={self.alpha}", allowed="0 to 1")
        if self.hidden_weight < 0:
            raise ConfigError(f"method.distill.hidden_weight={self.hidden_weight}", allowed="0 or more")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"method.distill.dropout={self.dropout}", allowed="0 to below 1")


class Distill(CompressionMethod[DistillConfig]):
    """Train a student on the teacher's softened predictions, hidden states and the labels.

    loss = (1 - alpha) * T^2 * KL(p_teacher^T || p_student^T) + alpha * CE(y, p_student) + w * hidden

    The first two terms are Hinton et al. 2015, section 2 (equation 1 defines p^T as softmax of logits / T; T^2 keeps the soft
    gradients' size). For a regression task the soft term is the squared error of the scores. `hidden` averages, over
    the student's layers, the squared error (Jiao et al. 2020, equation 8, with the learned projection W_h only where the widths
    differ) or 1 - cosine (Sanh et al. 2019, section 3) between its hidden states and those of the mapped teacher layer.
    """

    Config = DistillConfig
    capabilities = Capabilities(needs_training=True, reads_student=True, signals=frozenset({"logits", "hidden"}))
    references = (
        "Hinton, Vinyals, Dean 2015, arXiv:1503.02531",
        "Jiao et al. 2020, arXiv:1909.10351",
        "Sanh et al. 2019, arXiv:1910.01108",
    )

    def check(self, source: Blueprint, plan: Plan) -> None:
        """Refuse a temperature on scores, a map that does not fit, and hidden states of other tokens."""
        if plan.task.type == "regression" and self.config.temperature != DistillConfig().temperature:
            raise Incompatible(
                f"method.distill.temperature={self.config.temperature}: task '{plan.task.name}' predicts a score, and a "
                "temperature softens classes",
                hint="leave method.distill.temperature out",
            )
        student_layers = plan.student_blueprint(source).layers
        if self.config.layer_map is not None:
            _check_map(self.config.layer_map, student_layers, plan.teacher.layers)
        elif self.config.hidden_weight and student_layers > plan.teacher.layers:
            raise Incompatible(
                f"{student_layers} student layers cannot be mapped onto {plan.teacher.layers} teacher layers",
                hint="method.distill.layer_map=[...] or method.distill.hidden_weight=0",
            )
        if self.config.hidden_weight and not plan.tokens_align(source):
            raise Incompatible(
                "hidden states can be compared only where teacher and student see the same tokens, and their "
                "vocabularies differ",
                hint="method.distill.hidden_weight=0",
            )

    def compress(self, source: CompressedModel, ctx: Context) -> CompressedModel:
        """Build the student, train it, return it."""
        from torch import nn

        student = ctx.build_student(source)
        student_layers, teacher_layers = int(student.config.num_hidden_layers), ctx.teacher.blueprint.layers  # type: ignore[union-attr, arg-type]
        pairs: dict[int, int] = {}
        if self.config.hidden_weight:
            pairs = dict(enumerate(self.config.layer_map or spread(teacher_layers, student_layers)))
        widths = int(student.config.hidden_size), ctx.teacher.blueprint.hidden_size  # type: ignore[union-attr, arg-type]
        projection = nn.Linear(*widths, bias=False) if pairs and widths[0] != widths[1] else nn.Identity()
        temperature = 1.0 if ctx.task.type == "regression" else self.config.temperature

        def loss(step: LossInputs) -> Mapping[str, Tensor]:
            terms = {}
            if self.config.alpha < 1:
                soft = step.task.soft_loss(step.logits, step.teacher_logits, step.batch, temperature)
                terms["soft"] = (1 - self.config.alpha) * soft
            if self.config.alpha > 0:
                terms["hard"] = self.config.alpha * step.task.hard_loss(step.logits, step.batch)
            if pairs:
                terms["hidden"] = self.config.hidden_weight * self._hidden(step, pairs, projection)
            return terms

        with _dropout(student, self.config.dropout):
            result = ctx.fit(
                student,
                loss,
                signals=TeacherSignals(logits=self.config.alpha < 1, hidden=tuple(sorted(set(pairs.values())))),
                student_signals=TeacherSignals(hidden=tuple(pairs)),
                use_unlabelled=True,
                tokenizer=source.tokenizer,
                extra_modules={"projection": projection},
            )
        return source.evolve(model=student, notes=result.summary())

    def _hidden(self, step: LossInputs, pairs: Mapping[int, int], projection: nn.Module) -> Tensor:
        """Average the distance of mapped layers over real tokens; [B, L, D] each."""
        distances = [
            hidden_distance(
                projection(step.student.hidden[student])[step.mask],
                step.teacher.hidden[teacher][step.mask],
                self.config.hidden_loss,
            )
            for student, teacher in pairs.items()
        ]
        return sum(distances[1:], distances[0]) / len(distances)


def hidden_distance(student_ND: Tensor, teacher_ND: Tensor, kind: HiddenLoss) -> Tensor:
    """Compare N tokens' states of D dimensions.

    `mse` is the mean squared error; `nmse` divides it by the variance of the teacher's states, so that layers of small and of
    large scale weigh alike and 1 means "no better than their mean"; `cosine` is the mean of 1 - cosine over tokens.
    """
    from torch.nn.functional import cosine_similarity, mse_loss

    if kind is HiddenLoss.nmse:
        return relative_error(student_ND, teacher_ND)
    student_ND, teacher_ND = student_ND.float(), teacher_ND.float()
    if kind is HiddenLoss.cosine:
        return (1 - cosine_similarity(student_ND, teacher_ND, dim=-1)).mean()
    return mse_loss(student_ND, teacher_ND)


def _check_map(layer_map: list[int], student_layers: int, teacher_layers: int) -> None:
    if len(layer_map) != student_layers:
        raise Incompatible(
            f"method.distill.layer_map={layer_map} has {len(layer_map)} entries, the student {student_layers} layers",
            hint=f"method.distill.layer_map={spread(teacher_layers, min(student_layers, teacher_layers))}".replace(
                " ", ""
            ),
        )
    outside = [i for i in layer_map if not 0 <= i < teacher_layers]
    if outside:
        raise Incompatible(
            f"method.distill.layer_map={layer_map}: the teacher has no layer {outside[0]}",
            allowed=f"0 to {teacher_layers - 1}",
        )


@contextmanager
def _dropout(module: nn.Module, probability: float) -> Iterator[None]:
    """Set every dropout of a module while the block runs."""
    from torch import nn

    layers = [m for m in module.modules() if isinstance(m, nn.Dropout)]
    before = [layer.p for layer in layers]
    try:
        for layer in layers:
            layer.p = probability
        yield
    finally:
        for layer, p in zip(layers, before, strict=True):
            layer.p = p
