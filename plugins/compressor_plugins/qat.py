"""Quantisation-aware training: the model learns while its products are rounded to 8 bits, and ends in real integers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from compressor.api import (
    Blueprint,
    Capabilities,
    CompressedModel,
    CompressionMethod,
    ConfigError,
    Context,
    Form,
    Imitation,
    Incompatible,
    MethodConfig,
    encoder_linears,
    forward_inputs,
    onnx_graph,
    quantised_share,
    spread,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from onnx import ModelProto
    from torch import Tensor, nn

_CHECKED = 32  # training texts on which the file is compared with the model that was trained
_LINEAR_ERROR = 1e-3  # of a single linear of the file, over its largest output
_MOST_BYTES = 0.35  # of the float32 file; above it a warning says so


@dataclass(slots=True, kw_only=True)
class QatConfig(MethodConfig):
    """Options of `qat`."""

    ema_decay: float = 0.99  # how slowly the range of an activation follows what batches show
    symmetric: bool = True  # activations: zero in the middle of the range, as in the paper
    per_channel: bool = True  # one scale for each output of a linear and each row of a table; the paper has one for all
    alpha: float = 0.0  # weight of the labels beside the teacher's predictions; the paper has labels alone (1)
    temperature: float = 2.0  # softens the predictions that are compared; classes only
    hidden_weight: float = 1.0  # weight of the teacher's hidden states in the loss; 0 leaves them out
    tolerance: float = 0.1  # rms difference of the logits from the trained model's, over their spread; seen: 0.005
    minimum_share: float = 0.9  # of the encoder's linears; below it the result is refused

    def __post_init__(self) -> None:
        for name, ok, allowed in (
            ("ema_decay", 0 <= self.ema_decay < 1, "0 to below 1"),
            ("alpha", 0 <= self.alpha <= 1, "0 to 1"),
            ("temperature", self.temperature > 0, "above 0"),
            ("hidden_weight", self.hidden_weight >= 0, "0 or more"),
            ("tolerance", self.tolerance > 0, "above 0"),
            ("minimum_share", 0 < self.minimum_share <= 1, "above 0, at most 1"),
        ):
            if not ok:
                raise ConfigError(f"method.qat.{name}={getattr(self, name)}", allowed=allowed)


class Qat(CompressionMethod[QatConfig]):
    """Train with rounded weights and activations against the teacher, then store integers for ONNX Runtime; a final form.

    Forward, the inputs and weights of the encoder's linears and the rows of the tables pass through

        r' = S * (clamp(round(r / S) + Z, q_min, q_max) - Z)

    (Jacob et al. 2018, equation 12; Zafrir et al. 2019, equation 1, where Z = 0) with S = max|W| / 127 for weights, from the
    weights of this very step, and S = EMA(max|x|) / 127 for activations (Zafrir et al., section 2.1; `symmetric=false` keeps
    averages of both ends, Jacob et al., section 3.1). Backward, rounding counts as the identity, and what was clipped gets
    no gradient, as in Jacob et al.; the code of Zafrir et al. lets it pass. That code averages with 0.9999, which the few
    hundred steps of a recovery would never lead away from the first batch: the default here is 0.99. It also rounds the
    outputs of the linears; here they stay float, as the kernels give them. LayerNorm, softmax, GELU, the products of
    attention, the pooler and the head stay float32.

    Tables are stored as integers too: the file has about a quarter of the float32 export's bytes. Above 35 % a warning says so.
    """

    Config = QatConfig
    capabilities = Capabilities(
        needs_training=True, produces=Form.onnx, leaves_trainable=False, signals=frozenset({"logits", "hidden"})
    )
    references = ("Zafrir et al. 2019, arXiv:1910.06188", "Jacob et al. 2018, arXiv:1712.05877, section 3")

    def compress(self, source: CompressedModel, ctx: Context) -> CompressedModel:
        """Train with rounding, export the trained weights, write integers with the trained ranges, compare."""
        import onnx

        model, levels = ctx.build_student(source), onnx_graph.weight_levels()
        imitation = self._loss(source.blueprint, ctx)
        with rounded(model, self.config, levels) as ranges:
            result = ctx.fit(
                model,
                imitation,
                signals=imitation.signals,
                student_signals=imitation.student_signals,
                use_unlabelled=True,
                tokenizer=source.tokenizer,
            )
            model.cpu()
            batch = next(ctx.batches("train", source.tokenizer, _CHECKED))
            examples = {name: tensor.cpu() for name, tensor in batch.inputs.items()}
            expected, order = follow(model, examples)
        scales = {
            name: onnx_graph.affine(float(r.low), float(r.high), symmetric=self.config.symmetric)
            for name, r in ranges.items()
        }
        exported = ctx.export_onnx(source.evolve(model=model)) / "model.onnx"
        graph = onnx_graph.read_graph(exported)
        places = {node: name for node, name in locate(graph, model, order).items() if name in scales}
        inputs = inputs_of(graph, {node: scales[name] for node, name in places.items()})
        products = [
            Product(node.input[0], node.output[0], scales[name], model.get_submodule(name).weight)  # type: ignore[arg-type]
            for node in graph.graph.node
            if (name := places.get(node.name)) is not None
        ]
        onnx_graph.quantise(graph, inputs, places, per_channel=self.config.per_channel, levels=levels)
        tables = onnx_graph.pack_tables(graph, per_row=self.config.per_channel)
        counts = quantised_share("qat", set(places.values()), list(scales), self.config.minimum_share)
        folder = ctx.workspace / "int8"
        folder.mkdir()
        onnx.save(graph, str(folder / "model.onnx"))
        found = compare(graph, examples, products, expected)
        if not (found["largest_linear_error"] <= _LINEAR_ERROR and found["logit_error"] <= self.config.tolerance):
            raise Incompatible(
                f"qat: the int8 file differs from the trained model: {found}",
                allowed=f"{_LINEAR_ERROR:.0e} in a linear and {self.config.tolerance:g} in the logits",
            )
        ctx.logger.info("%d of %d encoder linears are int8", counts["linears_quantised"], counts["linears_eligible"])
        before, after = exported.stat().st_size, (folder / "model.onnx").stat().st_size
        if after > _MOST_BYTES * before:
            ctx.logger.warning(f"the int8 file has {after:,} bytes, {after / before:.0%} of the float32 file's")
        notes = {
            **result.summary(),
            **counts,
            "tables": tables,
            **found,
            "weight_levels": levels,
            "fp32_bytes": before,
            "int8_bytes": after,
        }
        return source.evolve(folder=folder, form=Form.onnx, notes=notes)

    def _loss(self, source: Blueprint, ctx: Context) -> Imitation:
        """Compare hidden states where teacher and source have the same width and tokens."""
        alike = ctx.plan.tokens_align(source) and source.hidden_size == ctx.teacher.blueprint.hidden_size
        layers = source.layers if alike and source.layers <= ctx.teacher.blueprint.layers else 0
        return Imitation(
            layers=dict(enumerate(spread(ctx.teacher.blueprint.layers, layers))) if layers else {},
            hidden_weight=self.config.hidden_weight,
            alpha=self.config.alpha,
            temperature=self.config.temperature,
        )


@contextmanager
def rounded(model: nn.Module, config: QatConfig, levels: int) -> Iterator[dict[str, Any]]:
    """Round the encoder's products and the rows of the tables in the body; give the range of each linear's input by name.

    Ranges live in the model's own state, so that a checkpoint holds them and the chosen epoch's weights come with the chosen
    epoch's ranges. Afterwards the linears hold the rounded weights that their last forward used: whoever rounds those again
    gets the same integers, while of the float weights some in a million fall on the other side of a step when they are
    divided by the scale, as a file's writer does, and not multiplied by its inverse, as torch does.
    """
    from torch import nn
    from torch.nn.utils import parametrize

    weight_type, range_type = _modules()
    linears = encoder_linears(model)
    ranges, handles = {}, []
    for name, linear in linears.items():
        ranges[name] = range_type(config.ema_decay, config.symmetric)
        linear.add_module("input_range", ranges[name])
        handles.append(linear.register_forward_pre_hook(lambda module, args: (module.input_range(*args),)))
        parametrize.register_parametrization(linear, "weight", weight_type(config.per_channel, levels))
    for table in model.modules():
        if isinstance(table, nn.Embedding) and table.num_embeddings >= onnx_graph.MIN_ROWS:
            handles.append(table.register_forward_hook(_round_rows if config.per_channel else _round_table))
    try:
        yield ranges
    finally:
        for handle in handles:
            handle.remove()
        for linear in linears.values():
            parametrize.remove_parametrizations(linear, "weight", leave_parametrized=True)
            del linear.input_range


@cache
def _modules() -> tuple[Any, Any]:
    """Return the two modules that round: of weights, and of a linear's inputs."""
    import torch
    from torch import nn

    class RoundedWeight(nn.Module):
        def __init__(self, per_channel: bool, levels: int) -> None:
            super().__init__()
            self.per_channel, self.levels = per_channel, levels

        def forward(self, weight_OI: Tensor) -> Tensor:
            weight_OI = weight_OI.float()
            sizes = weight_OI.detach().abs()
            largest_O = sizes.amax(dim=1) if self.per_channel else sizes.max().expand(len(sizes))
            scale_O = torch.where(largest_O > 0, largest_O / self.levels, 1.0)
            zero_O = torch.zeros_like(scale_O, dtype=torch.int32)
            return torch.fake_quantize_per_channel_affine(weight_OI, scale_O, zero_O, 0, -self.levels, self.levels)

    class InputRange(nn.Module):
        low: Tensor
        high: Tensor
        batches: Tensor

        def __init__(self, decay: float, symmetric: bool) -> None:
            super().__init__()
            self.decay, self.symmetric = decay, symmetric
            for name in ("low", "high", "batches"):
                self.register_buffer(name, torch.zeros(1))

        def forward(self, values: Tensor) -> Tensor:
            values = values.float()
            if self.training:
                self.follow(values.detach())
            low, high = self.low.clamp(max=0.0), self.high.clamp(min=0.0)
            if self.symmetric:
                scale = torch.maximum(-low, high).clamp(min=1e-9) / 127
                zero = torch.zeros_like(scale, dtype=torch.int32)
                return torch.fake_quantize_per_tensor_affine(values, scale, zero, -128, 127)
            scale = (high - low).clamp(min=1e-9) / 255
            zero = (-low / scale).round().clamp(0, 255).to(torch.int32)
            return torch.fake_quantize_per_tensor_affine(values, scale, zero, 0, 255)

        def follow(self, values: Tensor) -> None:
            """Average the ends: m_1 = x_1, then m_t = d * m_(t-1) + (1 - d) * x_t."""
            for mean, new in ((self.low, values.min()), (self.high, values.max())):
                mean.copy_(torch.where(self.batches == 0, new, self.decay * mean + (1 - self.decay) * new))
            self.batches.add_(1)

    return RoundedWeight, InputRange


