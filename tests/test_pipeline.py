from __future__ import annotations

from dataclasses import replace

import pytest

from compressor import pipeline, store
from compressor.artifact import Form
from compressor.capabilities import Capabilities
from compressor.config import ChainStep, MethodConfig, StudentConfig
from compressor.errors import ConfigError, Incompatible, PluginError
from compressor.method import CompressionMethod
from compressor.registry import RegisteredMethod, Registry
from compressor.registry import load as load_registry
from compressor.testing.house import TinyHouse
from compressor_plugins.distill import Distill, DistillConfig
from compressor_plugins.drop_layers import DropLayers
from compressor_plugins.finetune import Finetune, FinetuneConfig
from compressor_plugins.int8_dynamic import Int8Dynamic, Int8DynamicConfig

METHODS = {
    "distill": lambda: Distill(DistillConfig()),
    "finetune": lambda: Finetune(FinetuneConfig()),
    "drop_layers": lambda: DropLayers(MethodConfig()),
    "int8_dynamic": lambda: Int8Dynamic(Int8DynamicConfig()),
}


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    return TinyHouse(tmp_path_factory.mktemp("house"))


def check(house, names, student=None, **plan):
    registry = load_registry()
    chain = [ChainStep(name=n, config=METHODS[n]().config if n in METHODS else MethodConfig()) for n in names]
    lent = replace(house.plan(student or StudentConfig()), **plan)
    return pipeline.check(chain, lent, registry)


def test_the_first_reader_applies_the_student_settings_and_later_ones_train_their_source(house) -> None:
    links = check(house, ["drop_layers", "distill"], StudentConfig(layers=2))
    assert [link.plan.student.chosen() for link in links] == [{"layers": 2}, {}]
    assert [link.result.layers for link in links] == [2, 2]


def test_a_method_may_stand_twice(house) -> None:
    links = check(house, ["distill", "distill"], StudentConfig(layers=2))
    assert [link.name for link in links] == ["distill", "distill"]


class LeavesDropoutOn(Distill):
    def compress(self, source, ctx):
        result = super().compress(source, ctx)
        result.model.train()
        return result


def test_a_result_is_in_eval_mode_whatever_the_method_left(house) -> None:
    result = house.compress([LeavesDropoutOn(DistillConfig())], StudentConfig(layers=1))
    assert not any(module.training for module in result.model.modules())


def test_the_empty_chain_is_the_baseline(house) -> None:
    assert check(house, []) == []
    assert pipeline.run([], house.teacher, lambda *_: pytest.fail("no context is needed")) is house.teacher


@pytest.mark.parametrize(
    ("names", "student", "error", "told"),
    [
        (["int8_dynamic", "distill"], StudentConfig(layers=2), Incompatible, "put 'distill' before 'int8_dynamic'"),
        (["int8_dynamic", "int8_dynamic"], None, Incompatible, "which is final"),
        (["distill"], None, Incompatible, "change nothing"),
        (["finetune"], None, Incompatible, "student.layers=2"),
        (["distill"], StudentConfig(layers=9), Incompatible, "the source has 4 layers"),
        (["nothing_like_it"], None, ConfigError, "not known"),
    ],
)
def test_impossible_chains_are_refused_before_work(house, names, student, error, told) -> None:
    with pytest.raises(error) as caught:
        check(house, names, student)
    assert told in str(caught.value)


class Liar(CompressionMethod[MethodConfig]):
    """Declares one thing and does another."""

    Config = MethodConfig
    capabilities = Capabilities(produces=Form.onnx, leaves_trainable=False)
    references = ("a test of the pipeline",)

    def compress(self, source, ctx):
        return source.evolve(model=source.model)


class Forgetful(Liar):
    """Returns nothing."""

    def compress(self, source, ctx):
        return None


class CpuOnly(Liar):
    """Runs on the CPU alone."""

    capabilities = Capabilities(devices=frozenset({"cpu"}))


class Rounds(CompressionMethod[MethodConfig]):
    """Declares that its result's weights are quantised."""

    Config = MethodConfig
    capabilities = Capabilities(leaves_quantised=True)
    references = ("a test of the pipeline",)

    def compress(self, source, ctx):
        return source.evolve(model=ctx.build_student(source))


def rounding_registry() -> Registry:
    registry = load_registry()
    registry.methods["rounds"] = RegisteredMethod(name="rounds", method=Rounds, distribution="d", version="1")
    return registry


@pytest.mark.parametrize("after", ["rounds", "int8_dynamic", "drop_layers", "distill"])
def test_nothing_that_reads_weights_follows_a_quantiser(house, after) -> None:
    config = METHODS[after]().config if after in METHODS else MethodConfig()
    chain = [ChainStep(name="rounds", config=MethodConfig()), ChainStep(name=after, config=config)]
    with pytest.raises(Incompatible, match="quantised, which is final") as caught:
        pipeline.check(chain, house.plan(StudentConfig(layers=2)), rounding_registry())
    assert f"put '{after}' before 'rounds'" in str(caught.value)


def test_a_quantised_teacher_can_be_measured_and_not_compressed(house) -> None:
    teacher = replace(house.teacher.blueprint, quantised=True)
    assert check(house, [], teacher=teacher) == []
    with pytest.raises(Incompatible, match="the checkpoint before quantisation"):
        check(house, ["int8_dynamic"], teacher=teacher)


def test_what_a_quantiser_leaves_says_so_after_reloading(house, tmp_path) -> None:
    links = pipeline.check(
        [ChainStep(name="rounds", config=MethodConfig())], house.plan(StudentConfig()), rounding_registry()
    )
    assert links[0].result.quantised
    result = house.compress([Rounds(MethodConfig())])
    store.save(result, tmp_path / "rounded", rounding_registry())
    assert result.quantised and store.load(tmp_path / "rounded", rounding_registry()).blueprint.quantised
    assert not house.teacher.quantised


def test_a_device_that_a_method_lacks_is_refused(house) -> None:
    registry = Registry(methods={"m": RegisteredMethod(name="m", method=CpuOnly, distribution="d", version="1")})
    plan = replace(house.plan(StudentConfig()), device="cuda")
    with pytest.raises(Incompatible, match="does not run on cuda"):
        pipeline.check([ChainStep(name="m", config=MethodConfig())], plan, registry)


@pytest.mark.parametrize(("kind", "told"), [(Liar, "declares onnx"), (Forgetful, "returned NoneType")])
def test_a_method_that_breaks_its_word_is_named(house, kind, told) -> None:
    registry = Registry(methods={"liar": RegisteredMethod(name="liar", method=kind, distribution="d", version="1")})
    links = pipeline.check([ChainStep(name="liar", config=MethodConfig())], house.plan(StudentConfig()), registry)
    with pytest.raises(PluginError, match=told):
        pipeline.run(links, house.teacher, lambda *_: None)


def test_the_lineage_tells_the_whole_story(house) -> None:
    result = house.compress([METHODS["drop_layers"](), METHODS["distill"]()], StudentConfig(layers=2))
    assert [step.method for step in result.lineage] == ["drop_layers", "distill"]
    assert result.lineage[1].config["temperature"] == DistillConfig().temperature
    assert result.lineage[0].distribution == "encoder-compressor"
    assert all(step.seconds > 0 for step in result.lineage)
    assert result.trainable
