"""The manifest of the machine and software behind the numbers. What cannot be read is `unavailable`, never 0."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import compressor
from compressor import installed

PROTOCOL = 7  # results of different protocols never share a table
UNAVAILABLE: Final = "unavailable"
_PACKAGES = (
    "encoder-compressor", "torch", "transformers", "tokenizers", "safetensors", "numpy", "scipy",
    "onnx", "onnxruntime", "openvino", "nncf", "datasets", "hydra-core", "torch-pruning", "bitsandbytes",
)  # fmt: skip
_CPU_FLAGS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp", "i8mm")
# Named one by one: an environment holds secrets.
_VARIABLES = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "KMP_AFFINITY", "GOMP_CPU_AFFINITY", "LD_PRELOAD",
    "MALLOC_ARENA_MAX", "ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "CUDA_VISIBLE_DEVICES", "PYTHONHASHSEED",
)  # fmt: skip


def environment(*, threads: int) -> dict[str, Any]:
    """Collect the manifest, as plain JSON values.

    Args:
        threads: Threads that the timed runs use.
    """
    return {
        "protocol": PROTOCOL,
        "python": sys.version.split()[0],
        "packages": packages(),
        "installed_sha256": installed.digest(),
        "git": _git(),
        "platform": platform.platform(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpu": _cpu(),
        "cpu_flags": _flags(),
        "microcode": _cpuinfo("microcode"),
        "numa_nodes": len(list(Path("/sys/devices/system/node").glob("node[0-9]*"))) or UNAVAILABLE,
        "torch_build": _torch_build(),
        "gpus": _gpus(),
        "cores": os.cpu_count() or UNAVAILABLE,
        "affinity": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else UNAVAILABLE,
        "cpu_quota": _quota(),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "smt": _read("/sys/devices/system/cpu/smt/active"),
        "memory_bytes": _memory_bytes(),
        **busy(),
        "bench_threads": threads,
        "variables": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
    }


def busy() -> dict[str, Any]:
    """Return how much the machine has to do at this moment, for this run and all else: load averages, waiting tasks."""
    return {
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else UNAVAILABLE,
        "cpu_pressure": _read("/proc/pressure/cpu").split("\n")[0],
    }


def packages() -> dict[str, str]:
    """Return the installed versions of what decides a measured value."""
    return installed.versions(_PACKAGES)


def processor() -> list[Any]:
    """Return what decides how a sum is rounded: the processor and the instructions it has."""
    return [_cpu(), _flags()]


def _git() -> dict[str, Any] | str:
    """Return commit and state of the checkout our code runs from; `unavailable` for an installed package."""
    root = Path(compressor.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return UNAVAILABLE

    def git(*words: str) -> str:
        command = ["git", "-C", str(root), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return UNAVAILABLE


def _cpu() -> str:
    found = _cpuinfo("model name")
    return found if found != UNAVAILABLE else platform.processor() or UNAVAILABLE


def _cpuinfo(name: str) -> str:
    for line in _read("/proc/cpuinfo").splitlines():
        if line.startswith(name):
            return line.partition(":")[2].strip()
    return UNAVAILABLE


def _torch_build() -> list[str]:
    """Return what torch says of its own libraries: compilers, BLAS, oneDNN, the instructions it uses."""
    import torch

    lines = (line.strip(" -\t") for line in torch.__config__.show().splitlines()[1:])
    return [line for line in lines if line and not line.startswith("Build settings")]


def _gpus() -> list[dict[str, str]] | str:
    """Return what the driver says of the machine's NVIDIA devices; an empty list where torch can use none."""
    import torch

    if not torch.cuda.is_available():
        return []
    facts = ("name", "driver_version", "memory.total", "power.limit", "clocks.sm", "clocks.max.sm", "mig.mode.current")
    command = ["nvidia-smi", f"--query-gpu={','.join(facts)}", "--format=csv,noheader"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return UNAVAILABLE
    return [dict(zip(facts, (v.strip() for v in line.split(",")), strict=False)) for line in lines if line.strip()]


def _flags() -> list[str] | str:
    for line in _read("/proc/cpuinfo").splitlines():
        if line.startswith(("flags", "Features")):
            present = set(line.partition(":")[2].split())
            return [flag for flag in _CPU_FLAGS if flag in present]
    return UNAVAILABLE


def _quota() -> float | str:
    """Return the cores that the control group grants."""
    quota, _, period = _read("/sys/fs/cgroup/cpu.max").partition(" ")
    try:
        return int(quota) / int(period)
    except ValueError:
        return "none" if quota == "max" else UNAVAILABLE


def _memory_bytes() -> int | str:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return UNAVAILABLE


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return UNAVAILABLE
