"""Print what share of the teacher's accuracy the default student keeps: mean of three named seeds, all shown.

    python tests/benchmarks/retention.py [--seeds 0 1 2] [OVERRIDE ...]

Every seed is a whole run of the command, its own teacher included; without overrides it is the README's
(`method=distill student.layers=6`). Training stages that are in the cache are reused, which changes the seconds only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

T_975 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # two-sided 95 % quantile of Student's t by number of seeds


def run(seed: int, overrides: list[str], folder: Path) -> dict:
    command = [sys.executable, "-m", "compressor", *overrides, f"seed={seed}", f"hydra.run.dir={folder / str(seed)}"]
    subprocess.run(command, check=True)
    return json.loads((folder / str(seed) / "result.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    overrides = arguments.overrides or ["method=distill", "student.layers=6"]
    rows: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for seed in arguments.seeds:
            result = run(seed, overrides, Path(scratch))
            teacher, *others = result["candidates"]
            for other in others:
                for name, metric in other["metrics"].items():
                    base = teacher["metrics"][name]["value"]
                    share = metric["value"] / base
                    rows.setdefault(f"{other['name']} {name}", []).append(share)
                    print(f"seed {seed}: {other['name']} {name} {metric['value']:.4f} of {base:.4f} = {share:.2%}")
            print(f"seed {seed}: {result['seconds_total']:.0f} s", flush=True)
    print(f"\n{' '.join(overrides)}, seeds {arguments.seeds}")
    for name, shares in rows.items():
        mean = sum(shares) / len(shares)
        spread = (sum((s - mean) ** 2 for s in shares) / max(1, len(shares) - 1)) ** 0.5
        half = T_975.get(len(shares), 1.96) * spread / len(shares) ** 0.5
        print(f"{name}: mean {mean:.2%} +- {half:.2%} (95 %, over seeds), each {', '.join(f'{s:.2%}' for s in shares)}")


if __name__ == "__main__":
    main()
