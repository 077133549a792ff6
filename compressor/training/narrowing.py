"""A narrower copy of an encoder: its weights, projected onto the leading directions of its hidden states.

Training from random weights needs more text than most have. A narrower copy starts from what the wide model knows: its
residual stream, of width D, is projected onto d directions (Q, [D, d], orthonormal), in the manner of SliceGPT (Ashkboos
et al. 2024, arXiv:2401.15024, section 3): each weight is contracted with Q where it reads or writes the stream. In a block:

- queries and keys, values and outputs: the best product of the smaller rank for each head, weighted by the second moment of
  what enters (a truncated SVD);
- feed-forward neurons: those whose output has the most energy stay;
- norms: a diagonal gain does not commute with Q, so gain and bias are refitted, dimension by dimension, by linear regression.
  Q spans the leading principal directions; within their span it is the basis in which the mean gain of all norms is diagonal;
- the head's hidden layer is not in the stream: its neurons are selected.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from compressor.errors import Incompatible
from compressor.families import base_model, encoder_layers, forward_inputs, pick_layers
from compressor.surgery import layer_parts, shapes

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compressor.tasks.base import Batch


class Narrowed(NamedTuple):
    """What came of it.

    Attributes:
        basis: Q, [D, d]: a hidden state of the wide model is about Q times one of the narrow model.
        energy: Share of the hidden states' second moment that lies in the span of Q.
        drawn: Parameters that no rule fits; they keep their random weights.
    """

    basis: Tensor
    energy: float
    drawn: list[str]


def narrow_weights(student: nn.Module, source: nn.Module, layers: Sequence[int], batches: Sequence[Batch]) -> Narrowed:
    """Give `student` the weights of `source`'s picked layers, projected, in place.

    Args:
        student: A new model like `source`, with a smaller width, `len(layers)` layers and as many attention heads.
        source: The wide model; it stays as it is.
        layers: The source's layer (from 0) for each of the student's. Their outputs and the embedding output are what the
            directions are fitted to.
        batches: What the models see of them decides directions, neurons and norms; labels are not read.

    Raises:
        Incompatible: The student is not narrower, heads differ in number, or the source's layers are not as its config says.
    """
    import torch

    heads = int(source.config.num_attention_heads)  # type: ignore[union-attr, arg-type]
    if heads != int(student.config.num_attention_heads):  # type: ignore[union-attr, arg-type]
        raise Incompatible(
            "a projected student needs as many attention heads as its source", hint="student.init=random"
        )
    if _width(student) >= _width(source):
        raise Incompatible(f"a width of {_width(student)} is not below the source's {_width(source)}")
    if shapes(source) is not None:
        raise Incompatible(
            "the source lost heads or neurons, and only whole layers are projected", hint="student.init=random"
        )
    wide = copy.deepcopy(source).eval()
    pick_layers(wide, layers)
    with torch.no_grad():
        moment = hidden_moment(source, layers, batches)
        basis, energy = directions(moment, _mean_gain(wide), _width(student))
        reduced = basis.T @ moment @ basis
        neurons = _neurons(student, wide, batches)
        drawn = _axes(student, wide, basis)
        for one, other, kept in zip(encoder_layers(student), encoder_layers(wide), neurons, strict=True):
            new, old = layer_parts(student, one), layer_parts(wide, other)
            _pair_heads((new.query, new.key), (old.query, old.key), heads, basis, reduced)
            _value_heads((new.value, new.attention_output), (old.value, old.attention_output), heads, basis, reduced)
            new.ffn_in.weight.copy_(old.ffn_in.weight[kept] @ basis)
            new.ffn_in.bias.copy_(old.ffn_in.bias[kept])
            new.ffn_out.weight.copy_(basis.T @ old.ffn_out.weight[:, kept])
            new.ffn_out.bias.copy_(basis.T @ old.ffn_out.bias)
        _refit_norms(student, wide, basis, batches)
    return Narrowed(basis, energy, drawn)


def hidden_moment(model: nn.Module, layers: Sequence[int], batches: Sequence[Batch]) -> Tensor:
    """Return the mean second moment [D, D] of the embedding output and of `layers`, each scaled to a trace of D."""
    import torch

    width = _width(model)
    sums = torch.zeros(len(layers) + 1, width, width)
    for batch in batches:
        states = model(**forward_inputs(model, batch.inputs), output_hidden_states=True).hidden_states
        real = batch.inputs["attention_mask"].bool()
        for place, layer in enumerate((-1, *layers)):
            rows = states[layer + 1][real].float().cpu()
            sums[place] += rows.T @ rows
    traces = sums.diagonal(dim1=1, dim2=2).sum(dim=1)
    return (sums * (width / traces)[:, None, None]).mean(dim=0)


def directions(moment_DD: Tensor, gain_D: Tensor, width: int) -> tuple[Tensor, float]:
    """Return Q, [D, width], and the share of the moment's trace in its span; within the span Q^T diag(gain) Q is diagonal."""
    import torch

    values, vectors = torch.linalg.eigh(moment_DD.double())
    span = vectors[:, -width:]
    within = torch.linalg.eigh(span.T @ (gain_D.double()[:, None] * span)).eigenvectors
    return (span @ within).float(), float(values[-width:].sum() / values.sum())


