"""Semi-structured pruning: of every four consecutive weights two are zero, the pattern that sparse tensor cores compute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from compressor.api import (
    Blueprint,
    Capabilities,
    CompressedModel,
    CompressionMethod,
    ConfigError,
    Context,
    Imitation,
    Incompatible,
    MethodConfig,
    Plan,
    encoder_linears,
    ffn_size_name,
    spread,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

GROUP, KEPT = 4, 2


@dataclass(slots=True, kw_only=True)
class PruneTwoFourConfig(MethodConfig):
    """Options of `prune_2_4`."""

    recover: bool = True  # train against the teacher with the pattern held fixed
    alpha: float = 0.0  # weight of the labels beside the teacher's predictions; only with recover
    hidden_weight: float = 5.0  # weight of the teacher's hidden states in the loss; only with recover

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ConfigError(f"method.prune_2_4.alpha={self.alpha}", allowed="0 to 1")
        if self.hidden_weight < 0:
            raise ConfigError(f"method.prune_2_4.hidden_weight={self.hidden_weight}", allowed="0 or more")


class PruneTwoFour(CompressionMethod[PruneTwoFourConfig]):
    """Keep the two largest of every four consecutive weights of the encoder's linears (2:4 sparsity).

    Mishra et al. 2021, sections 3 and 4: groups of four along the input dimension, chosen once by magnitude, then training goes
    on with the same places at zero (their retraining repeats the original training; ours imitates the teacher).

    Weights are stored dense, and on a CPU nothing gets faster or smaller. The pattern is fast on NVIDIA GPUs from Ampere on,
    in half precision and large products, after `torch.sparse.to_sparse_semi_structured(linear.weight)`, which whoever runs
    the model must call. A method that trains afterwards fills the zeros again.
    """

    Config = PruneTwoFourConfig
    capabilities = Capabilities(needs_training=True, leaves_zeros=True, signals=frozenset({"logits", "hidden"}))
    references = ("Mishra et al. 2021, arXiv:2104.08378, sections 3 and 4",)

    def __init__(self, config: PruneTwoFourConfig) -> None:
        super().__init__(config)
        if not config.recover:
            self.capabilities = replace(self.capabilities, needs_training=False, signals=frozenset())

    def check(self, source: Blueprint, plan: Plan) -> None:
        """Refuse widths that are no multiple of four, and options of a training that does not happen."""
        for name in ("hidden_size", ffn_size_name(source.config)):
            width = getattr(source.config, name)
            if width % GROUP:
                raise Incompatible(f"prune_2_4: {name} is {width}", allowed=f"widths that {GROUP} divides")
        if source.inner_multiple % GROUP:
            raise Incompatible(
                f"prune_2_4: a step before left widths inside the layers (ranks, neurons) that are multiples of "
                f"{source.inner_multiple} only",
                allowed=f"widths that {GROUP} divides",
                hint=f"that step with multiples of {GROUP}",
            )
        standard = PruneTwoFourConfig()
        for name in ("alpha", "hidden_weight"):
            if not self.config.recover and getattr(self.config, name) != getattr(standard, name):
                raise Incompatible(
                    f"method.prune_2_4.{name}={getattr(self.config, name)}: nothing trains with recover=false",
                    hint=f"leave method.prune_2_4.{name} out",
                )

    def compress(self, source: CompressedModel, ctx: Context) -> CompressedModel:
        """Prune a copy of the source, and train what is left if asked for."""
        model = ctx.build_student(source)
        linears = encoder_linears(model)
        odd = [
            f"{name} ({linear.in_features} inputs)" for name, linear in linears.items() if linear.in_features % GROUP
        ]
        if odd:
            raise Incompatible(f"prune_2_4: {', '.join(odd[:8])}", allowed=f"linears whose inputs {GROUP} divides")
        pattern = Pattern(linears)
        notes = {}
        if self.config.recover:
            pairs = {}
            if (
                ctx.plan.tokens_align(source.blueprint)
                and source.blueprint.hidden_size == ctx.teacher.blueprint.hidden_size
            ):
                pairs = dict(enumerate(spread(ctx.teacher.blueprint.layers, source.blueprint.layers)))
            loss = Imitation(layers=pairs, hidden_weight=self.config.hidden_weight, alpha=self.config.alpha)
            result = ctx.fit(
                model,
                loss,
                signals=loss.signals,
                student_signals=loss.student_signals,
                use_unlabelled=True,
                tokenizer=source.tokenizer,
                hooks=[pattern],
            )
            notes = dict(result.summary())
        zeros = sum(int((linear.weight == 0).sum()) for linear in linears.values())
        total = sum(linear.weight.numel() for linear in linears.values())
        return source.evolve(
            model=model, notes={**notes, "linears": len(linears), "zeros": zeros, "prunable_weights": total}
        )


class Pattern:
    """The chosen places, set to zero at once and after every optimizer step: a `FitHook`."""

    def __init__(self, linears: Mapping[str, nn.Linear]) -> None:
        self._linears = linears
        self._pruned = {name: two_of_four(linear.weight) for name, linear in linears.items()}
        self._hold()

    def before_forward(self, step: int, total_steps: int) -> None:
        """Nothing: the weights are zero already."""

    def after_step(self, step: int, total_steps: int) -> None:
        """Set what the optimizer moved back to zero."""
        self._hold()

    def state_dict(self) -> Mapping[str, Tensor]:
        """Return the chosen places."""
        return self._pruned

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` gave."""
        self._pruned = dict(state)

    def _hold(self) -> None:
        import torch

        with torch.no_grad():
            for name, linear in self._linears.items():
                linear.weight.masked_fill_(self._pruned[name].to(linear.weight.device), 0.0)


def two_of_four(weight_OI: Tensor) -> Tensor:
    """Mark the two smallest weights by size of every four along the inputs; [O, I] bool."""
    import torch

    groups = weight_OI.detach().abs().view(len(weight_OI), -1, GROUP)  # [O, I / 4, 4]
    small = groups.topk(GROUP - KEPT, dim=-1, largest=False).indices
    return torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, small, True).flatten(1)
