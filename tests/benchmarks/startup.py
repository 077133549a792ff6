"""Print how long the command takes before any work: import, --help, composing a run.

    python tests/benchmarks/startup.py

Targets: `import compressor` <= 0.2 s, `--help` <= 2.5 s, composing a run <= 0.5 s more. Best of five, in fresh processes,
beside what the same interpreter needs to import torch and transformers.
"""

from __future__ import annotations

import subprocess
import sys
import time

REPEATS = 5
COMPOSE = """
import time
from hydra import compose, initialize_config_dir
from compressor import registry
from compressor import compose as ours
from compressor import groups
start = time.perf_counter()
methods = registry.load()
ours.register(methods)
typed = ["method=distill", "student.layers=6"]
ours.check_overrides(typed, methods)
with initialize_config_dir(str(groups.conf_folder()), version_base="1.3"):
    ours.to_run_config(compose("config", overrides=typed), typed, methods)
print(time.perf_counter() - start)
"""


def seconds(*arguments: str) -> float:
    best = float("inf")
    for _ in range(REPEATS):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        best = min(best, time.perf_counter() - start)
    return best


def printed(code: str) -> float:
    runs = (
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True) for _ in range(REPEATS)
    )
    return min(float(run.stdout) for run in runs)


if __name__ == "__main__":
    empty = seconds("-c", "pass")
    print(f"interpreter alone           {empty:.2f} s")
    print(f"import compressor           {seconds('-c', 'import compressor') - empty:.2f} s above it (target 0.2)")
    print(f"python -m compressor --help {seconds('-m', 'compressor', '--help'):.2f} s (target 2.5)")
    print(f"composing a run             {printed(COMPOSE):.2f} s (target 0.5)")
    print(
        f"import torch, transformers  {seconds('-c', 'import torch, transformers.models.auto') - empty:.2f} s, for comparison"
    )
