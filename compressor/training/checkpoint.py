"""Checkpoints of a training stage: safetensors and JSON under the commit protocol, never pickle.

A stage's folder holds `step-<optimizer steps>-epoch-<epochs done>`, of which the two newest are kept, and in the end
only `finished`. A folder is used if every hash in its manifest is right and it was written under the name that it has; a
damaged one is named and the one before it is used.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from compressor.commit import (
    FolderLock,
    Waiting,
    failpoint,
    partial_folder,
    read_json,
    sweep_leftovers,
    verify,
    write_json_atomic,
    write_text,
)
from compressor.errors import PluginError, StoreError
from compressor.training.distributed import Ranks
from compressor.training.journal import Told

KEPT: Final = 2
FINISHED: Final = "finished"
_FACTS: Final = "state.json"
_TOLD: Final = "losses.jsonl"
_LOOK_S: Final = 0.5  # between two looks at a lock that another run has


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything a stage needs to go on.

    Attributes:
        parts: part (model, optimizer, rng, ...) -> name -> tensor.
        facts: JSON: step, epoch, position, history, what the stage was started with.
        told: Its losses and scores up to here, see `journal.Told`.
    """

    parts: Mapping[str, Mapping[str, Tensor]]
    facts: Mapping[str, Any]
    told: bytes = b""


class Checkpoints:
    """The checkpoints of one stage.

    Args:
        folder: Where they live; None keeps none.
        identity: What must be equal for a checkpoint to be continued.
    """

    def __init__(self, folder: Path | None, identity: Mapping[str, Any], logger: logging.Logger) -> None:
        self.folder = folder
        self.identity = dict(identity)
        self.logger = logger

    def finished(self) -> Snapshot | None:
        """Return the end of a stage that was finished before."""
        if self.folder is None or not (self.folder / FINISHED).exists():
            return None
        found = self._read(self.folder / FINISHED)
        if found is not None:
            self._remove(self._steps())  # of a process that was killed before it could
        return found

    def newest(self) -> Snapshot | None:
        """Return the newest checkpoint that is intact.

        Raises:
            StoreError: It belongs to other settings, data or another model.
        """
        for path in reversed(self._steps()):
            snapshot = self._read(path)
            if snapshot is not None:
                return snapshot
        return None

    def write(self, snapshot: Snapshot) -> None:
        """Commit a checkpoint and remove those before the newest two."""
        if self.folder is None:
            return
        name = f"step-{snapshot.facts['step']:09}-epoch-{snapshot.facts['epoch']:04}"
        self._commit(self.folder / name, snapshot)
        failpoint("checkpoint.written")
        self._remove(self._steps()[:-KEPT])

    def finish(self, snapshot: Snapshot) -> None:
        """Commit the stage's end; its checkpoints are then of no more use."""
        if self.folder is None:
            return
        self._commit(self.folder / FINISHED, snapshot)
        self._remove(self._steps())

    def tidy(self) -> None:
        """Remove what a killed process left half-written."""
        if self.folder is not None:
            sweep_leftovers(self.folder)

    @staticmethod
    def _remove(steps: Sequence[Path]) -> None:
        for old in steps:
            shutil.rmtree(old, ignore_errors=True)

    def _steps(self) -> list[Path]:
        return [] if self.folder is None else sorted(p for p in self.folder.glob("step-*") if p.is_dir())

    def _commit(self, final: Path, snapshot: Snapshot) -> None:
        from safetensors.torch import save_file

        if final.exists():  # damaged, or it would have been used instead of made again
            shutil.rmtree(final)
        aliases: dict[str, dict[str, str]] = {}
        size = sum(t.numel() * t.element_size() for part in snapshot.parts.values() for t in part.values())
        with partial_folder(final, keep_existing=True, needed_bytes=size) as folder:
            for part, tensors in snapshot.parts.items():
                kept, aliases[part] = _without_aliases(part, tensors)
                save_file(kept, folder / f"{part}.safetensors")
                failpoint("checkpoint.part")
            facts = {**snapshot.facts, "name": final.name, "identity": self.identity, "aliases": aliases}
            write_json_atomic(folder / _FACTS, facts)
            write_text(folder / _TOLD, snapshot.told.decode())

    def _read(self, path: Path) -> Snapshot | None:
        """Read a checkpoint; None, with a warning, if it is damaged."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            verify(path)
            facts = read_json(path / _FACTS)
            parts = {part: load_file(path / f"{part}.safetensors") for part in facts["aliases"]}
            told = (path / _TOLD).read_bytes()
            if facts["name"] != path.name:
                raise StoreError(f"it was written as {facts['name']}")
        except (StoreError, SafetensorError, OSError, LookupError, TypeError, ValueError) as error:
            self.logger.warning("checkpoint %s is not used: %s", path, error)
            return None
        if facts["identity"] != self.identity:
            changed = sorted(k for k in self.identity if self.identity[k] != facts["identity"].get(k))
            raise StoreError(
                f"{path} was made with other {', '.join(changed) or 'settings'}",
                allowed="the same model, data and settings as when the stage was started",
                hint=f"restore the settings, or remove {path.parent} to start the stage anew",
            )
        for part, names in facts["aliases"].items():
            parts[part] |= {name: parts[part][same] for name, same in names.items()}
        return Snapshot(parts=parts, facts=facts, told=told)


def told_of(folder: Path) -> Told:
    """Return what a finished stage told of its steps and epochs, without reading its weights; nothing where it is not there."""
    path = folder / FINISHED / _TOLD
    try:
        verify(path.parent, deep=False)
        told = Told(path.read_bytes())
        told.lines()
    except (StoreError, OSError, ValueError):
        return Told()
    return told


@contextmanager
def held(folder: Path | None, ranks: Ranks, logger: logging.Logger) -> Iterator[None]:
    """Hold the lock of a folder, so that of several runs that want to make it one works and the others wait.

    Only the main process takes it. The others meet it after each look, so that however long it waits, no collective times out.
    """
    with ExitStack() as stack:
        if folder is not None:
            lock = stack.enter_context(FolderLock(folder)) if ranks.is_main else None
            waiting = Waiting(logger, f"another run that is at work on {folder.name}", look_s=_LOOK_S)
            while not ranks.agree(lock is not None and lock.acquire())[0]:
                if lock is not None:
                    waiting.sleep()
        yield


def _without_aliases(part: str, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Copy to the CPU; a name whose tensor is another name's tensor is returned as an alias."""
    kept: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[tuple[object, ...], str] = {}
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise PluginError(
                f"the {part} state '{name}' is a {type(tensor).__name__}", allowed="tensors: checkpoints hold no pickle"
            )
        key = (str(tensor.device), tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        if tensor.numel() and key in seen:
            aliases[name] = seen[key]
            continue
        seen[key] = name
        # Views of one storage and strided tensors are refused by the format; a contiguous copy is always written.
        kept[name] = tensor.detach().to("cpu", copy=True).contiguous()
    return kept, aliases


def rng_state() -> dict[str, Tensor]:
    """Return torch's random state."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: Mapping[str, Tensor]) -> None:
    """Restore what `rng_state` gave."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def digest(value: object) -> str:
    """Return a short hash of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
