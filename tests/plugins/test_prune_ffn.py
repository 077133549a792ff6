"""Neuron scores against their papers' equations in numpy; what remains is the model with the other neurons masked."""

from __future__ import annotations

import copy
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from compressor import store
from compressor.artifact import parameter_count
from compressor.errors import ConfigError, Incompatible
from compressor.families import encoder_layers
from compressor.surgery import encoder_linears, layer_parts, neuron_count
from compressor.testing import parametrize_with_checks
from compressor.testing.encoders import FAMILIES, house_of, tiny_encoder
from compressor.testing.house import TinyHouse
from compressor_plugins.distill import Distill, DistillConfig
from compressor_plugins.int8_dynamic import Int8Dynamic, Int8DynamicConfig
from compressor_plugins.prune_ffn import NeuronImportance, NeuronScope, PruneFfn, PruneFfnConfig, importance

GLOBAL = NeuronScope("global")


@parametrize_with_checks(
    [
        PruneFfn(PruneFfnConfig()),
        PruneFfn(
            PruneFfnConfig(scope=GLOBAL, importance=NeuronImportance.activation_gradient, multiple_of=1, reconstruct=0)
        ),
    ]
)
def test_promises(method, check, tmp_path) -> None:
    check(method, tmp_path)


def derivatives(model, batch, neurons: list[int]) -> np.ndarray:
    """Return [examples, neurons]: central differences of each example's numpy loss by the size of a neuron's output."""
    model = copy.deepcopy(model).double()
    weight = layer_parts(model, encoder_layers(model)[1]).ffn_out.weight
    old, step, found = weight.detach().clone(), 1e-4, np.zeros((len(batch.ids), len(neurons)))
    for place, neuron in enumerate(neurons):
        losses = []
        for factor in (1 + step, 1 - step):
            with torch.no_grad():
                weight.copy_(old)
                weight[:, neuron] *= factor
                logits = model(**batch.inputs).logits.numpy()
            shifted = logits - logits.max(axis=1, keepdims=True)
            picked = shifted[np.arange(len(shifted)), batch.labels.numpy()]
            losses.append(np.log(np.exp(shifted).sum(axis=1)) - picked)
        found[:, place] = (losses[0] - losses[1]) / (2 * step)
    return found


def test_scores_equal_the_papers_equations(tmp_path) -> None:
    from compressor.training.gates import gate_gradients

    house = house_of(tmp_path, tiny_encoder("bert"))
    model, batch = house.teacher.model, house.batch(house.teacher)
    linear = layer_parts(model, encoder_layers(model)[1]).ffn_out
    gradients = gate_gradients(model, house.task, [batch], {"it": linear})["it"]
    by_hand = derivatives(model, batch, list(range(64)))
    taylor = importance(gradients, NeuronImportance.taylor).numpy()
    np.testing.assert_allclose(taylor, (by_hand**2).mean(axis=0), rtol=5e-2, atol=1e-7)
    size = np.abs(by_hand).mean(axis=0)
    got = importance(gradients, NeuronImportance.activation_gradient).numpy()
    np.testing.assert_allclose(got, size / np.sqrt((size**2).sum()), atol=2e-3)
    other = gate_gradients(model, house.task, [replace(batch, labels=1 - batch.labels)], {"it": linear})["it"]
    assert np.abs(importance(other, NeuronImportance.taylor).numpy() / taylor - 1).max() > 0.05


def test_magnitude_is_the_product_of_the_norms(tmp_path) -> None:
    house = house_of(tmp_path, tiny_encoder("bert"))
    method = PruneFfn(PruneFfnConfig(importance=NeuronImportance.magnitude, keep=0.25, reconstruct=0))
    result = house.compress([method])
    for before, after in zip(encoder_layers(house.teacher.model), encoder_layers(result.model), strict=True):
        parts = layer_parts(house.teacher.model, before)
        inward, outward = parts.ffn_in.weight.detach().numpy(), parts.ffn_out.weight.detach().numpy()
        size = np.sqrt((inward**2).sum(axis=1)) * np.sqrt((outward**2).sum(axis=0))
        kept = np.sort(np.argsort(-size)[:16])
        np.testing.assert_array_equal(layer_parts(result.model, after).ffn_in.weight.detach().numpy(), inward[kept])


@pytest.mark.parametrize("kind", list(NeuronImportance))
def test_the_result_is_the_teacher_with_the_other_neurons_masked(tmp_path, kind) -> None:
    house = house_of(tmp_path, tiny_encoder("bert"))
    result = house.compress([PruneFfn(PruneFfnConfig(importance=kind, scope=GLOBAL, reconstruct=0))])
    masked = copy.deepcopy(house.teacher.model)
    for layer, cut in zip(encoder_layers(masked), encoder_layers(result.model), strict=True):
        kept = {tuple(row.tolist()) for row in layer_parts(result.model, cut).ffn_in.weight}
        parts = layer_parts(masked, layer)
        gone = [i for i, row in enumerate(parts.ffn_in.weight) if tuple(row.tolist()) not in kept]
        with torch.no_grad():
            parts.ffn_out.weight[:, gone] = 0
    np.testing.assert_allclose(
        house.logits(result), house.logits(replace(house.teacher, module=masked)), atol=1e-5, rtol=0
    )


