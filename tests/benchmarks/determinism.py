"""Train the same student in three fresh processes and compare the bits.

    python tests/benchmarks/determinism.py [OVERRIDE ...]

Each process has a cache of its own for training stages, so that nothing but the fetched packages is reused; threads are those
of the run. Prints the sha256 of each student's weights and exits with 1 if they differ.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from compressor.assets import CACHE_ENV, cache_root
from compressor.commit import sha256_file

QUICK = [
    "task.train_limit=1600",
    "teacher.train.epochs=1",
    "train.epochs=1",
    "bench.runtimes=[torch]",
    "bench.memory=false",
]


def main() -> int:
    overrides = sys.argv[1:] or ["method=distill", "student.layers=6", *QUICK]
    hashes = []
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(3):
            place = Path(scratch) / str(number)
            if (cache_root() / "assets").is_dir():
                shutil.copytree(cache_root() / "assets", place / "cache" / "assets")
            environment = {**os.environ, CACHE_ENV: str(place / "cache"), "PYTHONHASHSEED": str(number)}
            command = [sys.executable, "-m", "compressor", *overrides, f"hydra.run.dir={place / 'run'}"]
            subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
            (weights,) = (place / "run" / "candidates").glob("*/model.safetensors")
            hashes.append(sha256_file(weights))
            print(f"process {number}: {hashes[-1]}", flush=True)
    print("bit-identical" if len(set(hashes)) == 1 else "THE STUDENTS DIFFER")
    return 0 if len(set(hashes)) == 1 else 1


if __name__ == "__main__":
    sys.exit(main())
