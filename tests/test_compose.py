from __future__ import annotations

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.errors import ConfigCompositionException

from compressor import compose, groups, registry
from compressor.config import MethodConfig
from compressor.errors import ConfigError


@pytest.fixture(scope="module")
def methods():
    known = registry.load()
    compose.register(known)
    return known


def composed(methods, *overrides):
    with initialize_config_dir(str(groups.conf_folder()), version_base="1.3"):
        cfg = hydra_compose("config", overrides=list(overrides))
    return compose.to_run_config(cfg, overrides, methods)


def names(run):
    return [step.name for step in run.chain]


def test_the_default_is_the_empty_chain(methods) -> None:
    run = composed(methods)
    assert run.chain == [] and run.teacher.checkpoint == "e5-small" and run.task.dataset == "rotten_tomatoes"


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("method=distill", ["distill"]),
        ("method=[]", []),
        ("method=[distill,int8_dynamic]", ["distill", "int8_dynamic"]),
        ("method=[int8_dynamic,distill]", ["int8_dynamic", "distill"]),
        ("method=[drop_layers,distill,drop_layers]", ["drop_layers", "distill", "drop_layers"]),
    ],
)
def test_the_chain_is_what_was_typed(methods, typed, expected) -> None:
    assert names(composed(methods, typed)) == expected


def test_options_of_a_method_are_typed(methods) -> None:
    run = composed(methods, "method=distill", "method.distill.temperature=4", "student.init=[1,3]")
    assert run.chain[0].config.temperature == 4.0
    assert isinstance(run.chain[0].config, MethodConfig)
    assert run.student.init == [1, 3]
    with pytest.raises(ConfigCompositionException, match="temperature=warm"):
        composed(methods, "method=distill", "method.distill.temperature=warm")


def test_a_baseline_takes_the_options_that_were_typed(methods) -> None:
    run = composed(
        methods, "method=[distill,int8_dynamic]", "method.distill.temperature=4", "bench.baselines=[distill]"
    )
    assert run.baselines["distill"][0].config.temperature == 4.0
    alone = composed(methods, "method=[]", "bench.baselines=[finetune]", "method.finetune.learning_rate=1e-5")
    assert alone.baselines["finetune"][0].config.learning_rate == 1e-5


def test_only_chosen_methods_are_in_the_chain(methods) -> None:
    assert names(composed(methods, "method.distill.temperature=4")) == []


def test_a_forced_option_is_refused_with_its_name(methods) -> None:
    with pytest.raises(ConfigError, match="layrs"):
        composed(methods, "+student.layrs=3")


def test_baselines_are_chains(methods) -> None:
    run = composed(methods, "bench.baselines=[finetune,drop_layers+int8_dynamic]")
    assert {name: [s.name for s in chain] for name, chain in run.baselines.items()} == {
        "finetune": ["finetune"],
        "drop_layers+int8_dynamic": ["drop_layers", "int8_dynamic"],
    }
    with pytest.raises(ConfigError, match="finetuen"):
        composed(methods, "bench.baselines=[finetuen]")


@pytest.mark.parametrize(
    ("group", "named"),
    [("task=file", r"task\.train"), ("task=hub", r"task\.dataset"), ("teacher=checkpoint", r"teacher\.checkpoint")],
)
def test_a_value_that_must_be_given_is_named(methods, group, named) -> None:
    with pytest.raises(ConfigError, match=named):
        composed(methods, group)


def choices(group):
    root = groups.conf_folder() / group
    return sorted(p.relative_to(root).with_suffix("").as_posix() for p in root.rglob("*.yaml"))


@pytest.mark.parametrize("task", [t for t in choices("task") if t not in ("file", "hub")])
def test_every_task_composes(methods, task) -> None:
    assert composed(methods, f"task={task}").task.name == task


@pytest.mark.parametrize("teacher", [t for t in choices("teacher") if t != "checkpoint"])
def test_every_teacher_composes(methods, teacher) -> None:
    assert composed(methods, f"teacher={teacher}").teacher.checkpoint


def test_every_method_is_in_some_experiment(methods) -> None:
    used = {step.name for name in choices("experiment") for step in composed(methods, f"experiment={name}").chain}
    assert set(methods.methods) - used == set()


@pytest.mark.parametrize("experiment", choices("experiment"))
def test_every_experiment_composes(methods, experiment) -> None:
    assert composed(methods, f"experiment={experiment}").chain


def test_no_yaml_shadows_a_method_schema() -> None:
    assert not (groups.conf_folder() / "method").exists()


@pytest.mark.parametrize(
    ("typed", "told", "hint"),
    [
        ("experiment=gallery", "experiment=gallery does not exist", "suite=gallery"),
        ("experiment=distil_6l", "experiment=distil_6l does not exist", "experiment=distill_6l"),
        ("teacher=e5", "teacher=e5 does not exist", "teacher=e5_small"),
    ],
)
def test_a_choice_that_does_not_exist_is_told_with_the_nearest_and_with_the_group_that_has_it(
    methods, typed, told, hint
) -> None:
    with pytest.raises(ConfigCompositionException) as raised:
        composed(methods, typed)
    error = compose.explain(raised.value)
    assert error.got == told and hint in error.hint
    assert "distill_int8" in error.allowed or "e5_small" in error.allowed


def test_the_device_decides_what_is_timed_where_runtimes_are_not_named(methods) -> None:
    assert composed(methods).bench.runtimes == ["torch", "onnxruntime", "openvino"]
    on_cuda = composed(methods, "bench.device=cuda").bench.runtimes
    assert on_cuda == ["torch_cuda", "torch_fp16_cuda", "torch_compile_fp16_cuda"]
    assert composed(methods, "bench.device=cuda", "bench.runtimes=[torch_cuda]").bench.runtimes == ["torch_cuda"]
