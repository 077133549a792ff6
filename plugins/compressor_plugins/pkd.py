"""Patient knowledge distillation: the student's first token follows the teacher's through its intermediate layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
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
    StudentConfig,
    TeacherSignals,
    spread,
)

if TYPE_CHECKING:
    from torch import Tensor


class Patience(StrEnum):
    """Which teacher layers are followed: every k-th one (PKD-Skip), or those just below the last (PKD-Last)."""

    skip = "skip"
    last = "last"


@dataclass(slots=True, kw_only=True)
class PatientDistillConfig(MethodConfig):
    """Options of `pkd`."""

    temperature: float = 5.0  # T, softens both distributions; classes only; the paper tries 5, 10, 20
    alpha: float = 0.5  # weight of the soft loss; the labels have 1 - alpha; the paper tries 0.2, 0.5, 0.7
    beta: float = 100.0  # weight of the patience loss; 0 leaves it out; the paper tries 10, 100, 500, 1000
    patience: Patience = Patience.skip  # skip or last: the teacher layers that are followed

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ConfigError(f"method.pkd.temperature={self.temperature}", allowed="above 0")
        if not 0 <= self.alpha <= 1:
            raise ConfigError(f"method.pkd.alpha={self.alpha}", allowed="0 to 1")
        if self.beta < 0:
            raise ConfigError(f"method.pkd.beta={self.beta}", allowed="0 or more")


class PatientDistill(CompressionMethod[PatientDistillConfig]):
    """Distil with soft targets, the labels and the [CLS] states of intermediate layers (half of the layers by default).

    loss = (1 - alpha) * L_CE + alpha * L_DS + beta * L_PT     (Sun et al. 2019, equation 8)

    L_CE is the labels' cross-entropy (equation 4). L_DS (equation 3) is the cross-entropy against the teacher's softened
    classes; as in the authors' code it is multiplied by T^2, and the KL stands for it, whose gradient is the same. L_PT
    (equation 7) is the squared distance between the unit vectors of the first token's states in mapped layers. The
    equation sums over layers and dimensions, the authors' code takes their mean; the mean is followed, since the values
    of beta that the paper reports (10 to 1000) belong to it. The last layer is left out: the logits stand for it.

    The authors start from the first layers of the teacher as pretrained (`student.init=first`); here the layers are spread
    over the fine-tuned teacher unless `student.init` says otherwise. For scores, L_CE and L_DS are squared errors.
    """

    Config = PatientDistillConfig
    capabilities = Capabilities(
        needs_training=True,
        reads_student=True,
        own_student=True,
        signals=frozenset({"logits", "hidden"}),
        tasks=frozenset({"classification", "regression"}),  # the method is about the one token that a sentence hangs on
    )
    references = ("Sun et al. 2019, arXiv:1908.09355, section 3",)

    def check(self, source: Blueprint, plan: Plan) -> None:
        """Refuse a temperature on scores, and states that cannot be compared."""
        if plan.task.type == "regression" and self.config.temperature != PatientDistillConfig().temperature:
            raise Incompatible(
                f"method.pkd.temperature={self.config.temperature}: task '{plan.task.name}' predicts a score, and a "
                "temperature softens classes",
                hint="leave method.pkd.temperature out",
            )
        student = _with_student(plan, source).student_blueprint(source)
        if not self.config.beta:
            return
        if student.layers > plan.teacher.layers:
            raise Incompatible(
                f"{student.layers} student layers cannot follow {plan.teacher.layers} teacher layers",
                hint="method.pkd.beta=0",
            )
        if student.hidden_size != plan.teacher.hidden_size:
            raise Incompatible(
                f"the patience loss compares states of one width, and the student's is {student.hidden_size}, the "
                f"teacher's {plan.teacher.hidden_size}",
                allowed="a student as wide as its teacher",
                hint="method.pkd.beta=0, or method=distill, which learns a projection",
            )
        if not plan.tokens_align(source):
            raise Incompatible(
                "states can be compared only where teacher and student see the same tokens, and their vocabularies differ",
                hint="method.pkd.beta=0",
            )

    def outline(self, source: Blueprint, plan: Plan) -> Blueprint:
        """Predict the student's shape, half of the layers where nothing is set."""
        return _with_student(plan, source).outline(source, self.capabilities)

    def compress(self, source: CompressedModel, ctx: Context) -> CompressedModel:
        """Build the student, train it, return it."""
        chosen = _with_student(ctx.plan, source.blueprint).student
        student = ctx.build_student(source, chosen) if chosen.chosen() else ctx.build_student(source)
        layers = int(student.config.num_hidden_layers)  # type: ignore[union-attr, arg-type]
        pairs = patience_pairs(ctx.teacher.blueprint.layers, layers, self.config.patience) if self.config.beta else {}
        temperature = 1.0 if ctx.task.type == "regression" else self.config.temperature

        def loss(step: LossInputs) -> Mapping[str, Tensor]:
            terms = {}
            if self.config.alpha < 1:
                terms["hard"] = (1 - self.config.alpha) * step.task.hard_loss(step.logits, step.batch)
            if self.config.alpha > 0:
                soft = step.task.soft_loss(step.logits, step.teacher_logits, step.batch, temperature)
                terms["soft"] = self.config.alpha * soft
            if pairs:
                distances = [
                    patience_distance(
                        first_token(step.student.hidden[s], step), first_token(step.teacher.hidden[t], step)
                    )
                    for s, t in pairs.items()
                ]
                terms["patience"] = self.config.beta * sum(distances[1:], distances[0]) / len(distances)
            return terms

        result = ctx.fit(
            student,
            loss,
            signals=TeacherSignals(logits=self.config.alpha > 0, hidden=tuple(pairs.values())),
            student_signals=TeacherSignals(hidden=tuple(pairs)),
            use_unlabelled=self.config.alpha > 0 or bool(pairs),
            tokenizer=source.tokenizer,
        )
        return source.evolve(model=student, notes={**result.summary(), "patience_layers": list(pairs.values())})


def patience_pairs(teacher_layers: int, student_layers: int, patience: Patience) -> dict[int, int]:
    """Return student layer -> teacher layer, from 0, for every student layer but its last.

    12 to 6, counted from 1 as in section 3 of the paper: 2, 4, 6, 8, 10 (skip) or 7, 8, 9, 10, 11 (last). A student of one
    layer has no intermediate one.
    """
    if patience is Patience.last:
        return {i: teacher_layers - student_layers + i for i in range(student_layers - 1)}
    return dict(enumerate(spread(teacher_layers, student_layers)[:-1]))


def patience_distance(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """Return the mean squared difference of the unit vectors along D (equation 7 over B * D)."""
    from torch.nn.functional import mse_loss, normalize

    return mse_loss(normalize(student_BD.float(), dim=-1), normalize(teacher_BD.float(), dim=-1))


def first_token(hidden_BLD: Tensor, step: LossInputs) -> Tensor:
    """Return the states of the first real token, [CLS], whichever side the padding is on."""
    import torch

    first_B = step.mask.int().argmax(dim=1)
    return hidden_BLD[torch.arange(len(first_B), device=first_B.device), first_B]


def _with_student(plan: Plan, source: Blueprint) -> Plan:
    """Ask for half of the layers where the user asked for nothing and no link before took any."""
    if plan.student.chosen() or source.layers < plan.teacher.layers or source.layers == 1:
        return plan
    return replace(plan, student=StudentConfig(layers=source.layers // 2))
