"""Size: bytes as shipped, bytes of weights, parameters with tied tensors once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from compressor.artifact import Form, parameter_count
from compressor.runtimes.base import the_only
from compressor.telemetry import import_openvino

if TYPE_CHECKING:
    from torch import nn

# Written about the artifact, not part of it.
_RECORDS: Final = frozenset(
    {"manifest.json", "result.json", "report.md", "run.yaml", "log.txt", "teacher.json", "README.md"}
)
NO_WEIGHTS: Final = ("_scale", "_zero_point", ".scale", ".zero")  # endings of what only says how integers are meant
_WEIGHTS: Final = (".safetensors", ".bin", ".pt", ".pth", ".onnx", ".data")


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeResult:
    """Apparent file sizes of an artifact; a hard-linked file counts once."""

    size_bytes: int
    weights_bytes: int


def measure_size(folder: Path) -> SizeResult:
    """Add up the files of an artifact's folder."""
    return SizeResult(
        size_bytes=sum(path.stat().st_size for path in _files(folder)),
        weights_bytes=sum(path.stat().st_size for path in weight_files(folder)),
    )


def weight_files(folder: Path) -> list[Path]:
    """Return the files of an artifact's folder that hold weights."""
    return [path for path in _files(folder) if path.suffix in _WEIGHTS]


def _files(folder: Path) -> list[Path]:
    """Return what is shipped, each hard-linked file once."""
    found: dict[tuple[int, int], Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in _RECORDS:
            status = path.stat()
            found.setdefault((status.st_dev, status.st_ino), path)
    return list(found.values())


def count_parameters(form: Form, module: nn.Module | None, folder: Path | None) -> int:
    """Count the weights of a re-loaded artifact.

    A torch module: parameters, shared ones once, plus packed integer weights that are no parameters any more. An
    ONNX or OpenVINO file: the elements of its constants, scales and zero points aside.
    """
    if form is Form.torch:
        assert module is not None
        return parameter_count(module) + _packed(module)
    assert folder is not None
    if form is Form.onnx:
        import onnx

        graph = onnx.load(str(the_only(folder, ".onnx")), load_external_data=False).graph
        return sum(math.prod(i.dims) for i in graph.initializer if not i.name.endswith(NO_WEIGHTS))
    model = import_openvino().Core().read_model(the_only(folder, ".xml"))
    sizes = [math.prod(op.get_output_shape(0)) for op in model.get_ops() if op.get_type_name() == "Constant"]
    return sum(size for size in sizes if size > 1)


def _packed(module: nn.Module) -> int:
    """Count the weights that are no float parameters any more.

    A linear whose weight is packed into integers says by its shape how many it stands for, whatever their bits; other integer
    matrices hold one each.
    """
    import torch

    small = (torch.int8, torch.uint8)
    count, inside = 0, set[int]()
    for part in module.modules():
        sizes = getattr(part, "in_features", None), getattr(part, "out_features", None)
        own = [b for b in part.buffers(recurse=False) if b.dtype in small and b.ndim >= 2]
        if own and "weight" not in part._parameters and isinstance(sizes[0], int) and isinstance(sizes[1], int):
            count += sizes[0] * sizes[1]
            inside |= {id(b) for b in own}
        if "quantized" in type(part).__module__ and callable(weight := getattr(part, "weight", None)):  # torch.ao's
            bias = part.bias() if callable(part.bias) else None
            count += weight().numel() + (bias.numel() if bias is not None else 0)
    count += sum(b.numel() for b in module.buffers() if b.dtype in small and b.ndim >= 2 and id(b) not in inside)
    for parameter in module.parameters():
        state = getattr(parameter, "quant_state", None)  # bitsandbytes' 4-bit weights know their shape
        if state is not None:
            count += math.prod(state.shape) - parameter.numel()
    return count
