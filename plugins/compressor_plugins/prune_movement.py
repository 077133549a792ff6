"""Unstructured pruning by movement: a weight stays if training pushes it away from zero."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Any

from compressor.api import (
    Blueprint,
    Capabilities,
    CompressedModel,
    CompressionMethod,
    ConfigError,
    Context,
    Imitation,
    Incompatible,
    LossInputs,
    MethodConfig,
    Plan,
    cubic,
    encoder_linears,
    smallest,
    spread,
)

if TYPE_CHECKING:
    from torch import Tensor, nn


class Movement(StrEnum):
    """How scores become a mask: the best share of each linear stays, or every score above a threshold."""

    hard = "hard"
    soft = "soft"


class ScoreStart(StrEnum):
    """Scores before training: all equal, as in the paper, or the weights' sizes."""

    zero = "zero"
    magnitude = "magnitude"


@dataclass(slots=True, kw_only=True)
class PruneMovementConfig(MethodConfig):
    """Options of `prune_movement`."""

    variant: Movement = Movement.hard  # hard: top v of each linear; soft: threshold and regularisation
    sparsity: float = 0.6  # share of each linear's weights that becomes zero; hard only
    threshold: float = 0.1  # of sigmoid(score), below which a weight is zero in the end; soft only
    regularization: float = 20.0  # lambda: weight of the mean of sigmoid(score); soft only
    # Scores before training: all zero (the paper), or the size of each weight in standard deviations of its linear.
    start: ScoreStart = ScoreStart.magnitude
    score_learning_rate: float = 1e-2  # of the scores; the weights have train.learning_rate
    warm_up: float = 0.1  # share of the steps before the first zero, while scores gather
    cool_down: float = 0.4  # share of the steps after the last change of sparsity or threshold
    alpha: float = 0.0  # weight of the labels beside the teacher's predictions
    hidden_weight: float = 5.0  # weight of the teacher's hidden states in the loss

    def __post_init__(self) -> None:
        ranges = {
            "sparsity": (0 < self.sparsity < 1, "above 0 and below 1"),
            "threshold": (0 < self.threshold < 1, "above 0 and below 1"),
            "regularization": (self.regularization > 0, "above 0"),
            "score_learning_rate": (self.score_learning_rate > 0, "above 0"),
            "warm_up": (0 <= self.warm_up < 1, "0 to below 1"),
            "cool_down": (0 <= self.cool_down < 1 - self.warm_up, f"0 to below {1 - self.warm_up:g} (1 - warm_up)"),
            "alpha": (0 <= self.alpha <= 1, "0 to 1"),
            "hidden_weight": (self.hidden_weight >= 0, "0 or more"),
        }
        for name, (ok, allowed) in ranges.items():
            if not ok:
                raise ConfigError(f"method.prune_movement.{name}={getattr(self, name)}", allowed=allowed)


class PruneMovement(CompressionMethod[PruneMovementConfig]):
    """Learn a score for every weight while the model trains against its teacher; the lowest scores become zeros.

    Sanh, Wolf, Rush 2020, section 4. Forward, W' = W * M(S); backward, M counts as the identity (straight-through), so

        dL/dS = dL/dW' * W        and        S_T = -lr_S * sum_t (dL/dW')_t * W_t

    for masked weights too, which may therefore come back. `hard`: M keeps the top v of each linear, v following the
    cubic schedule (their section 3) after a warm-up and before a cool-down. `soft`: M = sigmoid(S) > tau with tau rising by
    the same schedule, and lambda * mean(sigmoid(S)) is added to the loss. The paper writes M = S > tau and the sum of
    sigmoid(S); the threshold on the sigmoid, the mean and lambda rising with tau follow the authors' code, whose values do not
    depend on the model's size. As there, AdamW moves the scores, where the formula above is plain gradient descent.

    The authors start from a pretrained model, whose weights have far to go. Here the source usually is the teacher itself,
    where the gradient of an imitation loss is zero, and noise would make the first choices. So scores start from |W| over
    its standard deviation, which is magnitude pruning until movement says otherwise; `start=zero` is the paper's.

    The result has plain dense linears: any quantizer may follow, zeros alone save neither bytes nor time, and a method that
    trains afterwards fills them again.
    """

    Config = PruneMovementConfig
    capabilities = Capabilities(needs_training=True, leaves_zeros=True, signals=frozenset({"logits", "hidden"}))
    references = ("Sanh, Wolf, Rush 2020, arXiv:2005.07683, section 4", "Zhu, Gupta 2017, arXiv:1710.01878, equation 1")

    def check(self, source: Blueprint, plan: Plan) -> None:
        """Refuse options that the variant does not read."""
        unread = ("threshold", "regularization") if self.config.variant is Movement.hard else ("sparsity",)
        for name in unread:
            value = getattr(self.config, name)
            if value != getattr(PruneMovementConfig(), name):
                raise Incompatible(
                    f"method.prune_movement.{name}={value}: variant={self.config.variant} does not read it",
                    hint="leave it out, or choose the other method.prune_movement.variant",
                )

    def compress(self, source: CompressedModel, ctx: Context) -> CompressedModel:
        """Train weights and scores together, then make the masked weights the model's own."""
        from torch.nn.utils import parametrize

        if ctx.plan.train.keep_best:
            ctx.logger.warning("train.keep_best is left out: an earlier epoch has fewer zeros, not better ones")
        train = replace(ctx.plan.train, keep_best=False)
        model = ctx.build_student(source)
        linears = encoder_linears(model)
        masked = {name: add_scores(linear, self.config.start) for name, linear in linears.items()}
        masks = Masks(masked, self.config)
        pairs = {}
        if (
            ctx.plan.tokens_align(source.blueprint)
            and source.blueprint.hidden_size == ctx.teacher.blueprint.hidden_size
        ):
            pairs = dict(enumerate(spread(ctx.teacher.blueprint.layers, source.blueprint.layers)))
        imitation = Imitation(layers=pairs, hidden_weight=self.config.hidden_weight, alpha=self.config.alpha)

        def loss(step: LossInputs) -> Mapping[str, Tensor]:
            terms = dict(imitation(step))
            if self.config.variant is Movement.soft:
                terms["scores"] = masks.regularisation()
            return terms

        result = ctx.fit(
            model,
            loss,
            signals=imitation.signals,
            student_signals=imitation.student_signals,
            use_unlabelled=True,
            tokenizer=source.tokenizer,
            parameter_groups=parameter_groups(model, masked, self.config.score_learning_rate, train.weight_decay),
            hooks=[masks],
            train=train,
        )
        masks.finish()
        for linear in linears.values():
            parametrize.remove_parametrizations(linear, "weight", leave_parametrized=True)
        zeros = {name: int((linear.weight == 0).sum()) for name, linear in linears.items()}
        total = sum(linear.weight.numel() for linear in linears.values())
        return source.evolve(
            model=model,
            notes={**result.summary(), "linears": len(zeros), "zeros": sum(zeros.values()), "prunable_weights": total},
        )


