"""What the keys of cached teachers and training stages are made of: code, libraries, settings, data, tensors."""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from compressor import __version__
from compressor.config import TrainConfig

if TYPE_CHECKING:
    from torch import nn

# Nothing there decides a trained weight: what prints, measures, compares and runs what is finished.
_APART: Final = (
    "report", "measure", "compare", "runtimes", "testing", "assess.py", "timing.py", "runfolder.py", "estimate.py", "help.py",
    "cli.py", "comparing.py", "cells", "tracking.py", "copies.py", "account.py", "runkey.py", "unread.py", "installed.py",
    "finish.py", "gate.py", "telemetry.py", "search.py", "search_terms.py", "trials.py", "hopeless.py",
)  # fmt: skip
NO_RESULT: Final = ("checkpoint_seconds", "cache_gb")  # how often to save, how much to keep: not what is learned


def key_of(value: Mapping[str, Any]) -> str:
    """Return the key that stands for these JSON values."""
    import json

    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:24]


@lru_cache(maxsize=8)
def own_code(parts: tuple[str, ...] = ()) -> str:
    """Hash our code as this process first saw it: all that may decide a trained weight, or only the named parts."""
    root = Path(__file__).parent
    files = [f for f in root.rglob("*.py") if _within(f.relative_to(root), parts)]
    return hash_files(root, files)


def _within(file: Path, parts: Sequence[str]) -> bool:
    return file.parts[0] in parts if parts else file.parts[0] not in _APART


def plugin_code(classes: Iterable[type]) -> str:
    """Hash the code of classes: every file of the outermost package that holds each, or its one file outside of any."""
    digest = hashlib.sha256()
    for place in sorted({_home(Path(inspect.getfile(cls)).resolve()) for cls in classes}):
        files = [place] if place.is_file() else list(place.rglob("*.py"))
        digest.update(hash_files(place.parent, files).encode())
    return digest.hexdigest()


def _home(file: Path) -> Path:
    place = file
    while (place.parent / "__init__.py").is_file():
        place = place.parent
    return place


def hash_files(root: Path, files: Iterable[Path]) -> str:
    """Hash files, each with its path below `root`."""
    digest = hashlib.sha256()
    for file in sorted(files):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(root).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def libraries() -> dict[str, str]:
    """Return the versions that decide what the same code computes."""
    import torch
    import transformers

    return {"compressor": __version__, "torch": str(torch.__version__), "transformers": transformers.__version__}


def processes() -> int:
    """Return how many processes torchrun started; they share out the batches and draw their own dropout."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def settings_key(settings: TrainConfig) -> dict[str, str]:
    """Return the settings that decide the weights, as plain values."""
    return {name: str(value) for name, value in asdict(settings).items() if name not in NO_RESULT}


def rows_hash(splits: Mapping[str, Sequence[Any]]) -> str:
    """Hash the texts and labels of named splits, row after row."""
    digest = hashlib.sha256()
    for name, rows in splits.items():
        digest.update(f"{name}:{len(rows)}\n".encode())
        for row in rows:
            digest.update(repr((row.text, row.text_pair, row.label)).encode(errors="replace"))
    return digest.hexdigest()


def weights_hash(model: nn.Module, skip: set[str] | None = None) -> str:
    """Hash names, shapes and bytes of the state, without the names in `skip`."""
    import torch
    from torch.utils._python_dispatch import is_traceable_wrapper_subclass

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name in (skip or ()):
            continue
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        parts = [tensor]
        if is_traceable_wrapper_subclass(tensor):  # torchao's weights: integers, scales and zero points
            parts = [getattr(tensor, part) for part in tensor.__tensor_flatten__()[0]]
        for part in parts:
            digest.update(part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
