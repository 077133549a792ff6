"""An opener whose worker can also call a model in a loop of its own, with nobody asking: the observer's absence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compressor import store
from compressor.measure import latency_job

_reply = latency_job.Arms.reply


def _with_loop(self: latency_job.Arms, question: Mapping[str, Any]) -> dict[str, Any]:
    if question["do"] == "loop":
        return {"ns": [self.call(question["arm"], text) for text in question["texts"]]}
    return _reply(self, question)


def load(folder: Path) -> Any:
    latency_job.Arms.reply = _with_loop
    return store.load(folder)
