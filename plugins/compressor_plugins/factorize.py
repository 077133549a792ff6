"""Low-rank factorisation: a matrix becomes the product of two thin ones, where that saves parameters.

Without data, the best product of rank r is the singular value decomposition cut after r values, and the squared error is the
sum of the squares of those cut off (Eckart and Young 1936). With calibration inputs X, what counts is the error of the output:
SVD-LLM (Wang et al. 2024, arXiv:2403.07378, section 3.1) factors X X^T = S S^T by Cholesky and cuts the decomposition of W S,
so that ||W X - W' X||^2 is the sum of the squares of the values cut off. W' = U_r sqrt(Sigma_r) * sqrt(Sigma_r) V_r^T S^-1.

An embedding table is a linear whose inputs are one-hot: its X X^T is the diagonal of the tokens' counts, so frequent tokens
weigh more. Two things differ from the paper: a share of the mean diagonal is added to X X^T, because a task's calibration texts
show few directions; and each layer is calibrated on what the factorised layers below it give. Training afterwards is left to a
method that follows in the chain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from math import gcd
from typing import TYPE_CHECKING, Any

from compressor.api import (
    Batch,
    Blueprint,
    Capabilities,
    CompressedModel,
    CompressionMethod,
    ConfigError,
    Context,
    Incompatible,
    MethodConfig,
    Plan,
    encoder_layers,
    encoder_linears,
    ffn_size_name,
    input_moments,
    layer_parts,
    parameter_count,
)

if TYPE_CHECKING:
    from torch import Tensor, nn


class Targets(StrEnum):
    """Which linears of a layer: its feed-forward pair, its four attention projections, every one, or none."""

    ffn = "ffn"
    attention = "attention"
    all = "all"
    none = "none"


class Weighting(StrEnum):
    """What an error is measured on: outputs on calibration texts (and token counts), or the weights alone."""

    activations = "activations"
    none = "none"


@dataclass(slots=True, kw_only=True)
class FactorizeConfig(MethodConfig):
    """Options of `factorize`. At most one of `ratio`, `rank` and `energy` is set; `ratio=0.5` if none is."""

    linears: Targets = Targets.ffn  # which linears of each layer: ffn, attention, all, none
    embeddings: bool = False  # factorise the word-embedding table too
    ratio: float | None = None  # share of a matrix's parameters that its two factors have together
    rank: int | None = None  # rank of every product
    energy: float | None = None  # share of the squared singular values that a product keeps, at least
    multiple_of: int = 32  # with ratio and energy ranks are multiples of this (small ones of a half, a quarter ...)
    weighting: Weighting = Weighting.activations  # activations (of calibration texts), none
    damping: float = 0.01  # added to the diagonal of X X^T, as a share of its mean
    examples: int = 128  # training texts that calibrate

    def __post_init__(self) -> None:
        chosen = [name for name in ("ratio", "rank", "energy") if getattr(self, name) is not None]
        _require(
            len(chosen) <= 1, "ratio", f"{self.ratio} with {' and '.join(chosen[1:])}", "one of ratio, rank, energy"
        )
        for name in ("ratio", "energy"):
            value = getattr(self, name)
            _require(value is None or 0 < value < 1, name, value, "above 0 and below 1")
        _require(self.rank is None or self.rank >= 1, "rank", self.rank, "1 or more")
        _require(self.multiple_of >= 1, "multiple_of", self.multiple_of, "1 or more")
        unread = self.rank is not None and self.multiple_of != 32
        _require(
            not unread, "rank", f"{self.rank} multiple_of={self.multiple_of}", "a rank as it is, or one of the others"
        )
        _require(self.damping > 0, "damping", self.damping, "above 0")
        _require(self.examples >= 1, "examples", self.examples, "1 or more")
        _require(self.embeddings or self.linears != Targets.none, "linears", "none", "something, or embeddings=true")

    def choose(self, values: Tensor, inputs: int, outputs: int) -> int:
        """Return the rank for a matrix with these singular values, the largest first."""
        if self.rank is not None:
            return min(self.rank, len(values))
        if self.energy is not None:
            shares = values.square().cumsum(0) / values.square().sum()
            least = int((shares < self.energy).sum()) + 1
            unit = self._unit(least)
            return min(-(-least // unit) * unit, len(values))
        return self.rank_of(inputs, outputs)

    def rank_of(self, inputs: int, outputs: int) -> int:
        """Return the rank that `rank` or `ratio` gives a matrix, whatever its values: of a ratio the multiple below."""
        if self.rank is not None:
            return min(self.rank, inputs, outputs)
        most = max(1, int((self.ratio or 0.5) * inputs * outputs / (inputs + outputs)))
        return most - most % self._unit(most)

    def _unit(self, rank: int) -> int:
        """Return what ranks are multiples of: `multiple_of`, halved until it is no more than the rank."""
        unit = self.multiple_of
        while unit > rank:
            unit //= 2
        return unit


def _require(ok: bool, option: str, value: object, allowed: str) -> None:
    if not ok:
        raise ConfigError(f"method.factorize.{option}={value}", allowed=allowed)


class Factorize(CompressionMethod[FactorizeConfig]):
    """Replace linears, and the embedding table if wanted, by products of two thin matrices (weighted SVD).

    Trains nothing; `[factorize,distill]` recovers what the cut lost. Ranks are multiples of `multiple_of` where they are not
    set outright, below the `ratio` or above the `energy`, so that methods that take a product's weights in groups can follow.
    """

    Config = FactorizeConfig
    capabilities = Capabilities(needs_calibration=True, rebuilds=True)
    references = (
        "Eckart, Young 1936, doi:10.1007/BF02288367",
        "Wang et al. 2024, SVD-LLM, arXiv:2403.07378, section 3.1",
    )

    def __init__(self, config: FactorizeConfig) -> None:
        super().__init__(config)
        reads = config.weighting is Weighting.activations and config.linears is not Targets.none
        # Products of products, where single values decide, may still get smaller.
        again = config.linears is Targets.all and config.rank is None and not config.embeddings
        self.capabilities = replace(type(self).capabilities, needs_calibration=reads, idempotent=not again)

    def check(self, source: Blueprint, plan: Plan) -> None:
        """Refuse a rank that saves nothing anywhere."""
        width, inner = _widths(source)
        shapes = {Targets.ffn: inner, Targets.attention: width, Targets.all: max(inner, width), Targets.none: 0}
        most = width * shapes[self.config.linears] / (width + shapes[self.config.linears])
        if self.config.rank is not None and not self.config.embeddings and self.config.rank >= most:
            raise Incompatible(
                f"method.factorize.rank={self.config.rank} saves nothing on matrices of {width} by {width} and {inner}",
                allowed=f"below {most:.0f}",
                hint=f"method.factorize.rank={max(1, int(most / 2))}",
            )

    def outline(self, source: Blueprint, plan: Plan) -> Blueprint:
        """Tell what the ranks inside the layers are multiples of; small ones that only the work will tell may be of less."""
        options, (width, inner), heads = self.config, _widths(source), source.attention_width
        sizes = {Targets.ffn: [inner], Targets.attention: [heads], Targets.all: [inner, heads], Targets.none: []}
        ranks = [options.rank_of(width, size) for size in sizes[options.linears]]
        unknown = options.energy is not None or None in (source.heads, source.neurons)
        if options.rank is None and unknown:
            ranks = [options.multiple_of for _ in ranks]
        return replace(super().outline(source, plan), inner_multiple=gcd(source.inner_multiple, *ranks))

    def compress(self, source: CompressedModel, ctx: Context) -> CompressedModel:
        """Factorise the embeddings, then layer after layer; keep as it is what would not get smaller."""
        model = ctx.build_student(source).to(ctx.device).eval()
        before = parameter_count(model)
        ranks: dict[str, int] = {}
        lost: list[float] = []
        chosen = 0
        if self.config.embeddings:
            chosen += 1
            name, table = _table(model)
            counts = _counts(source, table, ctx) if self.config.weighting is Weighting.activations else None
            lost += self._replace(model, name, table, counts, ranks)
        linears = encoder_linears(model)
        batches: list[Batch] = []
        if self.capabilities.needs_calibration:
            batches = list(ctx.calibration_batches(source.tokenizer, self.config.examples))
        for layer in encoder_layers(model) if self.config.linears is not Targets.none else []:
            wanted = self._wanted(model, layer)
            own = {name: linear for name, linear in linears.items() if linear in wanted}
            chosen += len(own)
            moments = input_moments(model, own, batches) if batches else {}
            for name, linear in own.items():
                lost += self._replace(model, name, linear, moments.get(name), ranks)
        if not ranks:
            raise Incompatible(
                f"factorize: none of {chosen} chosen matrices would have fewer parameters",
                hint="method.factorize.ratio=0.5",
            )
        ctx.logger.info("%d of %d chosen matrices are products now", len(ranks), chosen)
        notes = {
            "matrices_replaced": len(ranks),
            "matrices_chosen": chosen,
            "smallest_rank": min(ranks.values()),
            "largest_rank": max(ranks.values()),
            "parameters_saved": before - parameter_count(model),
            "energy_lost": sum(lost) / len(lost),  # squared singular values cut off, as a share; mean over the matrices
        }
        return source.evolve(model=model, structure={"ranks": ranks}, notes=notes)

    def _wanted(self, model: nn.Module, layer: nn.Module) -> set[nn.Module]:
        parts = layer_parts(model, layer)
        if self.config.linears is Targets.ffn:
            return {parts.ffn_in, parts.ffn_out}
        if self.config.linears is Targets.attention:
            return {parts.query, parts.key, parts.value, parts.attention_output}
        return set(layer.modules())

    def _replace(
        self, model: nn.Module, name: str, old: Any, moments: Tensor | None, ranks: dict[str, int]
    ) -> list[float]:
        """Put a product in the place of a matrix if it is smaller; note its rank and return its share of lost energy."""
        import torch
        from torch import nn

        table = isinstance(old, nn.Embedding)
        weight = old.weight.detach().double()
        weight_OI = weight.T if table else weight
        root = None if moments is None else square_root(moments, self.config.damping)
        left, values, right = torch.linalg.svd(weighted(weight_OI, root), full_matrices=False)
        outputs, inputs = weight_OI.shape
        rank = self.config.choose(values, inputs, outputs)
        if rank * (inputs + outputs) >= inputs * outputs:
            return []
        up_OR, down_RI = factors(left, values, right, root, rank)
        product: Any = _product(old, rank).to(old.weight)
        with torch.no_grad():
            product[0].weight.copy_(down_RI.T if table else down_RI)
            product[1].weight.copy_(up_OR)
            if product[1].bias is not None:
                product[1].bias.copy_(old.bias)
        model.set_submodule(name, product.eval())
        ranks[name] = rank
        return [float(values[rank:].square().sum() / values.square().sum())]

    def rebuild(self, skeleton: nn.Module, structure: Mapping[str, Any]) -> nn.Module:
        """Put empty products where the structure names them."""
        for name, rank in structure["ranks"].items():
            skeleton.set_submodule(name, _product(skeleton.get_submodule(name), rank))
        return skeleton


def square_root(moments: Tensor, damping: float) -> Tensor:
    """Return S with S S^T = X X^T + damping: lower triangular, or for [inputs] of counts the diagonal.

    Where no input was seen, S is the identity. Every token is taken to have occurred once more than it did.
    """
    import torch

    if moments.dim() == 1:
        return (moments + 1).sqrt()
    mean = moments.diagonal().mean()
    if not bool(mean > 0):
        return torch.eye(len(moments), dtype=moments.dtype, device=moments.device)
    eye = torch.eye(len(moments), dtype=moments.dtype, device=moments.device)
    lower: Tensor = torch.linalg.cholesky(moments + damping * mean * eye)
    return lower


def weighted(weight_OI: Tensor, root: Tensor | None) -> Tensor:
    """Return W S."""
    if root is None:
        return weight_OI
    return weight_OI * root if root.dim() == 1 else weight_OI @ root


def factors(left: Tensor, values: Tensor, right: Tensor, root: Tensor | None, rank: int) -> tuple[Tensor, Tensor]:
    """Return the two factors from the decomposition of W S, the singular values shared evenly; [O, R] and [R, I]."""
    import torch

    scale = values[:rank].sqrt()
    up, down = left[:, :rank] * scale, right[:rank] * scale[:, None]
    if root is None:
        return up, down
    if root.dim() == 1:
        return up, down / root
    return up, torch.linalg.solve_triangular(root, down, upper=False, left=False)


def _widths(source: Blueprint) -> tuple[int, int]:
    """Return the width of the hidden states and of the feed-forward part, of the config where layers differ."""
    return source.hidden_size, source.neurons or int(getattr(source.config, ffn_size_name(source.config)))


def _product(old: Any, rank: int) -> nn.Sequential:
    """Return an empty product in the shape of a linear or a table."""
    from torch import nn

    if isinstance(old, nn.Embedding):
        table = nn.Embedding(old.num_embeddings, rank, padding_idx=old.padding_idx)
        return nn.Sequential(table, nn.Linear(rank, old.embedding_dim, bias=False))
    thin = nn.Linear(old.in_features, rank, bias=False)
    product: Any = nn.Sequential(thin, nn.Linear(rank, old.out_features, bias=old.bias is not None))
    product.in_features, product.out_features = old.in_features, old.out_features  # as of any linear
    return product  # type: ignore[no-any-return]


def _table(model: nn.Module) -> tuple[str, nn.Embedding]:
    """Return the word-embedding table and its dotted name.

    Raises:
        Incompatible: It is a product already.
    """
    from torch import nn

    table = model.get_input_embeddings()  # type: ignore[operator]
    if not isinstance(table, nn.Embedding):
        raise Incompatible(f"factorize: the word embeddings are a {type(table).__name__} already")
    return next(name for name, module in model.named_modules() if module is table), table


def _counts(source: CompressedModel, table: nn.Embedding, ctx: Context) -> Tensor:
    """Count each token in the training texts; padding counts nothing."""
    import torch

    counts = torch.zeros(table.num_embeddings, dtype=torch.int64, device=table.weight.device)
    for batch in ctx.batches("train", source.tokenizer):
        ids = batch.inputs["input_ids"][batch.inputs["attention_mask"].bool()]
        counts += torch.bincount(ids, minlength=table.num_embeddings)
    return counts.double()