def _round_rows(table: nn.Embedding, args: Any, rows: Tensor) -> Tensor:
    return _straight_through(rows, rows.detach().abs().amax(dim=-1, keepdim=True))


def _round_table(table: nn.Embedding, args: Any, rows: Tensor) -> Tensor:
    return _straight_through(rows, table.weight.detach().abs().max())


def _straight_through(rows: Tensor, largest: Tensor) -> Tensor:
    import torch

    scale = torch.where(largest > 0, largest / 127, 1.0)
    return rows + ((rows.detach() / scale).round() * scale - rows.detach())


def follow(model: nn.Module, inputs: Mapping[str, Tensor]) -> tuple[NDArray[np.float32], list[str]]:
    """Run a model and return its logits and the names of its linears in the order in which they are used."""
    import torch
    from torch import nn

    order: list[str] = []
    handles = [
        module.register_forward_hook(lambda module, args, output, name=name: order.append(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        with torch.inference_mode():
            logits = model(**forward_inputs(model, inputs)).logits.float().numpy()
    finally:
        for handle in handles:
            handle.remove()
    return logits, order


def locate(graph: ModelProto, model: nn.Module, order: Sequence[str]) -> dict[str, str]:
    """Return the linear of the model that each product of the graph is, by name: the same weights at the same turn."""
    from onnx import numpy_helper

    waiting: dict[bytes, list[str]] = {}
    weights: dict[str, bytes] = {}
    for name in order:
        if name not in weights:
            weights[name] = model.get_submodule(name).weight.detach().numpy().T.tobytes()  # type: ignore[union-attr, operator]
        waiting.setdefault(weights[name], []).append(name)
    stored = {i.name: numpy_helper.to_array(i).tobytes() for i in graph.graph.initializer if len(i.dims) == 2}
    places = {}
    for node in onnx_graph.weight_linears(graph.graph):
        if found := waiting.get(stored[node.input[1]]):
            places[node.name] = found.pop(0)
    return places


def inputs_of(graph: ModelProto, scales: Mapping[str, onnx_graph.Affine]) -> dict[str, onnx_graph.Affine]:
    """Return the scale of each tensor that the named products read; where two differ, a second name keeps them apart."""
    from onnx import helper

    found: dict[str, onnx_graph.Affine] = {}
    for node in list(graph.graph.node):
        if node.name in scales and found.setdefault(node.input[0], scales[node.name]) != scales[node.name]:
            again = f"{node.input[0]}.{node.name}"
            at = list(graph.graph.node).index(node)
            graph.graph.node.insert(at, helper.make_node("Identity", [node.input[0]], [again]))
            node.input[0] = again
            found[again] = scales[node.name]
    return found


class Product(NamedTuple):
    """A product of the graph: the tensors it reads and gives, its input's scale, and its rounded weight."""

    reads: str
    gives: str
    scale: onnx_graph.Affine
    weight: Tensor


def compare(
    graph: ModelProto,
    examples: Mapping[str, Tensor],
    products: Sequence[Product],
    expected: NDArray[np.float32],
) -> dict[str, float]:
    """Hold the file against the trained model: each linear on its own inputs, and the logits.

    `largest_linear_error` is relative to the linear's largest output: ONNX Runtime adds integers where torch adds floats, which
    is all that may differ. `logit_error` is the root mean square of the difference over the spread of the logits. It is not
    as small: a value that falls on the other side of a rounding step, for a difference in its seventh digit, moves what comes
    after it, and a deep model's outputs end up apart by about as much as rounding itself moves them.
    """
    import numpy as np
    import torch

    feed = {name: tensor.numpy() for name, tensor in examples.items()}
    names = ["logits", *(name for product in products for name in (product.reads, product.gives))]
    found = next(onnx_graph.observe(graph, names, [feed]))
    errors = [0.0]
    for product in products:
        scale, zero = np.float32(product.scale.scale), product.scale.zero
        integers = np.clip(np.rint(found[product.reads] / scale) + zero, 0, 255) - zero
        with torch.inference_mode():
            right = integers * scale @ product.weight.numpy().T
        errors.append(float(np.abs(right - found[product.gives]).max() / max(float(np.abs(right).max()), 1e-12)))
    difference = float(np.sqrt(np.mean((found["logits"] - expected) ** 2)))
    return {"largest_linear_error": max(errors), "logit_error": difference / max(float(expected.std()), 1e-12)}
