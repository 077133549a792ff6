"""Worker side of `with_cuda_energy`: run the batches over and over, and read the device's own counter of energy (NVML)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, NamedTuple

from compressor.measure.energy import Energy
from compressor.measure.worker import opened
from compressor.measure.workload import Replay

_SETTLE_S: Final = 2.0  # until the device rests; its utilisation is of up to a second before
_IDLE_S: Final = 3.0
_AT_REST: Final = 5  # per cent of the time in which the device may compute and still count as resting


class Card:
    """Torch's device as its driver sees it. `reason` says why it cannot tell."""

    def __init__(self) -> None:
        self.reason: str | None = None
        try:
            import pynvml
        except ImportError:
            self.reason = "a graphics card's counter is read with the extra gpu: pip install 'encoder-compressor[gpu]'"
            return
        import torch

        self._nvml = pynvml
        try:
            pynvml.nvmlInit()
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(0).uuid}")
            self.joules()
            self.utilisation()
        except pynvml.NVMLError as error:
            self.reason = f"the graphics card's counter cannot be read: {error}"

    def joules(self) -> float:
        """Return what the device has taken since the driver was loaded."""
        return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3

    def utilisation(self) -> int:
        """Return the share of the last moments in which the device computed, in per cent."""
        return int(self._nvml.nvmlDeviceGetUtilizationRates(self._handle).gpu)


def run(job: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Return an `Energy`: joules above what the device takes at rest with the model loaded, before the calls and after."""
    replay = Replay.load(Path(job["replay"]))
    with opened(job) as session:
        for inputs in replay.inputs:  # each shape is met once before it counts
            session.run(inputs)
        card = Card()
        if card.reason is not None:
            return asdict(Energy(joules=None, seconds=0.0, calls=0, idle_watts=None, reason=card.reason))
        earlier = _at_rest(card)
        before, started, calls = card.joules(), time.monotonic(), 0
        while time.monotonic() - started < job["seconds"]:
            for inputs in replay.inputs:  # whole passes; each call ends with its logits on the host
                session.run(inputs)
            calls += len(replay.inputs)
        seconds, joules = time.monotonic() - started, card.joules() - before
        later = _at_rest(card)
    idle_watts = (earlier.watts + later.watts) / 2
    joules -= idle_watts * seconds
    busy = max(earlier.utilisation, later.utilisation)
    reason = None
    if busy > _AT_REST:
        reason = f"other processes used the graphics card for {busy} % of the time"
    elif joules <= 0:
        reason = "the counter did not rise above what the device takes at rest"
    known = None if reason else joules
    return asdict(Energy(joules=known, seconds=seconds, calls=calls, idle_watts=idle_watts, reason=reason))


class _Rest(NamedTuple):
    watts: float
    utilisation: int


def _at_rest(card: Card) -> _Rest:
    time.sleep(_SETTLE_S)
    before, started = card.joules(), time.monotonic()
    time.sleep(_IDLE_S)
    return _Rest((card.joules() - before) / (time.monotonic() - started), card.utilisation())
