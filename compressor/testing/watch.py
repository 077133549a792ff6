"""One run of a method, watched: what it made, what it asked for, and what it changed that is not its own.

Checks that only look share one run, so that a suite of promises costs a few runs a method rather than one for each promise.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.artifact import CompressedModel
from compressor.method import CompressionMethod
from compressor.testing.house import TinyHouse
from compressor.workbench import Workbench

if TYPE_CHECKING:
    from torch import Tensor

_seen: dict[tuple[type, str], Watched] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What was seen of a run.

    Attributes:
        made: The result.
        fits: How often training was asked for.
        calibrations: How often calibration data was asked for.
        teacher_before: Fingerprint of the teacher, which is the source too.
        teacher_after: The same after the run.
        teacher_training: Whether the teacher was left in training mode.
        state_before: Grad mode, default dtype, threads and current folder.
        state_after: The same after the run.
    """

    made: CompressedModel
    fits: int
    calibrations: int
    teacher_before: str
    teacher_after: str
    teacher_training: bool
    state_before: tuple[object, ...]
    state_after: tuple[object, ...]


def watched(method: CompressionMethod[Any], house: TinyHouse) -> Watched:
    """Return what a run of the method shows; it is run once in this process for each class and config."""
    key = type(method), repr(method.config)
    if key not in _seen:
        _seen[key] = _watch(method, house)
    return _seen[key]


def _watch(method: CompressionMethod[Any], house: TinyHouse) -> Watched:
    asked: list[str] = []

    class Listening(Workbench):
        def fit(self, *args: Any, **kwargs: Any) -> Any:
            asked.append("fit")
            return super().fit(*args, **kwargs)

        def calibration_batches(self, *args: Any, **kwargs: Any) -> Any:
            asked.append("calibration")
            return super().calibration_batches(*args, **kwargs)

    fingerprint_before, state_before = fingerprint(house.teacher), _state()
    made = house.compress([method], bench=Listening)
    return Watched(
        made=made,
        fits=asked.count("fit"),
        calibrations=asked.count("calibration"),
        teacher_before=fingerprint_before,
        teacher_after=fingerprint(house.teacher),
        teacher_training=house.teacher.model.training,
        state_before=state_before,
        state_after=_state(),
    )


def _state() -> tuple[object, ...]:
    import torch

    return torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads(), Path.cwd()


def fingerprint(artifact: CompressedModel) -> str:
    """Hash the weights, or the files of a compiled form."""
    digest = hashlib.sha256()
    if artifact.module is not None:
        for name, tensor in sorted(artifact.module.state_dict().items()):
            digest.update(name.encode() + values(tensor).float().numpy().tobytes())
    else:
        assert artifact.folder is not None
        for path in sorted(p for p in artifact.folder.rglob("*") if p.is_file()):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def values(tensor: Tensor) -> Tensor:
    """Return the numbers that a tensor stands for; torchao's are integers with scales."""
    from torch.utils._python_dispatch import is_traceable_wrapper_subclass

    return tensor.dequantize() if is_traceable_wrapper_subclass(tensor) else tensor.detach()
