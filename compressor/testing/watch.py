"""One run of a method, watched: what it made, what it asked for, and what it changed that is not its own.

Checks that only look share one run, so that a suite of promises costs a few runs a method rather than one for each promise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compressor.artifact import CompressedModel
from compressor.conduct import State
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
        left_changed: What it did not leave as it was: grad mode, threads, folder, hooks, ...
    """

    made: CompressedModel
    fits: int
    calibrations: int
    teacher_before: str
    teacher_after: str
    left_changed: tuple[str, ...]


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

    left_changed: list[str] = []

    @contextmanager
    def looking(_: str, teacher: CompressedModel) -> Iterator[None]:
        """See what a run would put back, and put it back."""
        state = State(teacher.module)
        try:
            yield
        finally:
            left_changed.extend(state.careless())
            state.put_back()

    fingerprint_before = fingerprint(house.teacher)
    made = house.compress([method], bench=Listening, guard=looking)
    return Watched(
        made=made,
        fits=asked.count("fit"),
        calibrations=asked.count("calibration"),
        teacher_before=fingerprint_before,
        teacher_after=fingerprint(house.teacher),
        left_changed=tuple(left_changed),
    )


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
