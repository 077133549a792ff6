"""Where a run computes: device, threads, and which of several processes it is."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from compressor.config import RunConfig
from compressor.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a run may use. `is_main` is False for the helpers that torchrun starts beside the first process."""

    device: str
    threads: int
    is_main: bool = True


def usable_cores() -> int:
    """Return how many cores this process may run on."""
    return len(core_numbers()) or os.cpu_count() or 1


def core_numbers() -> list[int]:
    """Return the cores that this process may run on; empty where the system does not tell."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def set_up(config: RunConfig) -> Machine:
    """Choose device and training threads, and seed torch.

    Raises:
        ConfigError: CUDA was asked for and is not there, or more threads than this process may use.
    """
    import torch

    cores = usable_cores()
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda: torch sees no CUDA device", hint="device=cpu")
    if config.bench.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("bench.device=cuda: torch sees no CUDA device", hint="bench.device=cpu")
    if config.threads > cores:
        raise ConfigError(f"threads={config.threads}: this process may use {cores} cores", allowed=f"0 to {cores}")
    if config.bench.threads > cores:
        raise ConfigError(
            f"bench.threads={config.bench.threads}: this process may use {cores} cores", allowed=f"1 to {cores}"
        )
    machine = chosen(config)
    torch.set_num_threads(machine.threads)
    torch.manual_seed(config.seed)
    return machine


def chosen(config: RunConfig) -> Machine:
    """Return what `device=auto` and `threads=0` stand for in this process; nothing is changed."""
    import torch

    cuda = config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())
    threads = config.threads or max(1, usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    return Machine(device="cuda" if cuda else "cpu", threads=threads, is_main=is_main_process())


def is_main_process() -> bool:
    """Tell whether this is the process that writes and reports; torchrun sets RANK for the others."""
    return os.environ.get("RANK", "0") == "0"


def module_paths() -> str:
    """Return a PYTHONPATH with which another process finds every module that this one finds."""
    return os.pathsep.join(dict.fromkeys(str(Path(path or ".").resolve()) for path in sys.path))


def native_bf16(device: str) -> bool:
    """Tell whether `device` multiplies bf16 in hardware; emulated bf16 is many times slower than fp32."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.is_available() and torch.cuda.get_device_capability()[0] >= 8
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