def best_product(left_NR: Tensor, right_RM: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return [N, rank] and [rank, M] whose product is nearest to left @ right (Eckart and Young 1936), scaled alike."""
    import torch

    left_q, left_r = torch.linalg.qr(left_NR)
    right_q, right_r = torch.linalg.qr(right_RM.T)
    u, s, vt = torch.linalg.svd(left_r @ right_r.T)
    root = s[:rank].sqrt()
    return left_q @ (u[:, :rank] * root), (root[:, None] * vt[:rank]) @ right_q.T


def _pair_heads(
    new: tuple[nn.Linear, nn.Linear], old: tuple[nn.Linear, nn.Linear], heads: int, basis: Tensor, moment: Tensor
) -> None:
    """Set queries and keys so that each head's scores stay as near as the smaller heads allow; biases are a last input."""
    whiten, back = _roots(moment)
    size, wide = new[0].out_features // heads, old[0].out_features // heads
    scale = (size / wide) ** 0.25  # scores are divided by the root of the head's width
    query, key = (_with_bias(linear.weight @ basis, linear.bias) @ whiten for linear in old)
    for head in range(heads):
        rows, into = slice(head * wide, (head + 1) * wide), slice(head * size, (head + 1) * size)
        left, right = best_product(query[rows].T, key[rows], size)
        for linear, found in ((new[0], left.T), (new[1], right)):
            _set_rows(linear, into, found @ back * scale)


def _value_heads(
    new: tuple[nn.Linear, nn.Linear], old: tuple[nn.Linear, nn.Linear], heads: int, basis: Tensor, moment: Tensor
) -> None:
    """Set values and the output linear so that each head adds to the stream what it did, as near as its smaller size allows."""
    whiten, back = _roots(moment)
    size, wide = new[0].out_features // heads, old[0].out_features // heads
    value = _with_bias(old[0].weight @ basis, old[0].bias) @ whiten
    output = basis.T @ old[1].weight
    for head in range(heads):
        rows, into = slice(head * wide, (head + 1) * wide), slice(head * size, (head + 1) * size)
        left, right = best_product(output[:, rows], value[rows], size)
        new[1].weight[:, into] = left
        _set_rows(new[0], into, right @ back)
    new[1].bias.copy_(basis.T @ old[1].bias)


def _with_bias(weight_RD: Tensor, bias_R: Tensor) -> Tensor:
    import torch

    return torch.cat([weight_RD, bias_R[:, None]], dim=1)


def _set_rows(linear: nn.Linear, rows: slice, weight_with_bias: Tensor) -> None:
    linear.weight[rows] = weight_with_bias[:, :-1]
    linear.bias[rows] = weight_with_bias[:, -1]


def _roots(moment: Tensor) -> tuple[Tensor, Tensor]:
    """Return the root of the inputs' second moment and its inverse, with the constant input 1 that the bias belongs to."""
    import torch

    values, vectors = torch.linalg.eigh(moment.double())
    values = values.clamp(min=float(values.max()) * 1e-6)
    roots = torch.eye(len(values) + 1).repeat(2, 1, 1)
    for root, scale in zip(roots, (values.sqrt(), values.rsqrt()), strict=True):
        root[:-1, :-1] = (vectors * scale) @ vectors.T
    return roots[0], roots[1]


def _neurons(student: nn.Module, wide: nn.Module, batches: Sequence[Batch]) -> list[Tensor]:
    """Return the feed-forward neurons of each layer that stay, ascending: those that write the most energy."""
    import torch

    outs = [layer_parts(wide, layer).ffn_out for layer in encoder_layers(wide)]
    energy = {linear: torch.zeros(linear.in_features) for linear in outs}

    def add(linear: nn.Linear, entering: Tensor, output: Tensor) -> None:
        energy[linear] += entering.square().sum(dim=0).cpu()

    _listen(wide, outs, batches, add)
    kept = []
    for layer, linear in zip(encoder_layers(student), outs, strict=True):
        strength = energy[linear] * linear.weight.square().sum(dim=0).cpu()
        kept.append(strength.topk(layer_parts(student, layer).ffn_out.in_features).indices.sort().values)
    return kept


def _axes(student: nn.Module, wide: nn.Module, basis: Tensor) -> list[str]:
    """Set what is outside the blocks' linears by contracting every axis as wide as the stream; return what fits no rule."""
    from torch import nn

    square, last = _head_linears(wide)
    kept = None
    if square is not None:
        strength = square.weight.norm(dim=1) * (1.0 if last is None else last.weight.norm(dim=0))
        kept = strength.topk(_width(student)).indices.sort().values
    selected = {} if square is None else {id(square.weight): 0, id(square.bias): 0}
    if last is not None:
        selected[id(last.weight)] = 1
    known, drawn = dict(wide.named_parameters()), []
    norms = {id(p) for m in student.modules() if isinstance(m, nn.LayerNorm) for p in m.parameters()}
    inside = {id(p) for layer in encoder_layers(student) for m in layer_parts(student, layer) for p in m.parameters()}
    for name, target in student.named_parameters():
        if id(target) in inside or (id(target) in norms and target.shape != known[name].shape):
            continue  # set elsewhere
        value: Tensor = known[name]
        for axis in range(value.ndim):
            if value.shape[axis] == target.shape[axis]:
                continue
            if selected.get(id(known[name])) == axis:
                value = value.index_select(axis, kept)  # type: ignore[arg-type]
            elif value.shape[axis] == len(basis):
                value = (value.movedim(axis, -1) @ basis).movedim(-1, axis)
        if value.shape == target.shape:
            target.copy_(value)
        else:
            drawn.append(name)
    return drawn


def _head_linears(model: nn.Module) -> tuple[nn.Linear | None, nn.Linear | None]:
    """Return the head's (or pooler's) square linear, behind which a nonlinearity stands, and the linear that reads it."""
    from torch import nn

    encoder = {m for layer in encoder_layers(model) for m in layer.modules()}
    outside = [m for m in model.modules() if isinstance(m, nn.Linear) and m not in encoder]
    square = next((m for m in outside if m.in_features == m.out_features == _width(model)), None)
    read = [m for m in outside if m is not square and m.in_features == _width(model)]
    inner = set(base_model(model).modules())
    return square, next((m for m in reversed(read) if square is not None and m not in inner), None)


def _mean_gain(model: nn.Module) -> Tensor:
    import torch

    return torch.stack([norm.weight.abs() for norm in _norms(model).values()]).mean(dim=0)


def _norms(model: nn.Module) -> dict[str, nn.LayerNorm]:
    from torch import nn

    width = _width(model)
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.LayerNorm) and m.normalized_shape == (width,)}


