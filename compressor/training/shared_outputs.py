"""Tensors that the cells of a multirun share: computed by the first that needs them, read from disk by the others.

The folder stands in the environment; a run of its own has none, and computes for itself.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from safetensors.torch import load_file, save_file
from torch import Tensor

from compressor import commit
from compressor.errors import StoreError

FOLDER: Final = "COMPRESSOR_SHARED"
_FILE: Final = "outputs.safetensors"
_POLL_S: Final = 0.5
_LOG: Final = logging.getLogger("compressor")


def shared(key: str, compute: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
    """Return the tensors that `key` stands for; nobody computes them while another does.

    What does not verify is computed again, and a disk that takes no more costs the sharing alone.
    """
    root = os.environ.get(FOLDER)
    if not root:
        return compute()
    place = Path(root) / key
    with commit.FolderLock(place) as lock:
        waiting = commit.Waiting(_LOG, "another cell to compute the teacher's outputs", look_s=_POLL_S)
        while not lock.acquire():
            waiting.sleep()
        if (found := _read(place)) is not None:
            return found
        computed = compute()
        with suppress(StoreError):
            _write(place, computed)
        return computed


def _read(place: Path) -> Mapping[str, Tensor] | None:
    if not place.is_dir():
        return None
    if commit.is_complete(place):
        with suppress(OSError):  # the sweep of another command has ended meanwhile, and tidied up
            tensors: Mapping[str, Tensor] = load_file(place / _FILE)
            return tensors
    commit.set_aside(place)
    return None


def _write(place: Path, tensors: Mapping[str, Tensor]) -> None:
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    with commit.partial_folder(place, keep_existing=True, needed_bytes=size) as partial:
        save_file(dict(tensors), partial / _FILE)
