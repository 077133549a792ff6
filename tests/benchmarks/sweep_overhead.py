"""Measure what a sweep costs beside its cells: its time over the sum of what they spend on compressing and on measuring.

    python tests/benchmarks/sweep_overhead.py [--cells 20] [OVERRIDE ...]

The cells distil students of the default teacher by two methods at ten depths, one epoch each, so that no two share a stage.
The teacher is fine-tuned and scored before the clock starts, by a run of its own: that is work for all cells. The rest counts:
every cell's start, loading data and teacher, checks, writing, the table at the end. The processes that measure start within the
measuring time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DEPTHS, METHODS = tuple(range(11, 1, -1)), ("distill", "pkd")
TARGET = 1.05


def compress(folder: Path, *overrides: str) -> float:
    """Run the program; return the seconds it took."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "compressor", *overrides]
    with (folder / "log.txt").open("ab") as log:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        raise SystemExit((folder / "log.txt").read_text(errors="replace")[-2000:])
    return time.perf_counter() - started


def own_seconds(result: Path) -> float:
    """Return what one cell spent on compressing and on measuring."""
    found = json.loads(result.read_text())
    steps = [step["seconds"] for one in found["candidates"] for step in one["lineage"]]
    return float(sum(steps) + found["seconds_measuring"])


def main() -> None:
    """Print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cells", type=int, default=20, help="an even number")
    parser.add_argument("overrides", nargs="*", help="of every cell, such as bench.runtimes=[torch]")
    options = parser.parse_args()
    if options.cells % len(METHODS) or not 0 < options.cells <= len(METHODS) * len(DEPTHS):
        parser.error(f"--cells: an even number up to {len(METHODS) * len(DEPTHS)}")
    depths = ",".join(map(str, DEPTHS[: options.cells // len(METHODS)]))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        compress(folder, "method=[]", f"hydra.run.dir={folder / 'teacher'}", *options.overrides)
        sweep = folder / "sweep"
        swept = f"method={','.join(METHODS)}", f"student.layers={depths}", "train.epochs=1"
        seconds = compress(folder, "-m", *swept, f"hydra.sweep.dir={sweep}", *options.overrides)
        own = [own_seconds(path) for path in sorted(sweep.glob("*/result.json"))]
    if len(own) != options.cells:
        raise SystemExit(f"{len(own)} of {options.cells} cells have a result")
    word = "met" if seconds <= TARGET * sum(own) else "MISSED"
    print(
        f"{len(own)} cells: {seconds:.0f} s, of which compressing and measuring {sum(own):.0f} s ({min(own):.0f} to "
        f"{max(own):.0f} s a cell): x{seconds / sum(own):.3f}  target x{TARGET}: {word}"
    )


if __name__ == "__main__":
    main()