def _refit_norms(student: nn.Module, wide: nn.Module, basis: Tensor, batches: Sequence[Batch]) -> None:
    """Fit gain and bias of every norm by regressing Q^T y on the narrow norm's own normalised input, for each dimension."""
    import torch
    from torch.nn.functional import layer_norm

    width = basis.shape[1]
    own, others = _norms(student), _norms(wide)
    sums = {norm: torch.zeros(5, width, dtype=torch.float64) for norm in others.values()}

    def add(norm: nn.LayerNorm, entering: Tensor, output: Tensor) -> None:
        x = layer_norm(entering.float() @ basis.to(entering.device), (width,), eps=norm.eps).double().cpu()
        y = (output.float() @ basis.to(output.device)).double().cpu()
        sums[norm] += torch.stack([torch.ones_like(x).sum(0), x.sum(0), y.sum(0), (x * x).sum(0), (x * y).sum(0)])

    _listen(wide, list(others.values()), batches, add)
    for name, norm in others.items():
        n, x, y, xx, xy = sums[norm]
        if not bool(n.all()):
            continue  # a norm that no example passed keeps gain 1 and bias 0
        gain = (xy / n - x * y / n**2) / (xx / n - (x / n) ** 2).clamp(min=1e-6)
        own[name].weight.copy_(gain.float())
        own[name].bias.copy_((y / n - gain * x / n).float())


def _listen(model: nn.Module, modules: Sequence[nn.Module], batches: Sequence[Batch], add: Any) -> None:
    """Call add(module, input, output) with [N, D] rows of real tokens for every call of the modules."""
    mask: list[Tensor] = []

    def hook(module: nn.Module, args: Any, output: Tensor) -> None:
        entering = args[0]
        rows = mask[0] if entering.shape[:2] == mask[0].shape else ...
        add(module, entering[rows].flatten(0, -2), output[rows].flatten(0, -2))

    with _hooked(modules, hook):
        for batch in batches:
            mask[:] = [batch.inputs["attention_mask"].bool()]
            model(**forward_inputs(model, batch.inputs))


@contextmanager
def _hooked(modules: Sequence[nn.Module], hook: Any) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _width(model: nn.Module) -> int:
    return int(model.config.hidden_size)  # type: ignore[union-attr, arg-type]