def test_parameters_and_operations_fall_by_the_predicted_number(tmp_path) -> None:
    house = house_of(tmp_path, tiny_encoder("bert"))
    result = house.compress([PruneFfn(PruneFfnConfig(keep=0.25))])

    def products(model) -> int:
        return sum(linear.weight.numel() for linear in encoder_linears(model).values())

    before, gone = house.teacher.model, 3 * 48
    assert products(before) - products(result.model) == gone * 2 * 32
    assert parameter_count(before) - parameter_count(result.model) == gone * (2 * 32 + 1)


@pytest.mark.parametrize(("keep", "unit"), [(0.5, 8), (0.3, 16), (0.01, 8), (0.5, 5)])
def test_global_widths_are_multiples_and_meet_the_share(tmp_path, keep, unit) -> None:
    house = house_of(tmp_path, tiny_encoder("bert"))
    result = house.compress([PruneFfn(PruneFfnConfig(keep=keep, scope=GLOBAL, multiple_of=unit, reconstruct=0))])
    widths = [neuron_count(result.model, layer) for layer in encoder_layers(result.model)]
    assert all(width % unit == 0 and width >= unit for width in widths)
    assert abs(sum(widths) - keep * 192) <= 3 * unit


def test_the_refit_brings_the_hidden_states_nearer(tmp_path) -> None:
    distances = []
    for examples in (0, 48):
        house = house_of(tmp_path / str(examples), tiny_encoder("bert"))
        result = house.compress([PruneFfn(PruneFfnConfig(reconstruct=examples))])
        inputs = house.batch(result).inputs
        with torch.inference_mode():
            states = [m.base_model(**inputs)[0] for m in (result.model, house.teacher.model)]
        distances.append(float((states[0] - states[1]).square().mean()))
    assert distances[1] < 0.7 * distances[0]


PLAIN = """
import sys, numpy as np, torch, transformers
model = transformers.AutoModelForSequenceClassification.from_pretrained(sys.argv[1]).eval()
assert "compressor" not in sys.modules
print(model.config.intermediate_size, *model(torch.arange(5, 12)[None]).logits[0].tolist())
"""


def test_one_width_for_all_layers_is_a_checkpoint_for_anybody(tmp_path) -> None:
    house = house_of(tmp_path, tiny_encoder("bert"))
    result = house.compress([PruneFfn(PruneFfnConfig())])
    store.save(result, tmp_path / "plain")
    ended = subprocess.run(
        [sys.executable, "-c", PLAIN, str(tmp_path / "plain")], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr[-1500:]
    width, *logits = ended.stdout.split()
    assert width == "32" and house.check([PruneFfn(PruneFfnConfig())])[0].result.config.intermediate_size == 32
    with torch.inference_mode():
        expected = result.model(torch.arange(5, 12)[None]).logits[0]
    np.testing.assert_allclose([float(x) for x in logits], expected.numpy(), atol=1e-6)


def test_other_widths_load_through_the_auto_classes_once_they_know_us(tmp_path) -> None:
    import transformers

    import compressor.auto  # noqa: F401 - registers the classes

    house = house_of(tmp_path, tiny_encoder("bert"))
    result = house.compress([PruneFfn(PruneFfnConfig(scope=GLOBAL, multiple_of=1))])
    assert len({neuron_count(result.model, layer) for layer in encoder_layers(result.model)}) > 1
    store.save(result, tmp_path / "shaped")
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "shaped")
    np.testing.assert_array_equal(house.logits(replace(result, module=again)), house.logits(result))


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "bert"])
def test_other_families(tmp_path, family) -> None:
    house = house_of(tmp_path, tiny_encoder(family))
    result = house.compress([PruneFfn(PruneFfnConfig(keep=0.25))])
    assert {neuron_count(result.model, layer) for layer in encoder_layers(result.model)} == {16}
    assert np.isfinite(house.logits(result)).all()


def test_it_stands_in_chains(tmp_path) -> None:
    house = TinyHouse(tmp_path)
    chain = [PruneFfn(PruneFfnConfig()), Distill(DistillConfig()), PruneFfn(PruneFfnConfig())]
    result = house.compress([*chain, Int8Dynamic(Int8DynamicConfig(minimum_share=0.9))])
    assert [step.notes.get("neurons_kept") for step in result.lineage] == [[32] * 4, None, [16] * 4, None]
    assert np.isfinite(house.logits(result)).all()


@pytest.mark.slow
def test_a_pruned_and_taught_model_is_quantised_with_calibration(tmp_path) -> None:
    pytest.importorskip("nncf")
    from compressor_plugins.int8_static import Int8Static, Int8StaticConfig

    house = TinyHouse(tmp_path, layers=2)
    chain = [PruneFfn(PruneFfnConfig()), Distill(DistillConfig()), Int8Static(Int8StaticConfig(examples=16))]
    result = house.compress(chain)
    counts = result.lineage[-1].notes
    assert counts["linears_quantised"] == counts["linears_eligible"] == 2 * 6 + 2
    assert np.isfinite(house.logits(result)).all()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"keep": 0.0}, "keep=0.0"),
        ({"keep": 1.0}, "keep=1.0"),
        ({"examples": 0}, "examples=0"),
        ({"multiple_of": 0}, "multiple_of=0"),
        ({"reconstruct": -1}, "reconstruct=-1"),
    ],
)
def test_options_out_of_range_are_named(options, told) -> None:
    with pytest.raises(ConfigError, match=told):
        PruneFfnConfig(**options)


def test_a_share_that_removes_nothing_is_refused_before_work(tmp_path) -> None:
    with pytest.raises(Incompatible, match="keeps all of 64 neurons a layer"):
        TinyHouse(tmp_path).check([PruneFfn(PruneFfnConfig(keep=0.9, multiple_of=64))])
