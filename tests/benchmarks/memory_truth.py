"""Hold the memory measurement against modules of known size, allocated and mapped: within 3 %.

    python tests/benchmarks/memory_truth.py [--megabytes 128 256 512] [--repeats 3]

Each is measured by `measure_memory` in real processes, less the process without a model, as a run does it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import known_size  # noqa: E402

from compressor.config import BenchConfig  # noqa: E402
from compressor.measure import processes  # noqa: E402
from compressor.measure.candidate import Candidate  # noqa: E402
from compressor.measure.memory import measure_memory  # noqa: E402
from compressor.measure.workload import Replay  # noqa: E402

TARGET = 0.03
KINDS = ("heap", "mmap")


def errors(sizes: Sequence[int], folder: Path) -> dict[str, float]:
    """Return by how much each measured size is off, as a share of the true one."""
    inputs = {"input_ids": np.zeros((1, 8), np.int64)}
    replay = folder / "replay.npz"
    Replay(inputs=(inputs,) * 3, positions=(), expected=(np.zeros((1, 2), np.float32),) * 3).save(replay)
    scored = []
    for size in sizes:
        for kind in KINDS:
            place = folder / f"{size}_{kind}"
            place.mkdir(exist_ok=True)
            if kind == "mmap":
                known_size.write(place, size)
            scored.append(SimpleNamespace(candidate=Candidate(place.name, place), replay=replay))
    before = processes.OPENER, os.environ.get("PYTHONPATH")
    processes.OPENER = "known_size:load"
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), *filter(None, [before[1]])])
    try:
        found = measure_memory(scored, BenchConfig(timeout_s=300), folder)
    finally:
        processes.OPENER = before[0]
        del os.environ["PYTHONPATH"]
        if before[1] is not None:
            os.environ["PYTHONPATH"] = before[1]
    return {n: (one.model_bytes or 0) / (int(n.split("_")[0]) * 1e6) - 1 for n, one in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--megabytes", type=int, nargs="+", default=[128, 256, 512])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    rows: dict[str, list[float]] = {}
    for _ in range(arguments.repeats):
        with tempfile.TemporaryDirectory() as scratch:
            for name, error in errors(arguments.megabytes, Path(scratch)).items():
                rows.setdefault(name, []).append(error)
    for name, found in rows.items():
        worst = max(found, key=abs)
        met = "met" if abs(worst) <= TARGET else "MISSED"
        print(f"{name:<9} n={len(found)}  worst {worst:+.2%}  target: within {TARGET:.0%}: {met}")


if __name__ == "__main__":
    main()
