"""Opens a saved model; each call of one from a folder `NAME@FACTOR` takes FACTOR times as long, by doing nothing the rest."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from compressor import store
from compressor.runtimes.base import Inputs, Logits
from compressor.runtimes.torch_eager import TorchSession

_run = TorchSession.run


def load(folder: Path) -> Any:
    """Load an artifact whose calls wait, on the processor, until FACTOR times their own time is over."""
    artifact = store.load(folder)
    artifact.model.slowdown = float(folder.name.partition("@")[2] or 1.0)
    return artifact


def slowed_run(session: TorchSession, inputs: Inputs) -> Logits:
    """Run the session, then wait; what this function itself takes falls on everybody, or within the time that is waited for."""
    started, slowdown = time.perf_counter_ns(), session.model.slowdown
    logits = _run(session, inputs)
    if slowdown > 1.0:
        until = started + int((time.perf_counter_ns() - started) * slowdown)
        while time.perf_counter_ns() < until:
            pass
    return logits


TorchSession.run = slowed_run  # type: ignore[method-assign]
