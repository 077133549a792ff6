"""Runs of W&B's agent end well only with a copy under their own name: lost ones, resumed ones and duplicates of others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))

import sweep_files  # noqa: E402 - found through the lines above
import wandb_records  # noqa: E402

pytest.importorskip("wandb")
pytestmark = pytest.mark.slow

SWEEP = sweep_files.SWEEPS / "depth.yaml"
DRAWN = {"method": "[]", "seed": 0}  # the teacher alone: what is computed is no matter here
NOBODY = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "0" * 40, "WANDB_MODE": "online"}


def agent(folder: Path, run_id: str, toy: list[str], *extra: str, **given: object) -> subprocess.CompletedProcess[str]:
    """Run a set of parameters of the sweep as W&B's agent does."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    environment |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "NETRC": str(folder / "no-netrc")}
    environment |= {k: str(v) for k, v in given.items() if k.startswith("WANDB_")} or {"WANDB_MODE": "offline"}
    drawn = DRAWN | {k: v for k, v in given.items() if k == "_wandb"}
    command = [*yaml.safe_load(SWEEP.read_text())["command"], *toy, *extra]
    job = {"command": command, "parameters": drawn, "type": "resume" if "_wandb" in given else "run"}
    ended = subprocess.run(
        [sys.executable, sweep_files.TESTS / "sweep_agent.py", "depth", run_id, json.dumps(job)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended


def objectives(folder: Path, run_id: str) -> list[float]:
    """Return the objective of each copy of a run of the sweep."""
    found = [wandb_records.records(copy) for copy in sorted(folder.glob(f"wandb/offline-run-*-{run_id}"))]
    for copy in found:
        assert (wandb_records.begun(copy).run_id, wandb_records.begun(copy).sweep_id) == (run_id, "depth")
    return [wandb_records.summary(copy)["objective"] for copy in found]


def test_every_run_that_ends_well_has_a_copy_of_its_own(tmp_path: Path) -> None:
    toy = sweep_files.toy(tmp_path)
    lost = agent(tmp_path, "r0", toy, "tracking.timeout_s=4", **NOBODY)
    assert "not mirrored within 4 s" in lost.stdout and objectives(tmp_path, "r0") == []
    place = tmp_path / "multirun" / "depth" / "r0"
    accuracy = sweep_files._objective(place)
    again = agent(tmp_path, "r0", toy, _wandb="{}")
    assert f"before, in {place}" in again.stdout.replace("\n", "") and objectives(tmp_path, "r0") == [accuracy]
    agent(tmp_path, "r0", toy, _wandb="{}")
    assert objectives(tmp_path, "r0") == [accuracy], "a copy that is made is not made again"
    agent(tmp_path, "r1", toy)
    assert objectives(tmp_path, "r1") == [accuracy], "the server waits for the number of a duplicate too"
