"""Worker side of `latency`: models of one runtime, loaded, warmed up and called one at a time, as the parent asks."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np

from compressor.measure.latency import MAX_LOGIT_DIFFERENCE
from compressor.measure.raw_texts import RawTexts
from compressor.measure.talk import Listener
from compressor.measure.worker import opened
from compressor.measure.workload import Replay
from compressor.runtimes import Session
from compressor.runtimes.base import Inputs, Logits

_HUGE: Final = 1e30  # JSON has no infinity
# A score counts as the same within this share of the expected scores' standard deviation. Where all are, timed and expected
# scores correlate with at least sqrt(1 - 0.1^2) = 0.995.
_SAME_SCORE: Final = 0.1


def run(job: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Answer questions until nobody asks any more."""
    listener, arms = Listener(job["talk"]), Arms(job)
    arms.get_ready(**job["first"])
    while (question := listener.question()) is not None:
        listener.answer(**arms.reply(question))
    return {}


class Arms:
    """The models of this process by the name of their arm."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        self._job = job
        self._sessions: dict[str, Session] = {}
        self._replays: dict[str, Replay] = {}
        self._texts: dict[str, RawTexts] = {}  # of the arms whose calls begin with the text
        self._outputs: dict[str, dict[int, Logits]] = {}

    def reply(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Do what is asked and answer with plain values."""
        match question["do"]:
            case "call":
                return {"ns": self.call(question["arm"], question["text"])}
            case "nothing":
                return {}
            case "load":
                return self.load(**{name: value for name, value in question.items() if name != "do"})
            case "warm":
                return {"calls": self.warm(question["arm"], question["calls"])}
            case "settle":
                self._timed(question["arm"], question["text"])
                return {}
            case "roam":
                self._keep_to(self._job["all_cores"])
                return {}
            case "begin":
                self._keep_to(self._job["cores"])
                gc.collect()
                gc.disable()  # its pauses would fall on whoever is being called
                return {}
            case "end":
                return self.end()
        raise ValueError(f"nobody knows how to do {question['do']!r}")

    def _keep_to(self, cores: Collection[int]) -> None:
        """Have every thread of a pinned process run on these cores only; a process that is not pinned stays as it is."""
        if self._job["cores"]:
            for thread in Path("/proc/self/task").iterdir():
                with suppress(ProcessLookupError):  # it has ended meanwhile
                    os.sched_setaffinity(int(thread.name), cores)

    def get_ready(self, folder: str, form: str, **_: str) -> None:
        """Load a model and let go of it, as the other processes do: the seconds that imports take are no model's."""
        with suppress(Exception):  # who is asked for it says why it cannot be loaded
            opened({**self._job, "folder": folder, "form": form}).close()
        gc.collect()

    def load(self, arm: str, folder: str, form: str, replay: str, texts: str | None = None) -> dict[str, Any]:
        """Load a model and call it once; whatever its runtime raises is an answer too, in its own words."""
        self._replays[arm] = Replay.load(Path(replay))
        if texts is not None:
            self._texts[arm] = RawTexts.load(Path(texts))
        started = time.perf_counter()
        try:
            session = opened({**self._job, "folder": folder, "form": form})
            loaded = time.perf_counter()
            session.run(self._replays[arm].inputs[0])
        except Exception as error:  # each runtime has kinds of its own, and any of them is a row of the table
            return {"refusal": " ".join(f"{type(error).__name__}: {error}".split())[:600]}
        self._sessions[arm], self._outputs[arm] = session, {}
        return {"load_seconds": loaded - started, "first_call_seconds": time.perf_counter() - loaded}

    def end(self) -> dict[str, dict[str, float]]:
        """Let go of every model, after a look at what each predicted."""
        called = {name: outputs for name, outputs in self._outputs.items() if outputs}
        found = {name: agreement(self._replays[name], outputs) for name, outputs in called.items()}
        self._sessions.clear()
        self._outputs.clear()
        gc.enable()
        gc.collect()
        gc.freeze()  # what is left is libraries: nothing to look at again after the next load
        return found

    def warm(self, arm: str, calls: int) -> int:
        """Run every distinct shape, since engines prepare each on first sight, and so many calls at least; count them."""
        batches = self._replays[arm].inputs
        shapes = list({next(iter(batch.values())).shape: i for i, batch in enumerate(batches)}.values())
        made = max(calls, len(shapes))
        for i in range(made):
            self._timed(arm, shapes[i % len(shapes)])
        return made

    def call(self, arm: str, text: int) -> int:
        """Time one call, in nanoseconds; its first output is kept for `agreement`."""
        ns, logits = self._timed(arm, text)
        if text not in self._outputs[arm]:
            self._outputs[arm][text] = logits.copy()
        return ns

    def _timed(self, arm: str, text: int) -> tuple[int, Logits]:
        session, texts = self._sessions[arm], self._texts.get(arm)
        return (
            timed(session, self._replays[arm].inputs[text]) if texts is None else timed_from_text(session, texts, text)
        )


def timed(session: Session, batch: Inputs) -> tuple[int, Logits]:
    """Return how long a call took, in nanoseconds, and what it gave."""
    started = time.perf_counter_ns()
    logits = session.run(batch)
    return time.perf_counter_ns() - started, logits


def timed_from_text(session: Session, texts: RawTexts, index: int) -> tuple[int, Logits]:
    """Return the same of a call that begins with the texts of a batch."""
    started = time.perf_counter_ns()
    logits = session.run(texts.inputs(index))
    return time.perf_counter_ns() - started, logits


def agreement(replay: Replay, outputs: Mapping[int, Logits] | Sequence[Logits]) -> dict[str, float]:
    """Compare the timed run's predictions with the scoring run's: classes, or scores where there is one logit."""
    spread = float(np.concatenate(replay.expected).std()) if replay.expected[0].shape[-1] == 1 else 0.0
    tolerance = max(_SAME_SCORE * spread, MAX_LOGIT_DIFFERENCE)  # scores that hardly differ still have float noise
    same = rows = 0
    worst = 0.0
    for i, expected in enumerate(replay.expected):
        found = replay.rows(i, outputs[i])
        if found.shape != expected.shape or not np.isfinite(found).all():
            return {"same_prediction_rate": 0.0, "max_logit_difference": _HUGE}
        if expected.shape[-1] == 1:  # argmax would be 0 whatever the score
            same += int((np.abs(found - expected) <= tolerance).sum())
        else:
            same += int((found.argmax(-1) == expected.argmax(-1)).sum())
        rows += len(found)
        worst = max(worst, float(np.abs(found - expected).max(initial=0.0)))
    return {"same_prediction_rate": same / max(rows, 1), "max_logit_difference": worst}
