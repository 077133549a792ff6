"""Worker side of `memory`: run the workload once and report the peak; without a candidate, the control."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from compressor.measure.worker import opened, opener
from compressor.measure.workload import Replay
from compressor.runtimes import RUNTIMES

# What using the runtime imports, so that the control holds the same code.
_IMPORTS = {
    "torch": ("torch", "transformers", "transformers.modeling_utils"),
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
}


def run(job: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Return the peak resident memory of this process, or what a CUDA runtime allocated on the device at most, in bytes."""
    if RUNTIMES[job["runtime"]].device == "cuda":
        return {"peak_bytes": _cuda_peak(job)}
    for module in _IMPORTS[job["runtime"]]:
        import_module(module)
    if job["runtime"] == "torch":
        opener(job)
        _use_torch(job["threads"])
    replay = Replay.load(Path(job["replay"]))
    if job["folder"] is not None:
        _replay(job, replay)
    return {"peak_bytes": peak_bytes()}


def _cuda_peak(job: Mapping[str, Any]) -> int:
    """Return torch's largest allocation while the workload ran; nothing but the model and its tensors counts."""
    import torch

    _replay(job, Replay.load(Path(job["replay"])))
    return int(torch.cuda.max_memory_allocated())


def _replay(job: Mapping[str, Any], replay: Replay) -> None:
    with opened(job) as session:
        for inputs in replay.inputs:
            session.run(inputs)


def _use_torch(threads: int) -> None:
    """Compute a little of what any encoder does: torch's own code, 6 MB of it, is read in when it is first used."""
    import torch
    from torch.nn import functional

    torch.set_num_threads(threads)
    with torch.inference_mode():
        hidden = functional.embedding(torch.zeros((1, 8), dtype=torch.int64), torch.ones(2, 64))
        hidden = functional.gelu(functional.linear(hidden, torch.ones(64, 64), torch.ones(64)))
        hidden = functional.layer_norm(hidden, (64,)).softmax(-1)
        functional.scaled_dot_product_attention(hidden, hidden, hidden).tanh().sum().float().numpy()


def peak_bytes() -> int:
    """Return the largest resident set this process has had."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
