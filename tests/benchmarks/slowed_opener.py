"""Opens a saved model; one from a folder `NAME@FACTOR` takes FACTOR times as long for each call, by doing nothing the rest."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from compressor import store


def load(folder: Path) -> Any:
    """Load an artifact whose forward waits, on the processor, until FACTOR times its own time is over."""
    artifact = store.load(folder)
    factor = float(folder.name.partition("@")[2] or 1.0)
    started = [0]

    def begin(*_: Any) -> None:
        started[0] = time.perf_counter_ns()

    def end(*_: Any) -> None:
        until = started[0] + int((time.perf_counter_ns() - started[0]) * factor)
        while time.perf_counter_ns() < until:
            pass

    artifact.model.register_forward_pre_hook(begin)
    artifact.model.register_forward_hook(end)
    return artifact
