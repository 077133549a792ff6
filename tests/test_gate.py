"""What neither a command line nor a config file may say: code to be called, and secrets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir

from compressor import compose, gate, groups, registry
from compressor.config import RunConfig
from compressor.errors import ConfigError
from compressor_plugins.checkpoint import CheckpointConfig

NO_CODE = {
    "callbacks": {"sweep": {"_target_": "compressor.compose.Sweep"}},
    "job_logging": {"version": 1, "root": None, "disable_existing_loggers": False},
    "hydra_logging": {"version": 1, "root": None, "disable_existing_loggers": False},
    "job": {"env_set": {"COMPRESSOR_SWEEP": "x"}},
    "launcher": {"_target_": "a.Launcher"},
    "sweeper": {"_target_": "a.Sweeper", "params": {"experiment": "glob(*)"}},
}
PLUGINS = ["a.Launcher", "a.Sweeper"]


@pytest.fixture(scope="module")
def methods():
    known = registry.load()
    compose.register(known)
    return known


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("+hydra.callbacks.x={_target_: builtins.open, file: canary, mode: w}", "hydra.callbacks.x"),
        ("hydra/job_logging=default", "hydra/job_logging"),
        ("+hydra.job_logging.handlers.x={class: logging.FileHandler, filename: canary}", "hydra.job_logging"),
        ("hydra.sweeper._target_=os.system", "code"),
        ("hydra.launcher={_target_: os.system}", "hydra.launcher"),
        ("+hydra.launcher.x={a: [{_target_: os.system}]}", "code"),
        ("+hydra.sweeper.params={seed: 1}", "hydra.sweeper.params"),
        ("+hydra.job.env_set.HF_TOKEN=secret", "hydra.job.env_set.HF_TOKEN"),
        ("+hydra.searchpath=[file:///tmp]", "hydra.searchpath"),
        ("~hydra.callbacks", "hydra.callbacks"),
    ],
)
def test_a_typed_option_names_no_code(typed: str, told: str, methods) -> None:
    with pytest.raises(ConfigError, match=told.replace(".", r"\.")) as caught:
        compose.check_overrides([typed], methods)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "typed",
    [
        *("hydra.run.dir=x", "hydra.sweep.dir=x", "hydra.sweep.subdir=${oc.env:WANDB_RUN_ID}", "hydra/launcher=joblib"),
        *("hydra/sweeper=optuna", "hydra.sweeper.within=1.0", "hydra.launcher.n_jobs=2", "task.dataset=org/name"),
        *(
            "teacher.checkpoint=https://host:8080/path@main",
            "task.train=/en_target_de/a@b.csv",
            "task.label=is_target_class",
        ),
    ],
)
def test_what_is_for_the_user_to_say_passes(typed: str, methods) -> None:
    compose.check_overrides([typed], methods)


@pytest.mark.parametrize(
    "typed",
    [
        "task.train=https://me:hunter2/x@host/data",
        'task.train="https://host/data.csv?access_token=hunter2"',
        "task.dataset=https://me:hunter2@host/data",
        "teacher.checkpoint=git+ssh://hunter2@host/x",
        "seed=1,hub://hunter2@x",
    ],
)
def test_an_address_with_a_password_is_refused_without_printing_it(typed: str, methods) -> None:
    with pytest.raises(ConfigError, match="password") as caught:
        compose.check_overrides([typed], methods)
    assert "hunter2" not in str(caught.value)


def test_the_flag_that_unpickles_is_refused(methods) -> None:
    with pytest.raises(ConfigError, match="pickle"):
        compose.check_overrides(["--experimental-rerun", "config.pickle"], methods)


def test_our_own_config_passes() -> None:
    gate.check_composed(NO_CODE, PLUGINS)


@pytest.mark.parametrize(
    ("node", "value", "told"),
    [
        ("callbacks", {**NO_CODE["callbacks"], "x": {"_target_": "os.system"}}, "hydra.callbacks"),
        ("callbacks", {"sweep": {"_target_": "compressor.compose.Sweep", "command": "x"}}, "hydra.callbacks"),
        ("job_logging", {"version": 1, "handlers": {"x": {"()": "os.system"}}}, "hydra.job_logging"),
        ("hydra_logging", {"version": 1, "handlers": {"x": {"()": "os.system"}}}, "hydra.hydra_logging"),
        ("job", {"env_set": {"LD_PRELOAD": "x.so"}}, "LD_PRELOAD"),
        ("launcher", {"_target_": "os.system"}, "installed plugins"),
        ("sweeper", {"_target_": "a.Sweeper", "sampler": {"_target_": "os.system"}}, "code"),
        ("sweeper", {"_target_": "a.Sweeper", "params": {"+hydra.callbacks.x": "y"}}, "hydra.callbacks.x"),
        ("sweeper", {"_target_": "a.Sweeper", "params": {"teacher.allow_pickle": "true"}}, "stands in a file"),
        (
            "sweeper",
            {"_target_": "a.Sweeper", "params": {"teacher.allow_pickle=bool(value": "true)"}},
            "stands in a file",
        ),
        ("sweeper", {"_target_": "a.Sweeper", "search_space": {"x": ["teacher.allow_pickle"]}}, "stands in a file"),
        ("launcher", {"_target_": "a.Launcher", "name": "x\ntouch canary\n#"}, "no line of text"),
    ],
)
def test_a_composed_config_names_no_code(node: str, value: object, told: str) -> None:
    with pytest.raises(ConfigError, match=told.replace(".", r"\.")):
        gate.check_composed({**NO_CODE, node: value}, PLUGINS)


@pytest.mark.parametrize(
    "hydra",
    [
        "callbacks: {x: {_target_: builtins.open, file: CANARY, mode: w}}",
        "job_logging: {handlers: {x: {class: logging.FileHandler, filename: CANARY}}, root: {handlers: [x]}}",
        "sweeper: {_target_: os.system, command: touch CANARY}",
        "launcher: {x: '${hydra.runtime.choices.x}'}\n  runtime: {choices: {x: {_target_: os.mkdir, path: CANARY}}}",
    ],
)
def test_somebodys_experiment_runs_no_code_of_theirs(hydra: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    ended = run_with_experiment(tmp_path, f"hydra:\n  {hydra.replace('CANARY', str(canary))}\n")
    assert ended.returncode == 2 and "ConfigError: hydra." in ended.stderr, ended.stderr
    assert not canary.exists()


@pytest.mark.parametrize(
    ("text", "typed", "told"),
    [
        ("hydra: {overrides: {task: ['teacher.allow_pickle=true']}}", "seed=-1", "hydra.overrides stands in a file"),
        ("hydra: {overrides: {hydra: ['hydra.launcher.setup=[x]']}}", "seed=-1", "hydra.overrides stands in a file"),
        ("hydra: {launcher: {setup: [x]}}", "hydra/launcher=submitit_slurm", "hydra.launcher.setup stands in a file"),
        ("hydra: {launcher: {n_jobs: 9}}", "hydra/launcher=joblib", "hydra.launcher.n_jobs stands in a file"),
        (
            "hydra: {launcher: {additional_parameters: {a: x}}}",
            "hydra/launcher=submitit_slurm +hydra.launcher.additional_parameters.b=y",
            "hydra.launcher.additional_parameters.a stands in a file",
        ),
        ('hydra: {job: {name: "x\\ny"}}', "hydra/launcher=submitit_slurm", "no line of text"),
    ],
)
def test_somebodys_experiment_types_nothing(text: str, typed: str, told: str, tmp_path: Path) -> None:
    ended = run_with_experiment(tmp_path, f"{text}\n", *typed.split())
    assert ended.returncode == 2 and told in ended.stderr, ended.stderr


@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local", "submitit_slurm"])
def test_a_launcher_is_taken_as_it_comes_and_as_it_is_typed(launcher: str, methods) -> None:
    typed = [f"hydra/launcher={launcher}"]
    typed += {"joblib": ["hydra.launcher.n_jobs=2"], "submitit_slurm": ["hydra.launcher.setup=[x]"]}.get(launcher, [])
    with initialize_config_dir(str(groups.conf_folder()), version_base="1.3"):
        hydra_compose("config", overrides=typed, return_hydra_config=True)


def run_with_experiment(tmp_path: Path, text: str, *typed: str) -> subprocess.CompletedProcess[str]:
    """Type a multirun with an experiment of somebody's."""
    folder = tmp_path / "theirs" / "experiment"
    folder.mkdir(parents=True)
    (folder / "nice.yaml").write_text(f"# @package _global_\n{text}")
    return subprocess.run(
        [
            *(sys.executable, "-m", "compressor", "-m", "--config-dir", "theirs", "experiment=nice"),
            *(typed or ["seed=-1"]),
        ],
        cwd=tmp_path,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("teacher.allow_pickle", "teacher: {allow_pickle: true}"),
        ("method.checkpoint.allow_pickle", "method: {checkpoint: {allow_pickle: true}}"),
    ],
)
def test_pickles_are_allowed_by_what_is_typed_and_by_no_file(
    option: str, text: str, tmp_path: Path, methods, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "experiment"
    folder.mkdir()
    (folder / "nice.yaml").write_text(f"# @package _global_\n{text}\n")

    def run_of(*typed: str) -> RunConfig:
        with initialize_config_dir(str(groups.conf_folder()), version_base="1.3"):
            cfg = hydra_compose("config", overrides=[*typed, f"hydra.searchpath=[file://{tmp_path}]"])
        return compose.to_run_config(cfg, typed, methods)

    with pytest.raises(ConfigError, match=f"{option}=True stands in a file".replace(".", r"\.")):
        run_of("method=checkpoint", "experiment=nice")
    run = run_of("method=checkpoint", "experiment=nice", f"{option}=true")
    monkeypatch.setenv("WANDB_SWEEP_ID", "s0")
    with pytest.raises(ConfigError, match="is told by a sweep"):
        run_of("method=checkpoint", f"{option}=true")
    step = run.chain[0].config
    assert isinstance(step, CheckpointConfig)
    assert (run.teacher.allow_pickle, step.allow_pickle) == (option.startswith("teacher"), option.startswith("method"))
