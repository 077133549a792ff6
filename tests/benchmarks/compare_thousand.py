"""Print how long it takes to compare a thousand run folders (target: 5 s), prediction files read and tested included.

    python tests/benchmarks/compare_thousand.py [--runs 1000] [--folder KEEP_THEM_HERE]

The folders are synthetic, written through the real result and commit code: 1,000 candidates of different accuracy, each with
its teacher, 1,284 predictions each, two runtimes. The command runs in a fresh process, from the first import to the last row.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from run_folders import Model, write_run  # noqa: E402 - found through the line above

EXAMPLES = 1_284


def build(folder: Path, runs: int) -> None:
    rng = random.Random(0)
    for i in range(runs):
        model = Model(
            right=rng.randint(900, 1_110),
            shift=rng.randint(0, 60),
            size_bytes=rng.randint(20, 120) * 1_000_000,
            speeds={"torch": rng.uniform(1, 6), "onnxruntime": rng.uniform(1, 6)},
            methods=(("distill", {"temperature": float(i)}),),
        )
        teacher = Model(
            name="teacher", role="teacher", right=1_110, speeds={"torch": 1.0, "onnxruntime": 1.0}, methods=()
        )
        write_run(folder / str(i), model, teacher=teacher, ids=range(EXAMPLES), seed=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=1_000)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = (arguments.folder or Path(scratch)) / "runs"
        if not folder.exists():
            build(folder, arguments.runs)
        for _ in range(3):
            start = time.perf_counter()
            shown = subprocess.run(
                [sys.executable, "-m", "compressor.compare", str(folder)], check=True, capture_output=True, text=True
            )
            seconds = time.perf_counter() - start
            summary = next(line for line in shown.stdout.splitlines() if line.startswith(f"{arguments.runs} folders"))
            print(f"{summary}: {seconds:.2f} s (target 5)")


if __name__ == "__main__":
    main()
