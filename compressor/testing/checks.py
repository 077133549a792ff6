"""The promises of a compression method, one function each; which apply follows from its capabilities.

A check takes the method and a `TinyHouse` and raises `AssertionError` with both what was promised and what was seen.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from compressor import store
from compressor.artifact import CompressedModel, Form, parameter_count
from compressor.config import MethodConfig, StudentConfig
from compressor.errors import CompressorError, Incompatible
from compressor.method import CompressionMethod
from compressor.pipeline import plain
from compressor.testing.crashes import CrashError, crash_at_second_step
from compressor.testing.house import LAYERS, Shorten, TinyHouse
from compressor.testing.watch import fingerprint, values, watched

Method = CompressionMethod[Any]
Check = Callable[[Method, TinyHouse], None]
MOST_CRASHES = (
    200  # each crashed run leaves at least one step's checkpoint, and a tiny method trains some dozens of steps
)
COMPILED_TOLERANCE = 0.15  # dynamic int8 of a tiny random model moves with its batch (one scale a tensor)


# config


def check_config_is_slotted_and_keyword_only(method: Method, house: TinyHouse) -> None:
    config = type(method).Config
    assert dataclasses.is_dataclass(config) and issubclass(config, MethodConfig), (
        f"{config} is no MethodConfig dataclass"
    )
    assert not hasattr(config(), "__dict__"), (
        f"{config.__name__} needs dataclass(slots=True): a typo would become an option"
    )
    assert all(f.kw_only for f in dataclasses.fields(config)), f"{config.__name__} needs dataclass(kw_only=True)"


def check_config_has_defaults(method: Method, house: TinyHouse) -> None:
    assert type(method)(type(method).Config()).config == type(method).Config()


def check_config_survives_yaml(method: Method, house: TinyHouse) -> None:
    from omegaconf import OmegaConf

    text = OmegaConf.to_yaml(OmegaConf.create(plain(method.config)))
    again = store.config_from(type(method), OmegaConf.to_container(OmegaConf.create(text)))  # type: ignore[arg-type]
    assert again == method.config, f"{method.config} became {again}"


def check_config_fields_are_documented(method: Method, house: TinyHouse) -> None:
    config = type(method).Config
    if config is MethodConfig:
        return
    lines = inspect.getsource(config).splitlines()
    for name in config.__annotations__:
        index = next(i for i, line in enumerate(lines) if line.strip().startswith(f"{name}:"))
        above = lines[index - 1].strip().startswith("#")
        assert "#" in lines[index] or above, f"{config.__name__}.{name} needs a comment that gives its unit or meaning"


# purity


def check_leaves_source_and_teacher_alone(method: Method, house: TinyHouse) -> None:
    seen = watched(method, house)
    assert seen.teacher_after == seen.teacher_before, "the source or the teacher was changed"
    teachers = [name for name in seen.left_changed if "teacher" in name]
    assert not teachers, f"left changed: {', '.join(teachers)}"


def check_same_seed_same_result(method: Method, house: TinyHouse) -> None:
    import random

    import torch

    first = watched(method, house).made
    (
        random.random(),
        np.random.random(),
    )  # nobody seeds these, and a run puts them back: what is drawn there must not matter
    with torch.no_grad():  # as a caller may have it
        second = house.compress([method])
        assert not torch.is_grad_enabled(), "grad mode was switched on for the caller"
    assert fingerprint(first) == fingerprint(second), "two runs with one seed differ, the second under no_grad"


def check_goes_on_after_crashes(method: Method, house: TinyHouse) -> None:
    if not method.capabilities.needs_training:
        return
    cache, crashes = house.folder / "crashed-cache", 0
    while crashes < MOST_CRASHES:
        try:
            ended = house.compress([method], cache=cache, progress=crash_at_second_step())
            break
        except CrashError:
            crashes += 1
    else:
        raise AssertionError(f"{MOST_CRASHES} runs that crashed at their second training step did not end the training")
    assert crashes, "no training step was seen, so nothing could crash"
    assert fingerprint(ended) == fingerprint(watched(method, house).made), (
        f"a run that crashed {crashes} times and went on each time ended with other weights than one that never crashed"
    )


def check_restores_global_state(method: Method, house: TinyHouse) -> None:
    left_changed = [name for name in watched(method, house).left_changed if "teacher" not in name]
    assert not left_changed, f"left changed: {', '.join(left_changed)}"


# honesty


def check_trains_only_if_declared(method: Method, house: TinyHouse) -> None:
    declared, fits = method.capabilities.needs_training, watched(method, house).fits
    assert bool(fits) == declared, f"needs_training={declared}, and fit was called {fits} times"


def check_calibrates_only_if_declared(method: Method, house: TinyHouse) -> None:
    declared, reads = method.capabilities.needs_calibration, watched(method, house).calibrations
    assert bool(reads) == declared, f"needs_calibration={declared}, and calibration data was read {reads} times"


def check_obeys_student_layers(method: Method, house: TinyHouse) -> None:
    if not method.capabilities.reads_student:
        return
    for layers in (1, LAYERS - 1):
        result = house.compress([method], StudentConfig(layers=layers))
        assert result.blueprint.layers == layers, f"student.layers={layers} gave {result.blueprint.layers}"


def check_form_is_as_declared(method: Method, house: TinyHouse) -> None:
    result = watched(method, house).made
    assert result.form is method.capabilities.produces
    assert result.trainable == (method.capabilities.leaves_trainable and result.form is Form.torch)


def check_trainable_result_has_gradients(method: Method, house: TinyHouse) -> None:
    import torch

    result = watched(method, house).made
    if not result.trainable:
        return
    batch = house.batch(result)
    with torch.enable_grad():
        torch.autograd.backward(house.task.hard_loss(result.model(**batch.inputs).logits, batch))
    moved = [p for p in result.model.parameters() if p.grad is not None and bool(p.grad.abs().sum() > 0)]
    assert moved, "leaves_trainable=True, and no parameter gets a gradient"


def check_says_that_weights_are_quantised(method: Method, house: TinyHouse) -> None:
    import torch
    from torch.utils._python_dispatch import is_traceable_wrapper_subclass

    result = watched(method, house).made
    if result.module is None:
        return
    packed = {b.dtype for b in result.model.buffers()} & {torch.int8, torch.uint8, torch.int16}
    odd = [p for p in result.model.parameters() if is_traceable_wrapper_subclass(p) or not p.is_floating_point()]
    seen = bool(packed or odd)
    assert method.capabilities.leaves_quantised or not seen, (
        "the result holds integer weights: declare leaves_quantised=True, so that nothing that reads weights follows"
    )
    assert result.quantised == method.capabilities.leaves_quantised


def check_outline_tells_the_shape(method: Method, house: TinyHouse) -> None:
    link = house.check([method])[0]
    result = watched(method, house).made
    assert link.result.form is result.form
    assert link.result.layers == result.blueprint.layers, "outline() and the result disagree on the layers"
    assert link.result.hidden_size == result.blueprint.hidden_size, "outline() and the result disagree on the width"
    for part in ("heads", "neurons"):
        told, found = getattr(link.result, part), getattr(result.blueprint, part)
        assert told in (None, found), (
            f"outline() tells {told} {part} a layer and the result has {found or 'differing numbers'}: "
            f"see Blueprint.with_cut({part}=...)"
        )


# function


def check_logits_keep_shape_and_labels(method: Method, house: TinyHouse) -> None:
    result = watched(method, house).made
    expected = house.logits(house.teacher).shape
    assert house.logits(result).shape == expected
    assert result.head == house.teacher.head
    assert np.isfinite(house.logits(result)).all(), "logits are not finite"


def check_padding_changes_nothing(method: Method, house: TinyHouse) -> None:
    result = watched(method, house).made
    difference = np.abs(house.logits(result) - house.logits(result, extra_padding=7)).max()
    allowed = 1e-4 if result.form is Form.torch else COMPILED_TOLERANCE
    assert difference <= allowed, f"seven padding tokens move the logits by {difference:.2e}"


def check_works_after_another_method(method: Method, house: TinyHouse) -> None:
    if method.capabilities.own_source:
        with contextlib.suppress(Incompatible):
            house.check([Shorten(MethodConfig()), method], StudentConfig(layers=LAYERS - 1))
            raise AssertionError("own_source=True, and a method before it was not refused")
        return
    result = house.compress([Shorten(MethodConfig()), method], StudentConfig(layers=LAYERS - 1))
    assert result.blueprint.layers <= LAYERS - 1, "the method went back to the teacher instead of taking its source"
    assert len(result.lineage) == 2


def check_gets_smaller_or_sparser(method: Method, house: TinyHouse) -> None:
    result = watched(method, house).made
    axes = {"bytes": folder_bytes(house, result) < folder_bytes(house, house.teacher)}
    if result.module is not None:
        axes["parameters"] = parameter_count(result.model) < parameter_count(house.teacher.model)
        axes["non-zeros"] = non_zeros(result) < non_zeros(house.teacher)
    assert any(axes.values()), f"smaller on none of {', '.join(axes)}"


# persistence


def check_saves_and_loads(method: Method, house: TinyHouse) -> None:
    result = watched(method, house).made
    folder = saved(house, result, method)
    again = store.load(folder, house.registry(method))
    assert again.lineage == result.lineage
    assert again.head == result.head
    np.testing.assert_array_equal(house.logits(again), house.logits(result), "loaded logits differ from saved ones")


def check_loads_in_a_fresh_process(method: Method, house: TinyHouse) -> None:
    result = watched(method, house).made
    folder = saved(house, result, method)
    out = folder.parent / "logits.npy"
    batch = house.batch(result)
    arrays: dict[str, Any] = {k: v.numpy() for k, v in batch.inputs.items()}
    np.savez(folder.parent / "inputs.npz", **arrays)
    command = [
        sys.executable,
        "-m",
        "compressor.testing.reload",
        str(folder),
        str(folder.parent / "inputs.npz"),
        str(out),
    ]
    if house.name_of(method) == "checked":
        command.append(f"{type(method).__module__}:{type(method).__qualname__}")
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, f"a fresh process cannot load the model:\n{ended.stderr[-2000:]}"
    np.testing.assert_array_equal(np.load(out), house.logits(result), "a fresh process computes other logits")


def check_no_pickle_on_disk(method: Method, house: TinyHouse) -> None:
    folder = saved(house, watched(method, house).made, method)
    found = [p for p in folder.rglob("*") if p.suffix in {".bin", ".pt", ".pth", ".pkl", ".pickle"}]
    # OpenVINO's raw weights lie in a .bin beside the .xml that describes them; torch.save writes a zip or a pickle.
    bad = [p.name for p in found if not p.with_suffix(".xml").is_file() or p.read_bytes()[:2] in (b"PK", b"\x80\x02")]
    assert not bad, f"pickle files were saved: {bad}"


def check_pickles_for_workers(method: Method, house: TinyHouse) -> None:
    again = pickle.loads(pickle.dumps(method))
    assert type(again) is type(method) and again.config == method.config


# manners


def check_refuses_a_final_form(method: Method, house: TinyHouse) -> None:
    source = dataclasses.replace(
        house.teacher.blueprint, form=Form.openvino if method.capabilities.accepts is not Form.openvino else Form.torch
    )
    plan = dataclasses.replace(house.plan(house.student(method)), teacher=source)
    from compressor import pipeline
    from compressor.config import ChainStep

    chain = [ChainStep(name=house.name_of(method), config=method.config)]
    try:
        pipeline.check(chain, plan, house.registry(method))
    except CompressorError:
        return
    raise AssertionError(f"a source of form {source.form} was not refused")


def check_names_its_source(method: Method, house: TinyHouse) -> None:
    assert method.references and all(isinstance(r, str) and len(r) > 8 for r in method.references), (
        "references are empty"
    )
    assert (type(method).__doc__ or "").strip(), "the class needs a docstring: its first line is what --help prints"


CHECKS: tuple[Check, ...] = tuple(value for name, value in list(globals().items()) if name.startswith("check_"))


def saved(house: TinyHouse, artifact: CompressedModel, method: Method) -> Path:
    """Save into a new folder and return it."""
    number = len(list(house.folder.glob("saved-*")))
    folder = house.folder / f"saved-{number}" / "artifact"
    store.save(artifact, folder, house.registry(method))
    return folder


def folder_bytes(house: TinyHouse, artifact: CompressedModel) -> int:
    """Return the bytes of the weights on disk."""
    number = len(list(house.folder.glob("bytes-*")))
    folder = house.folder / f"bytes-{number}" / "artifact"
    store.save(artifact, folder)
    return sum(
        p.stat().st_size for p in folder.iterdir() if p.suffix in {".safetensors", ".onnx", ".data", ".bin", ".xml"}
    )


def non_zeros(artifact: CompressedModel) -> int:
    """Count weights that are not zero."""
    return sum(int((values(p) != 0).sum()) for p in artifact.model.parameters())
