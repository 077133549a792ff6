"""Every promise can be broken, and its check says so: one method for each, broken in that way alone."""

from __future__ import annotations

import copy
import itertools
import random

import numpy as np
import pytest
import torch

from compressor.api import Capabilities, CompressionMethod, MethodConfig, encoder_layers, keep_heads
from compressor.testing import bound_checks

_ticks = itertools.count(1)  # stands for a clock: no two runs see the same value


class Halve(CompressionMethod[MethodConfig]):
    """Halve every linear of the encoder to zeros: keeps every promise."""

    Config = MethodConfig
    capabilities = Capabilities()
    references = ("none: a test's own method",)

    def compress(self, source, ctx):
        return source.evolve(model=self.halved(source))

    def halved(self, source):
        model = copy.deepcopy(source.model)
        with torch.no_grad():
            for layer in model.base_model.encoder.layer:
                layer.output.dense.weight[::2] = 0
        return model


class Train(Halve):
    """Train a copy on the labels: keeps every promise of a method that trains."""

    capabilities = Capabilities(needs_training=True)

    def compress(self, source, ctx):
        model = self.halved(source)
        ctx.fit(model, self.loss, hooks=self.hooks())
        with torch.no_grad():  # zeros again, so that the result is smaller on one axis
            for layer in model.base_model.encoder.layer:
                layer.output.dense.weight[::2] = 0
        return source.evolve(model=model)

    def loss(self, inputs):
        return {"hard": inputs.task.hard_loss(inputs.logits, inputs.batch)}

    def hooks(self):
        return []


class ChangesItsSource(Halve):
    """Works on the source itself."""

    def compress(self, source, ctx):
        with torch.no_grad():
            source.model.base_model.encoder.layer[0].output.dense.weight[::2] = 0
        return super().compress(source, ctx)


class ReadsTheClock(Halve):
    """Draws from something that the seed does not decide."""

    def compress(self, source, ctx):
        model = self.halved(source)
        with torch.no_grad():
            model.base_model.encoder.layer[0].output.dense.weight[1, 0] = next(_ticks)
        return source.evolve(model=model)


class DrawsUnseeded(Halve):
    """Draws from generators that the seed of a run does not reach."""

    draw = staticmethod(np.random.random)

    def compress(self, source, ctx):
        model = self.halved(source)
        with torch.no_grad():
            model.base_model.encoder.layer[0].output.dense.weight[1, 0] = self.draw()
        return source.evolve(model=model)


class DrawsFromPython(DrawsUnseeded):
    """The same from Python's."""

    draw = staticmethod(random.random)


class LeavesAHook(Halve):
    """Leaves a hook on every module of the process."""

    def compress(self, source, ctx):
        torch.nn.modules.module.register_module_forward_hook(lambda module, given, made: None)
        return super().compress(source, ctx)


class HooksTheTeacher(Halve):
    """Leaves a hook on the teacher."""

    def compress(self, source, ctx):
        ctx.teacher.model.classifier.register_forward_hook(lambda module, given, made: None)
        return super().compress(source, ctx)


class LeavesTheTeacherTraining(Halve):
    """Leaves the teacher in training mode."""

    def compress(self, source, ctx):
        ctx.teacher.model.train()
        return super().compress(source, ctx)


class ChangesThreads(Halve):
    """Sets a number of threads for everybody."""

    def compress(self, source, ctx):
        torch.set_num_threads(torch.get_num_threads() + 1)
        return super().compress(source, ctx)


class TrainsInSilence(Train):
    """Trains and does not declare it."""

    capabilities = Capabilities()


class Idle(Train):
    """Declares training and does none."""

    def compress(self, source, ctx):
        return source.evolve(model=self.halved(source))


class ChangesNothing(Halve):
    """Returns its source."""

    def compress(self, source, ctx):
        return source.evolve(model=copy.deepcopy(source.model))


class SpoilsLogits(Halve):
    """Returns a model whose logits are not finite."""

    def compress(self, source, ctx):
        model = self.halved(source)
        with torch.no_grad():
            model.classifier.bias[0] = float("nan")
        return source.evolve(model=model)


class NamesNothing(Halve):
    """Has no reference."""

    references = ()


class ForgetsItsCount(Train):
    """Weighs the loss by a count of steps that no checkpoint holds."""

    def compress(self, source, ctx):
        self.steps = 0
        return super().compress(source, ctx)

    def loss(self, inputs):
        self.steps += 1
        return {"hard": self.steps * inputs.task.hard_loss(inputs.logits, inputs.batch)}


class HidesItsCut(Halve):
    """Removes heads and does not say so in its outline."""

    def compress(self, source, ctx):
        model = self.halved(source)
        for layer in encoder_layers(model):
            keep_heads(model, layer, [0, 1])
        return source.evolve(model=model)


BROKEN = [
    (ChangesItsSource, "leaves_source_and_teacher_alone"),
    (ReadsTheClock, "same_seed_same_result"),
    (DrawsUnseeded, "same_seed_same_result"),
    (DrawsFromPython, "same_seed_same_result"),
    (HooksTheTeacher, "leaves_source_and_teacher_alone"),
    (LeavesTheTeacherTraining, "leaves_source_and_teacher_alone"),
    (LeavesAHook, "restores_global_state"),
    (ChangesThreads, "restores_global_state"),
    (TrainsInSilence, "trains_only_if_declared"),
    (Idle, "trains_only_if_declared"),
    (Idle, "goes_on_after_crashes"),
    (ForgetsItsCount, "goes_on_after_crashes"),
    (ChangesNothing, "gets_smaller_or_sparser"),
    (SpoilsLogits, "logits_keep_shape_and_labels"),
    (NamesNothing, "names_its_source"),
    (HidesItsCut, "outline_tells_the_shape"),
]


@pytest.mark.parametrize(("kind", "check"), BROKEN, ids=lambda value: getattr(value, "__name__", value))
def test_a_broken_promise_is_seen(kind, check, tmp_path) -> None:
    threads = torch.get_num_threads()
    try:
        with pytest.raises(AssertionError):
            bound_checks()[check](kind(MethodConfig()), tmp_path)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("check", sorted({check for _, check in BROKEN}))
@pytest.mark.parametrize("kind", [Halve, Train])
def test_the_same_checks_pass_for_methods_that_keep_their_promises(kind, check, tmp_path) -> None:
    bound_checks()[check](kind(MethodConfig()), tmp_path)