class Masks:
    """Turns scores into masks before every step: a `FitHook` without state of its own (scores live in the model)."""

    def __init__(self, masked: Mapping[str, Any], config: PruneMovementConfig) -> None:
        self._masked = masked
        self._config = config
        self._lambda = 0.0

    def before_forward(self, step: int, total_steps: int) -> None:
        """Follow the schedule."""
        options = self._config
        first, last = int(total_steps * options.warm_up), int((total_steps - 1) * (1 - options.cool_down))
        if options.variant is Movement.hard:
            self._keep_top(cubic(step, first=first, last=last, start=0.0, end=options.sparsity))
        else:
            self._keep_above(cubic(step, first=first, last=last, start=0.0, end=options.threshold))

    def after_step(self, step: int, total_steps: int) -> None:
        """Nothing: the masks are made from the new scores before the next step."""

    def finish(self) -> None:
        """Make the last masks, from the last scores."""
        if self._config.variant is Movement.hard:
            self._keep_top(self._config.sparsity)
        else:
            self._keep_above(self._config.threshold)

    def regularisation(self) -> Tensor:
        """Return lambda times the mean of sigmoid(score), the mean taken over each linear and then over linears."""
        import torch

        means = [one.scores.sigmoid().mean() for one in self._masked.values()]
        return self._lambda * torch.stack(means).mean()

    def state_dict(self) -> Mapping[str, Tensor]:
        """Return nothing: scores are in the model's own state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Do nothing."""

    def _keep_top(self, sparsity: float) -> None:
        for one in self._masked.values():
            one.mask.copy_(~smallest(one.scores, round(sparsity * one.scores.numel())))

    def _keep_above(self, threshold: float) -> None:
        self._lambda = self._config.regularization * threshold / self._config.threshold
        limit = math.log(threshold / (1 - threshold)) if threshold else -math.inf
        for one in self._masked.values():
            one.mask.copy_(one.scores.detach() > limit)


def add_scores(linear: nn.Linear, start: ScoreStart = ScoreStart.zero) -> Any:
    """Let a linear compute with W * M and return the module that holds `scores` [O, I] and `mask` [O, I]."""
    from torch.nn.utils import parametrize

    masked: Any = _masked_weight()(linear.weight)
    if start is ScoreStart.magnitude:
        size = linear.weight.detach().abs()
        masked.scores.data.copy_(size / linear.weight.detach().std().clamp_min(1e-12))
    parametrize.register_parametrization(linear, "weight", masked)
    return masked


def parameter_groups(
    model: nn.Module, masked: Mapping[str, Any], score_learning_rate: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Return optimizer groups: scores have a rate of their own and no decay, matrices decay, the rest does not."""
    scores = {id(one.scores): one.scores for one in masked.values()}
    others = [p for p in model.parameters() if id(p) not in scores]
    return [
        {"params": list(scores.values()), "lr": score_learning_rate, "weight_decay": 0.0},
        {"params": [p for p in others if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0},
    ]


@cache
def _masked_weight() -> type[nn.Module]:
    """Build the class on first use, since importing torch is not for `--help`."""
    import torch
    from torch import nn

    class StraightThrough(torch.autograd.Function):
        """W * M; the scores behind M get the gradient as if M were S."""

        @staticmethod
        def forward(ctx: Any, weight: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
            ctx.save_for_backward(weight, mask)
            return weight * mask

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
            weight, mask = ctx.saved_tensors
            return gradients[0] * mask, gradients[0] * weight, None

    class MaskedWeight(nn.Module):
        """The parametrisation of one linear's weight."""

        def __init__(self, weight: Tensor) -> None:
            super().__init__()
            self.scores = nn.Parameter(torch.zeros_like(weight))
            self.register_buffer("mask", torch.ones_like(weight), persistent=False)  # follows from the scores

        def forward(self, weight: Tensor) -> Tensor:
            masked: Tensor = StraightThrough.apply(weight, self.scores, self.mask)  # type: ignore[no-untyped-call]
            return masked

    return MaskedWeight
