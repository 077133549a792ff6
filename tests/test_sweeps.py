"""Every sweep file: W&B's own code makes the command lines, each of them composes to a run, and some are run."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir

from compressor import compose, groups, registry
from compressor.config import TrackingConfig

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))

import sweep_files  # noqa: E402 - found through the line above

utils = pytest.importorskip("wandb.sdk.launch.sweeps.utils")

FILES = sorted((Path(__file__).parents[1] / "sweeps").glob("*.yaml"))
PLACE = ["hydra.sweep.dir=multirun/${oc.env:WANDB_SWEEP_ID}", "hydra.sweep.subdir=${oc.env:WANDB_RUN_ID}"]
TOP_LEVEL = {"project", "method", "metric", "command", "parameters"}


@pytest.fixture(scope="module")
def methods():
    known = registry.load()
    compose.register(known)
    return known


def draws(parameters: dict) -> list[dict]:
    """Return every combination of a grid, or twenty draws of a search."""
    choices = {}
    for name, given in parameters.items():
        if "value" in given:
            choices[name] = [given["value"]]
        elif "values" in given:
            choices[name] = given["values"]
    drawn = {name: given for name, given in parameters.items() if name not in choices}
    grid = [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]
    if not drawn:
        return grid
    rng = random.Random(0)
    found = []
    for _ in range(20):
        one = dict(rng.choice(grid))
        for name, given in drawn.items():
            whole = given["distribution"] == "int_uniform"
            one[name] = rng.randint(given["min"], given["max"]) if whole else rng.uniform(given["min"], given["max"])
        found.append(one)
    return found


def command_line(sweep: dict, parameters: dict) -> list[str]:
    """Let W&B turn drawn values into the arguments that its agent runs."""
    given = utils.create_sweep_command_args({"args": {k: {"value": v} for k, v in parameters.items()}})
    entry, arguments = utils.make_launch_sweep_entrypoint(given, sweep["command"])
    assert entry[1:] == ["python", "-m", "compressor", "-m", "tracking=wandb", *PLACE]
    return ["tracking=wandb", *arguments]


def test_there_are_five() -> None:
    assert [f.stem for f in FILES] == ["accuracy_vs_latency", "depth", "methods", "prune_ratio", "quantization"]


@pytest.mark.parametrize("file", FILES, ids=[f.stem for f in FILES])
def test_every_command_line_of_a_sweep_composes(file: Path, methods) -> None:
    sweep = yaml.safe_load(file.read_text())
    assert set(sweep) == TOP_LEVEL and sweep["method"] in ("grid", "bayes", "random")
    assert sweep["metric"] == {"name": "objective", "goal": "maximize"}
    assert "${args_no_hyphens}" in sweep["command"]
    assert file.read_text().startswith("# ") and f"wandb sweep sweeps/{file.name}" in file.read_text()
    for drawn in draws(sweep["parameters"]):
        arguments = command_line(sweep, drawn)
        assert not [a for a in arguments if a.startswith("-") or " " in a]
        compose.check_overrides(arguments, methods)
        with initialize_config_dir(str(groups.conf_folder()), version_base="1.3"):
            cfg = hydra_compose("config", overrides=arguments)
        run = compose.to_run_config(cfg, arguments, methods)
        assert compose.tracking(cfg) == TrackingConfig(kind="wandb")
        assert "+".join(step.name for step in run.chain) == drawn["method"].strip("[]").replace(",", "+")
        if "seed" in drawn:
            assert run.seed == drawn["seed"]


@pytest.mark.network
@pytest.mark.slow
def test_what_wandbs_library_draws_runs_under_wandbs_agent(tmp_path: Path) -> None:
    try:
        library = sweep_files.library(tmp_path / "library")
    except subprocess.CalledProcessError:
        pytest.skip("the package index is unreachable")
    toy = sweep_files.toy(tmp_path)
    for file in FILES:
        place = tmp_path / "agents" / file.stem
        found = sweep_files.execute(file, library, place, 1, toy)
        assert not found.failures
        assert len(found.runs) == 1 and found.runs[0]["objective"] > 0.6
        again = sweep_files.draw(library, file, found.runs)
        assert again is not None and set(again) == set(found.runs[0]["config"]) and again != found.runs[0]["config"]
