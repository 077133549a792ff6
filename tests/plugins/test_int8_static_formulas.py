"""What NNCF puts into the file, against numpy: weights, ranges, SmoothQuant's migration and the biases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import torch

from compressor.runtimes import onnx_graph
from compressor.surgery import encoder_layers, encoder_linears
from compressor.testing.house import TinyHouse
from compressor_plugins import int8_static
from compressor_plugins.int8_static import Int8Static, Int8StaticConfig, Preset

EXAMPLES = 5


def teach(house: TinyHouse) -> None:
    """Give the tiny teacher weights and biases of a size that matters, and what the formulas treat apart."""
    draw = torch.Generator().manual_seed(0)
    model = house.teacher.model
    with torch.no_grad():
        for linear in encoder_linears(model).values():
            linear.weight.mul_(8)
            sign = torch.randn(linear.bias.shape, generator=draw).sign()
            linear.bias.copy_(sign * (0.5 + torch.rand(linear.bias.shape, generator=draw)))
        first, second = encoder_layers(model)
        first.attention.output.LayerNorm.weight[5] = 300.0  # an outlying column, beyond where migration is clipped
        first.attention.self.key.weight[3] *= 1e-4  # a channel whose scale has a floor
        second.attention.self.query.bias[7] = 0.0  # where a bias is 0, the linear's biases stay
        second.attention.self.key.bias.fill_(1e-7)  # and where they would more than treble


def constant(node: Any, port: int) -> np.ndarray:
    return np.asarray(node.input_value(port).get_node().get_data())


def named(model: Any) -> dict[str, Any]:
    return {node.get_friendly_name(): node for node in model.get_ordered_ops()}


@dataclass
class Quantised:
    """A float graph, what calibrated it, and the file that came of it."""

    before: Any
    after: Any
    feeds: Sequence[dict[str, np.ndarray]]

    def values(self, name: str) -> list[np.ndarray]:
        """Return what a node of the float graph gives for each calibration text."""
        watched = self.before.clone()
        watched.add_outputs([(name, 0)])
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
        compiled = openvino.Core().compile_model(watched, "CPU", settings)
        return [np.array(compiled(feed)[1]) for feed in self.feeds]

    def linears(self) -> dict[str, Any]:
        """Return the products of the file that have a stored weight."""
        found = named(self.after)
        return {name: found[name] for name in int8_static.linears(self.before)}

    def float_weight(self, name: str) -> np.ndarray:
        return constant(named(self.before)[name], 1)

    def stored(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return a linear's integers [I, O] and its scales [1, O]."""
        product = named(self.after)[name].input_value(1).get_node()
        return constant(product.input_value(0).get_node(), 0), constant(product, 1)

    def source(self, name: str) -> str:
        """Return what feeds a linear in the float graph."""
        return str(named(self.before)[name].input_value(0).get_node().get_friendly_name())

    def ranges(self) -> dict[str, tuple[float, float]]:
        """Return the range of each rounded activation, by the node of the float graph that gives it."""
        known, found = named(self.before), {}
        for node in self.after.get_ordered_ops():
            if node.get_type_name() == "FakeQuantize":
                name = node.input_value(0).get_node().get_friendly_name()
                assert name in known and node.get_attributes()["levels"] == 256
                ends = [float(constant(node, port)) for port in (1, 2, 3, 4)]
                assert ends[:2] == ends[2:]
                found[name] = (ends[0], ends[1])
        return found

    def factors(self) -> set[str]:
        """Return what is multiplied in products of two activations."""
        found = set()
        for name, node in named(self.after).items():
            if node.get_type_name() == "MatMul" and name not in self.linears():
                for port in (0, 1):
                    side = node.input_value(port).get_node()
                    while side.get_type_name() != "FakeQuantize":
                        side = side.input_value(0).get_node()
                    found.add(side.input_value(0).get_node().get_friendly_name())
        return found

    def smoothing(self) -> dict[str, np.ndarray]:
        """Return what each linear's inputs are multiplied by before they are rounded, where they are."""
        found = {}
        for name, node in self.linears().items():
            while node.get_type_name() in ("MatMul", "FakeQuantize", *int8_static._SHAPING):
                node = node.input_value(0).get_node()
            if "smooth_quant" in node.get_friendly_name():
                found[name] = constant(node, 1).reshape(-1)
        return found


def quantised(house: TinyHouse, levels: int, **options: Any) -> Quantised:
    kept: list[Any] = []
    quantize = int8_static.quantize

    def spy(model: Any, feeds: Any, config: Int8StaticConfig) -> Any:
        kept[:] = [model.clone(), feeds]
        return quantize(model, feeds, config)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(int8_static, "quantize", spy)
        patch.setattr(onnx_graph, "weight_levels", lambda: levels)  # whatever this machine's
        result = house.compress([Int8Static(Int8StaticConfig(examples=EXAMPLES, **options))])
    assert result.lineage[0].notes["linears_quantised"] == 2 * 6 + 2
    return Quantised(before=kept[0], feeds=kept[1], after=openvino.Core().read_model(result.folder / "model.xml"))


Make = Callable[..., Quantised]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Quantise once for each set of options."""
    done: dict[str, Quantised] = {}

    def get(levels: int = 127, **options: Any) -> Quantised:
        key = f"{levels} {sorted(options.items())}"
        if key not in done:
            house = TinyHouse(Path(tmp_path_factory.mktemp("house")), layers=2)
            teach(house)
            done[key] = quantised(house, levels, **options)
        return done[key]

    return get


def scales_of(weight_IO: np.ndarray, levels: float) -> np.ndarray:
    """The docstring's: the largest of each output over the levels, not below a hundredth of the largest of all."""
    largest = np.abs(weight_IO).max(axis=0, keepdims=True)
    return np.maximum(largest, max(0.01 * largest.max(), 8e-5)) / levels


