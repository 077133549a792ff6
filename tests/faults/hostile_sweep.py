"""A sweep of cells that end in every bad way: the healthy ones finish, every cell has one state, and nothing lives on.

`python tests/benchmarks/faults.py --only hostile` runs each way twice, with every launcher.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from compressor import commit
from compressor.cells import family

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

from hostile import install  # noqa: E402 - found through the lines above
from outcome import Outcome  # noqa: E402 - found through the lines above
from toy_files import write_checkpoint, write_data  # noqa: E402

STATES = {
    "well": "ok",
    "raise": "failed(ValueError: a fault of the plugin)",
    "exit": "failed(its process ended with exit code 0 and without a result)",
    "exit_at_once": "failed(its process ended with exit code 0 and without a result)",
    "segfault": "killed(SIGSEGV)",
    "kill": "killed(SIGKILL)",
    "memory": "oom(",
    "nan": "failed(MeasureError: scoring of 'hostile': the model gives logits that are not finite",
    "nan_in_training": "failed(TrainingError: loss term 'bad' (nan) is not finite at step 2 of ",
    "hang": "timeout(neither",
    "spin": "timeout(computed",
    "escape": "ok",
    "flood": "ok",
    "option": "failed(ConfigError: method.hostile.end=option",
}
LOST = {"launcher": "killed(its launcher's process ended)"}  # an end that Hydra's own launcher does not outlive
LAUNCHERS = {
    "basic": (),
    "joblib": ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
    "submitit": ("hydra/launcher=submitit_local", "hydra.launcher.timeout_min=60"),
}
SILENT_S = 40  # beyond cell.stall_s: a healthy cell measures for less
SIDE_BY_SIDE_S = 90  # cells wait for each other then, and say so once a minute
GONE_S = 5.0  # by then nothing that a sweep started is alive
TIMEOUT_S = 3600.0  # 28 cells, one after the other, on a slow machine


@dataclass(frozen=True)
class Swept:
    """What a sweep printed, its exit code, and the state of each cell by how it was told to end and its number."""

    code: int
    printed: str
    states: dict[tuple[str, int], str]
    living: tuple[int, ...]


def sweep(
    place: Path,
    ends: Sequence[str],
    *,
    numbers: Sequence[int] = (0,),
    launcher: str = "basic",
    cache: str = "cache",
    subdir: str = "${hydra.job.num}",
    stall_s: int = 8,
) -> Swept:
    """Run `method=hostile` once for each end and number; a machine of its own has a cache of its own.

    Its temporary folder is its own too: there lies the lock on which cells wait for whoever else times something, and one that
    waits for longer than `stall_s` is taken for one that hangs.
    """
    environment = {
        **os.environ,
        "COMPRESSOR_CACHE": str(place / cache),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join([str(place / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    command = [
        *(sys.executable, "-m", "compressor", "-m", "method=hostile", f"method.hostile.end={','.join(ends)}"),
        f"method.hostile.number={','.join(map(str, numbers))}",
        *("teacher=checkpoint", f"teacher.checkpoint={place / 'teacher'}", "teacher.train.epochs=10"),
        *("teacher.train.batch_size=16", "teacher.train.learning_rate=3e-3", "task.max_length=48"),
        *("task=file", f"task.train={place / 'data.csv'}", "bench.runtimes=[torch]", "bench.texts=4"),
        *("bench.blocks=4", "bench.loads=4", "bench.warmup_calls=2", "bench.memory=false", "bench.repeats=0"),
        *(f"cell.stall_s={stall_s}", f"cell.silent_s={stall_s + SILENT_S}", "cell.memory_gb=4", "cell.log_mb=1"),
        *(f"hydra.sweep.dir={place / 'sweep'}", f"hydra.sweep.subdir={subdir}"),
        *LAUNCHERS[launcher],
    ]
    with tempfile.TemporaryDirectory(prefix="hostile-", ignore_cleanup_errors=True) as own:
        environment["TMPDIR"] = own
        ended = subprocess.run(
            command, cwd=place, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    until = time.monotonic() + GONE_S
    while (living := _living(place)) and time.monotonic() < until:
        time.sleep(0.2)
    return Swept(ended.returncode, ended.stdout + ended.stderr, _states(place, numbers), living)


def prepare(place: Path) -> None:
    """Write the plugin, a teacher and data."""
    install(place / "site")
    write_checkpoint(place / "teacher")
    write_data(place / "data.csv")


def wrong(swept: Swept, ends: Sequence[str], numbers: Sequence[int] = (0,)) -> dict[tuple[str, int], str]:
    """Return the cells that have not the state that they ought to have."""
    found = {(end, number): swept.states.get((end, number), "no state") for end in ends for number in numbers}
    return {cell: state for cell, state in found.items() if not state.startswith((STATES | LOST)[cell[0]])}


def survive(folder: Path, launcher: str, numbers: Sequence[int] = (0, 1)) -> Outcome:
    """Run every end and number; a cell has kept the promise if it has the state that it ought to have."""
    prepare(folder)
    swept = sweep(folder, list(STATES), numbers=numbers, launcher=launcher, stall_s=SIDE_BY_SIDE_S)
    failures = [f"{launcher}: {cell} ended as {state}" for cell, state in wrong(swept, list(STATES), numbers).items()]
    tried = len(STATES) * len(numbers)
    kept = tried - len(failures)
    if swept.living:
        failures.append(f"{launcher}: alive {GONE_S:g} s after the end: {swept.living}")
    if swept.code == 0:
        failures.append(f"{launcher}: the exit code is 0")
    promise = f"each cell of a hostile sweep has its state, the healthy are ok ({launcher})"
    return Outcome(promise, tried, kept, tuple(failures))


def _states(place: Path, numbers: Sequence[int]) -> dict[tuple[str, int], str]:
    """Return the states; every folder must verify."""
    found = {}
    for path in [*(place / "sweep").glob("[!.]*/result.json"), *(place / "sweep").glob("[!.]*/[!.]*/result.json")]:
        commit.verify(path.parent)
        typed = (path.parent / "run.yaml").read_text()
        end = next(e for e in STATES | LOST if f"method.hostile.end={e}\n" in typed)
        number = next(n for n in numbers if f"method.hostile.number={n}\n" in typed)
        status = json.loads(path.read_text())["status"]
        if status.startswith("skipped(duplicate of "):
            continue  # of a cell that an earlier sweep in the same place had elsewhere
        assert (end, number) not in found, "a cell with two states"
        found[end, number] = status
    return found


def _living(place: Path) -> tuple[int, ...]:
    """Return the processes of the place's cells that are alive: by their environment, or by what they were started with."""
    numbers = [int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit()]
    return tuple(pid for pid in numbers if any(str(place / "site").encode() in told for told in _told(pid)))


def _told(pid: int) -> Iterator[bytes]:
    """Yield the command line of a process, and its environment if it is a cell's."""
    with suppress(OSError):
        yield Path(f"/proc/{pid}/cmdline").read_bytes()
        environ = Path(f"/proc/{pid}/environ").read_bytes()
        if family.MARK.encode() in environ:
            yield environ
