"""Run the files of `sweeps/` without a server: W&B's sweep library draws parameter sets, W&B's agent code runs them.

    python tests/benchmarks/sweep_files.py [--runs 1] [--real] [FILE ...]

By default on a random teacher of twelve narrow layers and sentences that one word decides, in seconds a run; with `--real`, as
the files stand. W&B is offline. A run counts if it ended well, left a whole run folder where the file says, and a copy for
W&B under the run's own name. Printed is a row for each file; one that is not kept makes the exit code 1. An environment for
W&B's sweep library is built first, from the package index.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

TESTS = Path(__file__).parent.parent
SWEEPS = TESTS.parent / "sweeps"
sys.path.insert(0, str(TESTS))

from toy_files import write_checkpoint, write_data  # noqa: E402 - found through the line above

from compressor import commit  # noqa: E402
from compressor.errors import CompressorError  # noqa: E402

LIBRARY = ("sweeps==0.2.0", "numpy<2", "PyYAML")
TIMEOUT_S = 3600.0


@dataclass
class Found:
    """What came of one file: parameter sets with the objective that each reached, and what was not as it should be."""

    runs: list[dict[str, Any]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def library(folder: Path) -> Path:
    """Build an environment with W&B's sweep library; return its Python."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *LIBRARY], check=True)
    return python


def toy(folder: Path) -> list[str]:
    """Write a small teacher and data; return what is typed for them."""
    checkpoint = write_checkpoint(folder / "teacher", layers=12, hidden=64)
    data = write_data(folder / "data.csv")
    return [
        *("teacher=checkpoint", f"teacher.checkpoint={checkpoint}", "teacher.train.epochs=6"),
        *("teacher.train.batch_size=16", "teacher.train.learning_rate=3e-3", "task=file", f"task.train={data}"),
        *("task.max_length=48", "train.epochs=1", "bench.runtimes=[torch]", "bench.texts=4", "bench.blocks=4"),
        *("bench.loads=4", "bench.warmup_calls=2", "bench.memory=false", "bench.repeats=0"),
    ]


def draw(python: Path, file: Path, runs: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the next parameter set, or None when a grid is through."""
    drawer = [python, "-W", "ignore", TESTS / "sweep_draws.py", file]
    drawn = subprocess.run(drawer, input=json.dumps(runs), capture_output=True, text=True, check=False)
    if drawn.returncode != 0:
        raise RuntimeError(f"{file.name}: {drawn.stderr[-2000:]}")
    parameters: dict[str, Any] | None = json.loads(drawn.stdout)
    return parameters


def execute(file: Path, python: Path, folder: Path, count: int, extra: list[str]) -> Found:
    """Run so many parameter sets of a sweep, each drawn with the results of those before it.

    Args:
        file: The sweep.
        python: Of `library`.
        folder: Where the agent stands.
        count: Of runs; a grid may have fewer.
        extra: Overrides after the file's own.
    """
    sweep, found = yaml.safe_load(file.read_text()), Found()
    folder.mkdir(parents=True)
    for number in range(count):
        if (parameters := draw(python, file, found.runs)) is None:
            break
        run_id = f"{file.stem.replace('_', '')}{number}"
        job = json.dumps({"command": [*sweep["command"], *extra], "parameters": parameters})
        agent = [sys.executable, TESTS / "sweep_agent.py", file.stem, run_id, job]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
        environment |= {"WANDB_MODE": "offline", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        ended = subprocess.run(
            agent, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
        place = folder / "multirun" / file.stem / run_id
        wrong = _wrong(ended, place, folder, run_id)
        found.failures += [f"{file.stem} {parameters}: {what}" for what in wrong]
        found.runs.append({"config": parameters, "objective": None if wrong else _objective(place)})
    return found


def _wrong(ended: subprocess.CompletedProcess[str], place: Path, folder: Path, run_id: str) -> list[str]:
    if ended.returncode != 0:
        return [f"exit code {ended.returncode}: {ended.stdout[-1500:]}{ended.stderr[-1500:]}"]
    try:
        commit.verify(place)
    except CompressorError as error:
        return [f"no whole run folder: {error}"]
    copies = list(folder.glob(f"wandb/offline-run-*-{run_id}/run-{run_id}.wandb"))
    return [] if len(copies) == 1 else [f"{len(copies)} copies for W&B"]


def _objective(place: Path) -> float:
    result = json.loads((place / "result.json").read_text())
    metric = next(iter(result["candidates"][-1]["metrics"].values()))
    return float(metric["value"])


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="*", type=Path, default=sorted(SWEEPS.glob("*.yaml")))
    parser.add_argument("--runs", type=int, default=1, help="of each file")
    parser.add_argument("--real", action="store_true", help="as the files stand, on the default teacher")
    options = parser.parse_args()
    broken: list[str] = []
    print("| sweep | runs | parameter sets and objectives |", "|---|---|---|", sep="\n")
    with tempfile.TemporaryDirectory() as place:
        python = library(Path(place) / "library")
        extra = [] if options.real else toy(Path(place))
        for file in options.files:
            found = execute(file.resolve(), python, Path(place) / "agents" / file.stem, options.runs, extra)
            sets = "; ".join(f"{r['config']}: {r['objective']}" for r in found.runs)
            print(f"| {file.stem} | {len(found.runs)} | {sets} |", flush=True)
            broken += found.failures
    for line in broken:
        print(f"not kept: {line}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
