"""A sweep of tiny cells whose process group is killed at random moments, and run again with the same command until it ends.

`python tests/faults/killed_sweeps.py 50 0` kills fifty times, at moments drawn with seed 0, and prints what was found.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

import marked  # noqa: E402 - found through the lines above
from outcome import Outcome  # noqa: E402 - found through the lines above
from toy_files import write_checkpoint, write_data  # noqa: E402

CELLS = ("method=[],drop_layers,[drop_layers,finetune]", "student.layers=2")
COUNT = 3
PARTING_S = 5.0  # for what outlives its parent: the cell saves a checkpoint
TIMEOUT_S = 600.0


@dataclass
class _Trial:
    """One place, its sweeps one after another, and what went wrong in them."""

    place: Path
    rng: random.Random
    failures: list[str] = field(default_factory=list)
    cell_s: float = 20.0  # how long a sweep's cell takes here; learnt from those that end

    def command(self, sweep: Path) -> list[str]:
        """Return the command, which is the same each time."""
        return [
            *(sys.executable, "-m", "compressor", "-m", *CELLS, f"hydra.sweep.dir={sweep}"),
            *("teacher=checkpoint", f"teacher.checkpoint={self.place / 'teacher'}", "teacher.train.epochs=10"),
            *("teacher.train.batch_size=16", "teacher.train.learning_rate=3e-3", "task.max_length=48"),
            *("task=file", f"task.train={self.place / 'data.csv'}", "bench.runtimes=[torch]", "bench.texts=4"),
            *("bench.blocks=4", "bench.loads=4", "bench.warmup_calls=2", "bench.memory=false", "bench.repeats=0"),
            *("train.epochs=2", "train.learning_rate=1e-3", "train.checkpoint_seconds=0"),
        ]

    def run(self, sweep: Path, *, seconds: float | None) -> tuple[bool, str]:
        """Run the command, at most so long; return whether it ended by itself, and what it printed."""
        mark = uuid.uuid4().hex
        environment = {
            **os.environ,
            marked.MARK: mark,
            "COMPRESSOR_CACHE": str(self.place / "cache"),
            "HF_HUB_OFFLINE": "1",
            "TMPDIR": str(self.place / "tmp"),
        }
        with (self.place / "printed.txt").open("w+b") as printed:
            process = subprocess.Popen(
                self.command(sweep),
                cwd=self.place,
                env=environment,
                stdout=printed,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            ended = True
            try:
                process.wait(TIMEOUT_S if seconds is None else seconds)
            except subprocess.TimeoutExpired:
                ended = False
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            if left := marked.living(mark, within_s=PARTING_S):
                self.failures.append(f"alive {PARTING_S:g} s after the end: {left}")
                marked.end(mark)
        text = (self.place / "printed.txt").read_text(errors="replace")
        if ended and process.returncode != 0:
            self.failures.append(f"exit code {process.returncode}: {text[-2000:]}")
        return ended, text


def kill(folder: Path, kills: int, seed: int = 0) -> Outcome:
    """Kill sweeps so many times in all, each until it is through; a kill has kept the promise if all it left was mended."""
    trial = _Trial(folder, random.Random(seed))
    (folder / "tmp").mkdir(parents=True)
    write_checkpoint(folder / "teacher")
    write_data(folder / "data.csv")
    done = broken = number = 0
    while done < kills:
        before = len(trial.failures)
        made = _sweep(trial, folder / f"sweep-{number}", kills - done)
        done, number = done + made, number + 1
        broken += made if len(trial.failures) > before else 0
    return Outcome("a killed sweep runs what is missing and nothing else", done, done - broken, tuple(trial.failures))


def _sweep(trial: _Trial, sweep: Path, most: int) -> int:
    """Run one sweep to its end with at most so many kills; return how many there were."""
    made, before = 0, dict[str, Any]()
    while True:
        # Half a start to two cells: everything from Hydra's own work to the second cell's measurement can be hit.
        seconds = trial.rng.uniform(0.5, 2 * trial.cell_s) if made < most else None
        begun = time.monotonic()
        ended, printed = trial.run(sweep, seconds=seconds)
        now = _finished(sweep)
        for name, facts in before.items():
            if now.get(name) != facts:
                trial.failures.append(f"cell {name} was ok and is changed: {facts} -> {now.get(name)}")
        if ended:
            _check(trial, sweep, before, printed)
            if len(before) < COUNT:
                trial.cell_s = (time.monotonic() - begun) / (COUNT - len(before))
            return made
        before, made = now, made + 1


def _check(trial: _Trial, sweep: Path, before: dict[str, Any], printed: str) -> None:
    """Hold a sweep that has ended against what was promised of it."""
    if trial.failures and trial.failures[-1].startswith("exit code"):
        return
    found = {path.parent.name: json.loads(path.read_text())["status"] for path in sweep.glob("*/result.json")}
    if found != {str(n): "ok" for n in range(COUNT)} or set(_finished(sweep)) != set(found):
        trial.failures.append(f"not every cell is ok once: {found}")
    if (again := len(re.findall(r"^finished +before", printed, re.MULTILINE))) != len(before):
        trial.failures.append(f"{len(before)} cells were ok before, and {again} were not run again")
    places = (sweep, trial.place / "cache", trial.place / "tmp")
    left = [path for place in places for path in place.rglob("*") if ".partial-" in path.name]
    left += [path for path in (trial.place / "tmp").iterdir() if path.suffix != ".lock"]
    left += [path for path in (trial.place / "cache" / "stages").glob("**/step-*")]
    left += [path for path in (sweep / ".cells").iterdir() if path.name == "shared"]
    if left:
        trial.failures.append(f"left over: {[str(path.relative_to(trial.place)) for path in left]}")


def _finished(sweep: Path) -> dict[str, Any]:
    """Return the cells that are whole and ok: the hash of the manifest and when it was written, by name."""
    from compressor import commit

    found = {}
    for path in sweep.glob("*/result.json"):
        commit.verify(path.parent)
        if json.loads(path.read_text())["status"] == "ok":
            manifest = path.parent / commit.MANIFEST
            found[path.parent.name] = (commit.sha256_file(manifest), manifest.stat().st_mtime_ns)
    return found


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        found = kill(Path(place), *map(int, sys.argv[1:] or ["50"]))
    print(found.promise, f"{found.kept}/{found.tried}", *found.failures, sep="\n  ")