def assert_rounded(integers: np.ndarray, weight: np.ndarray, scales: np.ndarray) -> None:
    """Compare with rint(W / s), whichever way a half is rounded."""
    assert integers.dtype == np.int8
    np.testing.assert_allclose(integers, weight / scales, atol=0.5 + 1e-4)


@pytest.mark.parametrize("levels", [127, 63])
def test_weights_are_the_nearest_integers_with_a_scale_for_each_output(make: Make, levels: int) -> None:
    found, floors = make(levels, smooth=0.0), 0
    for name in found.linears():
        weight, (integers, scales) = found.float_weight(name), found.stored(name)
        expected = scales_of(weight, 127 if levels == 127 else 63.5)
        np.testing.assert_allclose(scales, expected, rtol=1e-5)
        assert_rounded(integers, weight, expected)
        assert np.abs(integers.astype(int)).max() in {127: [127], 63: [63, 64]}[levels]
        floors += int((np.abs(weight).max(axis=0) < 0.009 * np.abs(weight).max()).sum())
    assert floors == 1  # the channel that was made small


def by_halves(low: float, high: float) -> tuple[float, float]:
    """Move one end out until 0 is a step: equation 12's zero point is an integer."""
    low, high = min(low, 0.0), max(high, 0.0)
    step = np.rint(-255 * low / (high - low))
    if 0 < step < 255:
        wider_low, wider_high = high * step / (step - 255), low * (step - 255) / step
        return (wider_low, high) if high - wider_low > wider_high - low else (low, wider_high)
    return low, high


@pytest.mark.parametrize("preset", list(Preset))
def test_ranges_are_means_over_texts_of_each_texts_ends(make: Make, preset: Preset) -> None:
    found = make(smooth=0.0, preset=preset)
    ranges, factors, differ = found.ranges(), found.factors(), 0
    assert len(factors) == 2 * 4 and len(ranges) == 2 * (4 + 4) + 2
    for name, (low, high) in ranges.items():
        values = found.values(name)
        smallest, largest = ([float(end(v)) for v in values] for end in (np.min, np.max))
        if min(smallest) >= 0:
            expected = 0.0, float(np.mean(largest))
        elif preset is Preset.performance or name in factors:
            size = float(np.mean([np.abs(v).max() for v in values]))
            expected = -size * 128 / 127, size
        else:
            expected = by_halves(float(np.mean(smallest)), float(np.mean(largest)))
        assert (low, high) == pytest.approx(expected, rel=1e-4), name
        differ += max(largest) > 1.02 * high
    assert differ > 4  # what is seen beyond the mean of the ends is clipped


@pytest.mark.parametrize("alpha", [0.5, 0.95])
def test_migration_is_equation_4_clipped_and_shared_by_the_readers_of_a_tensor(make: Make, alpha: float) -> None:
    found = make(smooth=alpha)
    smoothing = found.smoothing()
    assert set(smoothing) == set(found.linears())
    readers: dict[str, list[str]] = {}
    for name in smoothing:
        readers.setdefault(found.source(name), []).append(name)
    assert sorted(len(names) for names in readers.values()) == [1] * 8 + [3] * 2  # query, key and value read one tensor
    clipped = 0
    for source, names in readers.items():
        inputs = np.max([np.abs(v).reshape(-1, v.shape[-1]).max(axis=0) for v in found.values(source)], axis=0)
        candidates = []
        for name in names:
            sizes = np.maximum(np.abs(found.float_weight(name)).max(axis=1), 1e-5)
            scale = inputs**alpha / sizes ** (1 - alpha)  # equation 4
            clipped += int((scale > 100).any())
            candidates.append(np.clip(scale, np.quantile(scale, 0.1), 100.0))
        evenest = max(candidates, key=lambda scale: float(scale.min() / scale.max()))
        for name in names:
            np.testing.assert_allclose(smoothing[name], 1 / evenest, rtol=1e-4)
            moved = found.float_weight(name) * evenest[:, None]
            integers, scales = found.stored(name)
            np.testing.assert_allclose(scales, scales_of(moved, 127), rtol=1e-4)
            np.testing.assert_allclose(integers, moved / scales, atol=0.51)
    assert bool(clipped) == (alpha > 0.9)  # the column of 300


def test_biases_take_back_what_rounded_weights_do_to_the_mean_input(make: Make) -> None:
    found = make(smooth=0.0)
    before, after = named(found.before), named(found.after)
    moved = kept = 0
    for name in found.linears():
        (adder,) = (t.get_node() for t in after[name].output(0).get_target_inputs())
        if adder.get_type_name() != "Add" or name == "logits":
            continue
        old, new = (
            next(
                constant(a, port).reshape(-1)
                for port in (0, 1)
                if a.input_value(port).get_node().get_type_name() == "Constant"
            )
            for a in (before[adder.get_friendly_name()], adder)
        )
        integers, scales = found.stored(name)
        inputs = found.values(found.source(name))
        mean = np.mean([v.reshape(-1, v.shape[-1]).mean(axis=0) for v in inputs], axis=0)
        shift = mean @ (found.float_weight(name) - integers * scales)
        if (old == 0).any() or np.abs(shift / old).max() >= 2:
            np.testing.assert_array_equal(new, old)
            kept += 1
        else:
            np.testing.assert_allclose(new - old, shift, rtol=1e-3, atol=1e-5)  # float32 sums beside a 300
            assert np.abs(shift).max() > 1e-3
            moved += 1
    assert moved >= 10 and kept >= 2
