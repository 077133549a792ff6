"""Structured pruning by movement: attention heads and feed-forward neurons that training pushes towards zero are cut out."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
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
    encoder_layers,
    encoder_linears,
    family,
    head_count,
    head_size,
    heads_can_go,
    keep_heads,
    keep_neurons,
    layer_parts,
    neuron_count,
    neurons_can_go,
    settle_width,
    smallest,
    spread,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn


@dataclass(slots=True, kw_only=True)
class PruneBlockMovementConfig(MethodConfig):
    """Options of `prune_block_movement`."""

    heads: bool = True  # attention heads may go
    neurons: bool = True  # feed-forward neurons may go
    keep: float | None = 0.6  # share of the heads and of the neurons that stays; unset: as many as pass the threshold
    regularization: float = 10.0  # lambda: weight of the expected share of weights that stays
    threshold: float = 0.1  # of sigmoid(score), below which a head or neuron goes in the end; only with keep=null
    score_learning_rate: float = 1e-2  # of the scores; the weights have train.learning_rate
    warm_up: float = 0.1  # share of the steps before the threshold begins to rise
    cool_down: float = 0.4  # share of the steps after it has stopped rising
    alpha: float = 0.0  # weight of the labels beside the teacher's predictions
    hidden_weight: float = 5.0  # weight of the teacher's hidden states in the loss

    def __post_init__(self) -> None:
        ranges = {
            "heads": (self.heads or self.neurons, "true, where neurons=false"),
            "keep": (self.keep is None or 0 < self.keep < 1, "above 0 and below 1, or null"),
            "regularization": (self.regularization >= 0, "0 or more"),
            "threshold": (0 < self.threshold < 1, "above 0 and below 1"),
            "score_learning_rate": (self.score_learning_rate > 0, "above 0"),
            "warm_up": (0 <= self.warm_up < 1, "0 to below 1"),
            "cool_down": (0 <= self.cool_down < 1 - self.warm_up, f"0 to below {1 - self.warm_up:g} (1 - warm_up)"),
            "alpha": (0 <= self.alpha <= 1, "0 to 1"),
            "hidden_weight": (self.hidden_weight >= 0, "0 or more"),
        }
        for name, (ok, allowed) in ranges.items():
            if not ok:
                raise ConfigError(f"method.prune_block_movement.{name}={getattr(self, name)}", allowed=allowed)


class PruneBlockMovement(CompressionMethod[PruneBlockMovementConfig]):
    """Learn a score for every head and neuron while the model trains against its teacher; the lowest are cut out.

    Lagunas et al. 2021, section 3: movement pruning (Sanh et al. 2020) with one score S for a block of weights,

        M = 1 if sigmoid(S) > tau        loss = task + lambda * R(S)        dL/dS = sum over the block of dL/dW' * W

    tau and with it lambda rise by a cubic schedule (the authors' code). Their hybrid scores 32 x 32 squares of the attention
    matrices, cuts the heads whose squares are all gone and fills the others again ("hybrid filled"); here the block is the
    whole head from the start. For the feed-forward part the block is, as there, one neuron. A head is masked where it enters
    the output linear and a neuron where it enters the second one, so the block of the formula is those columns. R is the
    mean of sigmoid(S) weighted by the weights that a structure holds, so it estimates the share of the encoder that stays
    (the code takes the mean for each matrix).

    That rule leaves as many structures as lambda and the length of the training happen to let through; `keep=null` asks for it.
    By default the share that stays is given, falls by the same schedule, and the best scores of all layers fill it, heads
    and neurons apart (the top v of hard movement pruning, on blocks); lambda then only orders them.

    The result is physically smaller. Every layer keeps at least the head and the neuron of its best score.
    """

    Config = PruneBlockMovementConfig
    capabilities = Capabilities(needs_training=True, cuts=True, signals=frozenset({"logits", "hidden"}))
    references = ("Lagunas et al. 2021, arXiv:2109.04838, section 3", "Sanh, Wolf, Rush 2020, arXiv:2005.07683")

    def check(self, source: Blueprint, plan: Plan) -> None:
        """Refuse families whose layers cannot lose what shall go, and a threshold beside a share."""
        if self.config.keep is not None and self.config.threshold != PruneBlockMovementConfig().threshold:
            raise Incompatible(
                f"method.prune_block_movement.threshold={self.config.threshold}: with keep={self.config.keep} nothing reads it",
                hint="method.prune_block_movement.keep=null",
            )
        for name, wanted, why in (
            ("heads", self.config.heads, heads_can_go(source.config)),
            ("neurons", self.config.neurons, neurons_can_go(source.config)),
        ):
            if wanted and why is not None:
                raise Incompatible(
                    f"prune_block_movement: {name} of {family(source.config)} cannot be removed: {why}",
                    hint=f"method.prune_block_movement.{name}=false",
                )

    def outline(self, source: Blueprint, plan: Plan) -> Blueprint:
        """Say what may go: the training decides how much of it, layer by layer."""
        result = super().outline(source, plan)
        if self.config.heads:
            result = result.with_cut(heads=None)
        return replace(result.with_cut(neurons=None), inner_multiple=1) if self.config.neurons else result

    def compress(self, source: CompressedModel, ctx: Context) -> CompressedModel:
        """Train weights and scores together, then cut what is masked."""
        if ctx.plan.train.keep_best:
            ctx.logger.warning("train.keep_best is left out: an earlier epoch is larger, not better")
        train = replace(ctx.plan.train, keep_best=False)
        model = ctx.build_student(source)
        before = encoder_weights(model)
        gates = Gates(model, self.config)
        pairs = {}
        if (
            ctx.plan.tokens_align(source.blueprint)
            and source.blueprint.hidden_size == ctx.teacher.blueprint.hidden_size
        ):
            pairs = dict(enumerate(spread(ctx.teacher.blueprint.layers, source.blueprint.layers)))
        imitation = Imitation(layers=pairs, hidden_weight=self.config.hidden_weight, alpha=self.config.alpha)

        def loss(step: LossInputs) -> Mapping[str, Tensor]:
            return {**imitation(step), "scores": gates.regularisation()}

        with gates.closing():
            result = ctx.fit(
                model,
                loss,
                signals=imitation.signals,
                student_signals=imitation.student_signals,
                use_unlabelled=True,
                tokenizer=source.tokenizer,
                parameter_groups=gates.parameter_groups(train.weight_decay),
                hooks=[gates],
                train=train,
            )
            gates.finish()
        gates.cut()
        layers = encoder_layers(model)
        return source.evolve(
            model=model,
            notes={
                **result.summary(),
                "heads": [head_count(model, layer) for layer in layers],
                "neurons": [neuron_count(model, layer) for layer in layers],
                "encoder_weights_kept": encoder_weights(model) / before,
            },
        )


@dataclass(slots=True, kw_only=True)
class Gate:
    """The heads, or the neurons, of one layer, masked where they enter a linear."""

    linear: nn.Linear  # holds the scores while training, so that checkpoints have them
    width: int  # inputs of the linear that belong to one structure
    weights: int  # weights of the layer that belong to one structure
    mask: Tensor  # [S], 1 where the structure stays

    @property
    def scores(self) -> Tensor:
        """Scores [S] of the structures."""
        return self.linear.scores  # type: ignore[return-value]

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Mask the linear's input [..., S * width]; backward, the scores get the gradient of the mask (straight-through)."""
        gate = self.mask + self.scores - self.scores.detach()
        return args[0] * gate.repeat_interleave(self.width).to(args[0].dtype), *args[1:]

    def shut(self, gone: Tensor) -> None:
        """Mask what is marked, but never the best."""
        scores = self.scores.detach()
        self.mask = (~gone).to(scores.dtype)
        self.mask[scores.argmax()] = 1.0

    def kept(self) -> list[int]:
        """Return the numbers of what stays."""
        kept: list[int] = self.mask.nonzero().flatten().tolist()
        return kept


class Gates:
    """The gates of a model, opened and shut by the schedule: a `FitHook` without state of its own."""

    def __init__(self, model: nn.Module, config: PruneBlockMovementConfig) -> None:
        import torch
        from torch import nn

        self._model = model
        self._config = config
        self._lambda = 0.0
        self._heads: dict[int, Gate] = {}  # by number of the layer
        self._neurons: dict[int, Gate] = {}
        for number, layer in enumerate(encoder_layers(model)):
            parts = layer_parts(model, layer)
            attention = sum(part.weight.numel() for part in parts[:4]) // head_count(model, layer)
            wanted = [
                (config.heads, self._heads, parts.attention_output, head_size(model), attention),
                (
                    config.neurons,
                    self._neurons,
                    parts.ffn_out,
                    1,
                    parts.ffn_in.in_features + parts.ffn_out.out_features,
                ),
            ]
            for asked, gates, linear, width, weights in wanted:
                if asked:
                    scores = torch.zeros(linear.in_features // width)
                    linear.scores = nn.Parameter(scores)
                    gates[number] = Gate(linear=linear, width=width, weights=weights, mask=torch.ones_like(scores))

    def before_forward(self, step: int, total_steps: int) -> None:
        """Follow the schedule."""
        first, last = int(total_steps * self._config.warm_up), int((total_steps - 1) * (1 - self._config.cool_down))
        self._choose(cubic(step, first=first, last=last, start=0.0, end=1.0))

    def after_step(self, step: int, total_steps: int) -> None:
        """Nothing: the masks are made from the new scores before the next step."""

    def finish(self) -> None:
        """Make the last masks, from the last scores."""
        self._choose(1.0)

    def regularisation(self) -> Tensor:
        """Return lambda times the expected share of prunable weights that stays."""
        import torch

        gates = self._all()
        total = sum(gate.weights * len(gate.mask) for gate in gates)
        return self._lambda * torch.stack([gate.scores.sigmoid().sum() * gate.weights for gate in gates]).sum() / total

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Return optimizer groups: scores have a rate of their own and no decay, matrices decay, the rest does not."""
        scores = [gate.scores for gate in self._all()]
        others = [p for p in self._model.parameters() if all(p is not s for s in scores)]
        return [
            {"params": scores, "lr": self._config.score_learning_rate, "weight_decay": 0.0},
            {"params": [p for p in others if p.ndim >= 2], "weight_decay": weight_decay},
            {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0},
        ]

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Mask the linears' inputs during the body; afterwards they are plain linears again."""
        with ExitStack() as stack:
            for gate in self._all():
                stack.callback(gate.linear.register_forward_pre_hook(gate).remove)
            yield

    def cut(self) -> None:
        """Take the scores out, and remove what the masks shut; the others compute what they did."""
        for gate in self._all():
            del gate.linear.scores
        layers = encoder_layers(self._model)
        for number, gate in self._heads.items():
            if len(gate.kept()) < len(gate.mask):
                keep_heads(self._model, layers[number], gate.kept())
        for number, gate in self._neurons.items():
            if len(gate.kept()) < len(gate.mask):
                keep_neurons(self._model, layers[number], gate.kept())
        settle_width(self._model)

    def state_dict(self) -> Mapping[str, Tensor]:
        """Return nothing: scores are in the model's own state, and masks follow from them."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Do nothing."""

    def _all(self) -> list[Gate]:
        return [*self._heads.values(), *self._neurons.values()]

    def _choose(self, progress: float) -> None:
        """Set masks and lambda for a point of the schedule, from 0 to 1."""
        import torch

        options = self._config
        self._lambda = options.regularization * (progress if options.keep is None else 1.0)
        for gates in filter(None, (list(self._heads.values()), list(self._neurons.values()))):
            scores = torch.cat([gate.scores.detach() for gate in gates])
            if options.keep is None:
                gone = scores.sigmoid() <= options.threshold * progress
            else:
                gone = smallest(scores, round((1 - options.keep) * progress * len(scores)))
            for gate, part in zip(gates, torch.split(gone, [len(gate.mask) for gate in gates]), strict=True):
                gate.shut(part)


def encoder_weights(model: nn.Module) -> int:
    """Count the weights of the linears in the encoder's layers."""
    return sum(linear.weight.numel() for linear in encoder_linears(model).values())
