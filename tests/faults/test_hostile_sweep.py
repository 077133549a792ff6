"""A sweep outlives whatever its cells do: the healthy ones finish, every cell has one state, and nothing lives on.

`python tests/benchmarks/hostile_sweep.py` runs the same with twenty cells and with every launcher.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from compressor import commit
from compressor.cells import family

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

from hostile import install  # noqa: E402 - found through the lines above
from toy_files import write_checkpoint, write_data  # noqa: E402

STATES = {
    "well": "ok",
    "raise": "failed(ValueError: a fault of the plugin)",
    "exit": "failed(its process ended with exit code 0 and without a result)",
    "exit_at_once": "failed(its process ended with exit code 0 and without a result)",
    "segfault": "killed(SIGSEGV)",
    "kill": "killed(SIGKILL)",
    "memory": "oom(",
    "nan": "failed(",
    "hang": "timeout(",
    "flood": "ok",
}


def sweep(place: Path, ends: list[str], *arguments: str, timeout: float = 560) -> subprocess.CompletedProcess[str]:
    """Run `method=hostile` once for each end."""
    environment = {
        **os.environ,
        "COMPRESSOR_CACHE": str(place / "cache"),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join([str(place / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    command = [
        *(sys.executable, "-m", "compressor", "-m", "method=hostile", f"method.hostile.end={','.join(ends)}"),
        *("teacher=checkpoint", f"teacher.checkpoint={place / 'teacher'}", "teacher.train.epochs=10"),
        *("teacher.train.batch_size=16", "teacher.train.learning_rate=3e-3", "task.max_length=48"),
        *("task=file", f"task.train={place / 'data.csv'}", "bench.runtimes=[torch]", "bench.texts=4"),
        *("bench.blocks=4", "bench.warmup_calls=2", "bench.memory=false", "bench.repeats=0"),
        *("cell.stall_s=8", "cell.memory_gb=4", "cell.log_mb=1", f"hydra.sweep.dir={place / 'sweep'}", *arguments),
    ]
    return subprocess.run(
        command, cwd=place, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )


def prepare(place: Path) -> None:
    """Write the plugin, a teacher and data."""
    install(place / "site")
    write_checkpoint(place / "teacher")
    write_data(place / "data.csv")


def states(place: Path) -> dict[str, str]:
    """Return the state of each cell by how it was told to end; every folder must verify."""
    found = {}
    for path in (place / "sweep").glob("*/result.json"):
        commit.verify(path.parent)
        typed = (path.parent / "run.yaml").read_text()
        end = next(e for e in STATES if f"method.hostile.end={e}\n" in typed)
        found[end] = json.loads(path.read_text())["status"]
    return found


@pytest.mark.slow
def test_a_hostile_sweep_loses_nothing_but_the_hostile(tmp_path: Path) -> None:
    prepare(tmp_path)
    ended = sweep(tmp_path, list(STATES))
    found = states(tmp_path)
    assert found.keys() == STATES.keys(), ended.stdout + ended.stderr
    wrong = {end: state for end, state in found.items() if not state.startswith(STATES[end])}
    assert not wrong, wrong
    assert ended.returncode != 0
    said = ended.stdout.partition("== 10 cells")[2]
    for end, state in found.items():
        assert state == "ok" or state.partition("(")[0] in said, (end, said)
    assert len(ended.stdout) < 2_500_000, "a flood reaches neither the terminal nor the disk whole"
    record = next((tmp_path / "sweep").glob("*/output.txt"))
    assert record.stat().st_size > 0
    assert not [pid for pid in _living() if b"hostile" in _environ(pid)], "the hanging cell's child lives on"
    assert not (tmp_path / "sweep" / ".cells" / "shared").exists()

    again = sweep(tmp_path, ["well", "flood", "raise"])
    assert again.stdout.count("finished  before") == 1, "only the first cell stands at its old place"
    assert states(tmp_path)["well"] == "ok"


def _living() -> list[int]:
    return [int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit()]


def _environ(pid: int) -> bytes:
    try:
        environ = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""
    return environ if family.MARK.encode() in environ else b""
