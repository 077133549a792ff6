"""What a method changes that is not its own is put back, and a changed teacher ends the run."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.modules import module as all_modules

from compressor import conduct
from compressor.capabilities import Capabilities
from compressor.config import MethodConfig
from compressor.errors import PluginError
from compressor.method import CompressionMethod
from compressor.testing.house import TinyHouse


class Halve(CompressionMethod[MethodConfig]):
    """Halve a copy's weights to zeros, and do what a test adds."""

    Config = MethodConfig
    capabilities = Capabilities()
    references = ("none: a test's own method",)

    def compress(self, source, ctx):
        model = ctx.build_student(source)
        with torch.no_grad():
            for layer in model.base_model.encoder.layer:
                layer.output.dense.weight[::2] = 0
        self.misbehave(source, ctx)
        return source.evolve(model=model)

    def misbehave(self, source, ctx):
        """Nothing."""


@pytest.fixture
def house(tmp_path):
    return TinyHouse(tmp_path)


class Alters(Halve):
    def misbehave(self, source, ctx):
        with torch.no_grad():
            ctx.teacher.model.classifier.bias[0] += 1


class AltersUnseen(Halve):
    def misbehave(self, source, ctx):
        ctx.teacher.model.classifier.weight.data.mul_(0.5)


class Rebuilds(Halve):
    def misbehave(self, source, ctx):
        ctx.teacher.model.dropout = torch.nn.Identity()


class Configures(Halve):
    def misbehave(self, source, ctx):
        ctx.teacher.config.num_labels = 7


class DropsMore(Halve):
    def misbehave(self, source, ctx):
        ctx.teacher.model.dropout.p = 0.9


class Replaces(Halve):
    def misbehave(self, source, ctx):
        ctx.teacher.model.forward = lambda **inputs: None


class Retokenises(Halve):
    def misbehave(self, source, ctx):
        ctx.teacher.tokenizer.padding_side = "left"


@pytest.mark.parametrize("kind", [Alters, AltersUnseen, Rebuilds, Configures, DropsMore, Replaces, Retokenises])
def test_a_changed_teacher_ends_the_run(kind, house) -> None:
    with pytest.raises(PluginError, match="changed the teacher"):
        house.compress([kind(MethodConfig())])


class Careless(Halve):
    """Leaves everything but the teacher's weights in another state."""

    def misbehave(self, source, ctx):
        teacher = ctx.teacher.model
        teacher.train()
        teacher.classifier.weight.requires_grad_(False)
        teacher.classifier.register_forward_hook(lambda module, given, made: made * 0)
        teacher.register_forward_pre_hook(lambda module, given: None)
        all_modules.register_module_forward_hook(lambda module, given, made: None)
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(torch.get_num_threads() + 1)
        os.chdir(ctx.workspace)


def test_what_else_was_changed_is_put_back_with_a_warning(house, caplog) -> None:
    teacher = house.teacher.model
    before = conduct.State(teacher)
    logits = house.logits(house.teacher)
    house.compress([Careless(MethodConfig())])
    assert before.changed() == []
    assert torch.is_grad_enabled() and torch.get_default_dtype() is torch.float32
    assert not teacher.training and not teacher.classifier._forward_hooks and teacher.classifier.weight.requires_grad
    assert np.array_equal(house.logits(house.teacher), logits)
    (said,) = [r.getMessage() for r in caplog.records if "put back" in r.getMessage()]
    for part in ("grad mode", "default dtype", "threads", "current folder", "hooks of all modules"):
        assert part in said
    for part in ("hooks of the teacher", "mode of the teacher", "requires_grad of the teacher"):
        assert part in said


class Raises(Careless):
    def misbehave(self, source, ctx):
        super().misbehave(source, ctx)
        raise RuntimeError("in the middle")


def test_it_is_put_back_after_an_error_too(house) -> None:
    before = conduct.State(house.teacher.model)
    with pytest.raises(RuntimeError, match="in the middle"):
        house.compress([Raises(MethodConfig())])
    assert before.changed() == []


class Draws(Halve):
    """Draws random numbers, and seeds for everybody."""

    def misbehave(self, source, ctx):
        random.seed(7)
        np.random.seed(7)
        torch.manual_seed(7)


def test_draws_do_not_change_what_follows_and_are_no_misconduct(house, caplog) -> None:
    random.seed(1)
    np.random.seed(1)

    def following(method) -> tuple[object, ...]:
        house.compress([method])
        state = random.getstate(), np.random.get_state()
        drawn = random.random(), float(np.random.rand()), float(torch.rand(()))
        random.setstate(state[0])
        np.random.set_state(state[1])
        return drawn

    assert following(Draws(MethodConfig())) == following(Halve(MethodConfig()))
    assert not caplog.records


def test_a_method_that_keeps_to_itself_is_let_be(house, caplog) -> None:
    first = house.compress([Halve(MethodConfig())])
    assert first.lineage[-1].method == "checked" and not caplog.records


class LeavesItsFolder(Halve):
    def misbehave(self, source, ctx):
        folder = ctx.workspace / "gone"
        folder.mkdir()
        os.chdir(folder)
        folder.rmdir()
        raise ValueError("the method's own error")


def test_a_methods_own_error_is_the_one_that_is_raised(house) -> None:
    before = Path.cwd()
    with pytest.raises(ValueError, match="the method's own error"):
        house.compress([LeavesItsFolder(MethodConfig())])
    assert Path.cwd() == before


class RemovesAHook(Halve):
    def misbehave(self, source, ctx):
        for table in (ctx.teacher.model._forward_hooks, ctx.teacher.model._forward_hooks_with_kwargs):
            table.clear()


def test_a_hook_that_takes_keywords_is_put_back_as_such(house) -> None:
    heard = []
    hook = house.teacher.model.register_forward_hook(
        lambda m, given, named, made: heard.append(sorted(named)), with_kwargs=True
    )
    house.compress([RemovesAHook(MethodConfig())])
    house.teacher.model(input_ids=torch.zeros(1, 4, dtype=torch.long))
    hook.remove()
    assert heard == [["input_ids"]]
