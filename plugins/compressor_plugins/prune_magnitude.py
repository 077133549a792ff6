"""Unstructured pruning by magnitude: the smallest weights become zero, at once or little by little while the model trains."""

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
    Imitation,
    Incompatible,
    MethodConfig,
    Plan,
    cubic,
    encoder_linears,
    smallest,
    spread,
)

if TYPE_CHECKING:
    from torch import Tensor, nn


class PruneSchedule(StrEnum):
    """When the zeros come: all at once and without training, or by the cubic schedule while the model trains."""

    one_shot = "one_shot"
    cubic = "cubic"


# Where weights compete: in each linear alone, or in all of them. (Written so because `global` is a word of Python's.)
WeightScope = StrEnum("WeightScope", {"per_layer": "per_layer", "global": "global"})


@dataclass(slots=True, kw_only=True)
class PruneMagnitudeConfig(MethodConfig):
    """Options of `prune_magnitude`."""

    sparsity: float = 0.6  # share of the encoder linears' weights that becomes zero
    schedule: PruneSchedule = PruneSchedule.cubic  # cubic (trains), one_shot (does not)
    scope: WeightScope = WeightScope["global"]  # global: one limit for all linears; per_layer: each gets the same share
    begin: float = 0.0  # share of the training steps after which the zeros begin; cubic only
    end: float = 0.6  # share of the steps after which the sparsity is reached; the rest recovers; cubic only
    every: int = 20  # optimizer steps from one choice of the zeros to the next; cubic only
    alpha: float = 0.0  # weight of the labels beside the teacher's predictions; cubic only
    hidden_weight: float = 5.0  # weight of the teacher's hidden states in the loss; cubic only

    def __post_init__(self) -> None:
        ranges = {
            "sparsity": (0 < self.sparsity < 1, "above 0 and below 1"),
            "begin": (0 <= self.begin < 1, "0 to below 1"),
            "end": (self.begin < self.end <= 1, f"above begin ({self.begin}), at most 1"),
            "every": (self.every >= 1, "1 or more"),
            "alpha": (0 <= self.alpha <= 1, "0 to 1"),
            "hidden_weight": (self.hidden_weight >= 0, "0 or more"),
        }
        for name, (ok, allowed) in ranges.items():
            if not ok:
                raise ConfigError(f"method.prune_magnitude.{name}={getattr(self, name)}", allowed=allowed)


class PruneMagnitude(CompressionMethod[PruneMagnitudeConfig]):
    """Set the smallest weights of the encoder's linears to zero.

    `one_shot` is the criterion of Han et al. 2015 (section 3: weights below a threshold go) without their retraining.
    `cubic` trains against the teacher while the share of zeros follows equation 1 of Zhu and Gupta 2017; the zeros are chosen
    anew every few steps and held after every optimizer step. (There masked weights get no gradient; here they get one and are
    set back, which is the same weight and leaves the clipping norm a little larger.)

    The linears stay dense `nn.Linear`, so that any quantizer may follow, and zeros alone save neither bytes nor time. A method
    that trains afterwards fills them again.
    """

    Config = PruneMagnitudeConfig
    capabilities = Capabilities(needs_training=True, leaves_zeros=True, signals=frozenset({"logits", "hidden"}))
    references = ("Zhu, Gupta 2017, arXiv:1710.01878, equation 1", "Han et al. 2015, arXiv:1506.02626, section 3")

    def __init__(self, config: PruneMagnitudeConfig) -> None:
        super().__init__(config)
        if config.schedule is PruneSchedule.one_shot:
            self.capabilities = replace(self.capabilities, needs_training=False, signals=frozenset())

    def check(self, source: Blueprint, plan: Plan) -> None:
        """Refuse options of the training where nothing trains."""
        if self.config.schedule is PruneSchedule.cubic:
            return
        standard = PruneMagnitudeConfig()
        for name in ("begin", "end", "every", "alpha", "hidden_weight"):
            if getattr(self.config, name) != getattr(standard, name):
                raise Incompatible(
                    f"method.prune_magnitude.{name}={getattr(self.config, name)}: nothing trains with schedule=one_shot",
                    hint=f"leave method.prune_magnitude.{name} out, or method.prune_magnitude.schedule=cubic",
                )

    def compress(self, source: CompressedModel, ctx: Context) -> CompressedModel:
        """Prune a copy of the source, and train it meanwhile where the schedule says so."""
        model = ctx.build_student(source)
        zeros = Zeros(encoder_linears(model), self.config)
        notes = {}
        if self.config.schedule is PruneSchedule.cubic:
            if ctx.plan.train.keep_best:
                ctx.logger.warning("train.keep_best is left out: an earlier epoch has fewer zeros, not better ones")
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
                hooks=[zeros],
                train=replace(ctx.plan.train, keep_best=False),
            )
            notes = dict(result.summary())
        else:
            zeros.choose(self.config.sparsity)
        return source.evolve(model=model, notes={**notes, **zeros.counted()})


class Zeros:
    """Chooses which weights are zero, and holds them there: a `FitHook`."""

    def __init__(self, linears: Mapping[str, nn.Linear], config: PruneMagnitudeConfig) -> None:
        self._linears = linears
        self._config = config
        self._pruned: dict[str, Tensor] = {}  # True where the weight is held at zero
        self._reached = 0.0

    def before_forward(self, step: int, total_steps: int) -> None:
        """Prune more where it is due."""
        options = self._config
        wanted = cubic(
            step,
            first=int(total_steps * options.begin),
            last=int((total_steps - 1) * options.end),
            start=0.0,
            end=options.sparsity,
        )
        if wanted > self._reached and (step % options.every == 0 or wanted == options.sparsity):
            self.choose(wanted)

    def after_step(self, step: int, total_steps: int) -> None:
        """Set what the optimizer moved back to zero."""
        self._hold()

    def choose(self, sparsity: float) -> None:
        """Prune the smallest weights; those that are zero already are among them."""
        import torch

        sizes = {name: linear.weight.detach().abs() for name, linear in self._linears.items()}
        if self._config.scope is WeightScope["global"]:
            flat = torch.cat([size.flatten() for size in sizes.values()])
            chosen = smallest(flat, round(sparsity * flat.numel()))
            parts = torch.split(chosen, [size.numel() for size in sizes.values()])
            self._pruned = {n: part.view(sizes[n].shape) for n, part in zip(sizes, parts, strict=True)}
        else:
            self._pruned = {name: smallest(size, round(sparsity * size.numel())) for name, size in sizes.items()}
        self._reached = sparsity
        self._hold()

    def counted(self) -> dict[str, object]:
        """Return how many weights of the linears are zero."""
        zeros = {name: int((linear.weight == 0).sum()) for name, linear in self._linears.items()}
        total = sum(linear.weight.numel() for linear in self._linears.values())
        return {"zeros": sum(zeros.values()), "prunable_weights": total, "linears": len(zeros)}

    def state_dict(self) -> Mapping[str, Tensor]:
        """Return the chosen places and the sparsity reached."""
        import torch

        return {**self._pruned, "reached": torch.tensor(self._reached, dtype=torch.float64)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` gave."""
        self._reached = float(state["reached"])
        self._pruned = {
            name: pruned.to(self._linears[name].weight.device) for name, pruned in state.items() if name != "reached"
        }

    def _hold(self) -> None:
        import torch

        with torch.no_grad():
            for name, pruned in self._pruned.items():
                self._linears[name].weight.masked_fill_(pruned, 0.0)
