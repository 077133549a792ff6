"""GPTQ against its paper's equations in numpy; packing; what is counted; other families; chains."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from compressor import store
from compressor.api import encoder_linears, input_moments, parameter_count
from compressor.config import StudentConfig
from compressor.errors import ConfigError, Incompatible
from compressor.measure.size import count_parameters
from compressor.runtimes.export import export_onnx
from compressor.testing import parametrize_with_checks
from compressor.testing.encoders import FAMILIES, house_of, tiny_encoder
from compressor.testing.house import TinyHouse
from compressor_plugins.distill import Distill, DistillConfig
from compressor_plugins.gptq import Gptq, GptqConfig, Grid, pack, quantize, round_to_nearest, unpack
from compressor_plugins.tinybert import TinyBert, TinyBertConfig

RNG = np.random.default_rng(5)


@parametrize_with_checks([Gptq(GptqConfig(bits=3, group_size=8, examples=8))])
def test_promises(method, check, tmp_path) -> None:
    check(method, tmp_path)


def correlated(inputs: int, tokens: int, rank: int) -> np.ndarray:
    """Inputs as layers see them: few strong directions, unequal scales, noise; [inputs, tokens]."""
    mixed = RNG.normal(size=(inputs, rank)) @ RNG.normal(size=(rank, tokens))
    return (mixed + 0.3 * RNG.normal(size=(inputs, tokens))) * RNG.uniform(0.2, 3.0, size=(inputs, 1))


def by_the_paper(w, x, bits, percdamp, order):
    """Equations 2 and 3, one input after the other, with no Cholesky factor and no blocks; one grid a row."""
    w, h = w.copy(), 2 * x @ x.T
    low, high = np.minimum(w.min(1), 0), np.maximum(w.max(1), 0)
    scale = ((high - low) / (2**bits - 1)).astype(np.float32).astype(float)
    zero = np.round(-low / scale)
    inverse = np.linalg.inv(h + percdamp * np.diag(h).mean() * np.eye(len(h)))
    codes = np.zeros_like(w)
    for place, q in enumerate(order):
        later = order[place:]
        codes[:, q] = np.clip(np.round(w[:, q] / scale) + zero, 0, 2**bits - 1)
        error = w[:, q] - (codes[:, q] - zero) * scale
        w[:, later] -= np.outer(error / inverse[q, q], inverse[q, later])
        inverse -= np.outer(inverse[:, q], inverse[q]) / inverse[q, q]
    return codes, (codes - zero[:, None]) * scale[:, None]


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("block_size", [1, 5, 128])
def test_codes_equal_the_papers_equations_in_numpy(act_order, block_size) -> None:
    w, x = RNG.normal(size=(7, 24)), correlated(24, 200, 6)
    order = np.argsort(-np.diag(x @ x.T), kind="stable") if act_order else np.arange(24)
    expected_codes, expected = by_the_paper(w, x, 3, 0.01, order)
    grid = Grid(bits=3, group_size=24, symmetric=False)
    options = {"act_order": act_order, "percdamp": 0.01, "block_size": block_size}
    found = quantize(torch.tensor(w), torch.tensor(x @ x.T), grid, **options)
    np.testing.assert_array_equal(found.codes.numpy(), expected_codes)
    np.testing.assert_allclose(found.dequantized().numpy(), expected, rtol=1e-12)
    moved = quantize(torch.tensor(w), torch.eye(24, dtype=torch.float64), grid, **options)
    assert not torch.equal(moved.codes, found.codes)


def test_one_input_is_rounded_and_a_second_one_makes_up_for_it() -> None:
    grids = [Grid(bits=4, group_size=size, symmetric=True) for size in (1, 2)]
    options = {"act_order": False, "percdamp": 0.0}
    w = torch.tensor([[0.83], [-2.1]], dtype=torch.float64)
    alone = quantize(w, torch.tensor([[3.0]], dtype=torch.float64), grids[0], **options)
    plain = round_to_nearest(w, grids[0])
    assert torch.equal(alone.codes, plain.codes)
    # Two inputs: the least-squares answer to an error e in the first is w_2 + e * H_12 / H_22.
    w = torch.tensor([[1.0, 0.27]], dtype=torch.float64)
    h = torch.tensor([[2.0, 1.5], [1.5, 2.0]], dtype=torch.float64)
    both = quantize(w, h, grids[1], **options)
    step = both.scales[0, 0].item()
    first = both.dequantized()[0, 0].item()
    target = 0.27 + (1.0 - first) * 1.5 / 2.0
    assert first == pytest.approx(7 * step) and first != 1.0
    assert both.dequantized()[0, 1].item() == pytest.approx(round(target / step) * step)


@pytest.mark.parametrize(
    ("bits", "group_size", "symmetric", "act_order"),
    [(8, 96, False, True), (4, 96, False, False), (4, 32, False, True), (3, 96, True, True), (2, 32, False, True)],
)
def test_the_output_error_is_below_plain_rounding_with_the_same_grid(bits, group_size, symmetric, act_order) -> None:
    w, x = RNG.normal(size=(48, 96)), correlated(96, 600, 12)
    grid = Grid(bits=bits, group_size=group_size, symmetric=symmetric)
    moments = torch.tensor(x @ x.T)
    ours = quantize(torch.tensor(w), moments, grid, act_order=act_order, percdamp=0.01).dequantized().numpy()
    plain = round_to_nearest(torch.tensor(w), grid).dequantized().numpy()
    errors = [np.linalg.norm(w @ x - q @ x) ** 2 for q in (ours, plain)]
    assert errors[0] < 0.7 * errors[1]


def test_inputs_that_calibration_never_saw_are_rounded_plainly() -> None:
    w, x = RNG.normal(size=(5, 12)), correlated(12, 100, 4)
    x[[2, 7]] = 0
    grid, options = Grid(bits=4, group_size=12, symmetric=False), {"act_order": True, "percdamp": 0.01}
    found = quantize(torch.tensor(w), torch.tensor(x @ x.T), grid, **options)
    plain = round_to_nearest(torch.tensor(w), grid)
    assert torch.equal(found.codes[:, [2, 7]], plain.codes[:, [2, 7]])
    assert not torch.equal(found.codes, plain.codes)
    nothing = quantize(torch.tensor(w), torch.zeros(12, 12).double(), grid, **options)
    assert torch.equal(nothing.codes, plain.codes)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("inputs", [1, 8, 13])
def test_packing_is_undone_by_unpacking(bits, inputs) -> None:
    codes = torch.tensor(RNG.integers(0, 2**bits, size=(6, inputs)), dtype=torch.uint8)
    codes[0, 0] = 2**bits - 1
    packed = pack(codes, bits)
    assert torch.equal(unpack(packed, bits, inputs), codes.float())
    assert packed.dtype == torch.uint8 and packed.shape[1] == -(-inputs * bits // (24 if bits == 3 else 8)) * (
        3 if bits == 3 else 1
    )


@pytest.mark.parametrize("group_size", [8, 12, -1])
@pytest.mark.parametrize("act_order", [False, True])
def test_the_packed_linear_computes_with_the_weights_that_were_found(tmp_path, group_size, act_order) -> None:
    house = TinyHouse(tmp_path)
    result = house.compress([Gptq(GptqConfig(group_size=group_size, act_order=act_order, examples=8))])
    name, linear = next(iter(encoder_linears(house.teacher.model).items()))
    packed = result.model.get_submodule(name)
    # What enters the first layer is the teacher's: its codes can be computed from outside.
    moments = input_moments(house.teacher.model, {name: linear}, calibration_batches(house, 8))[name]
    size = 32 if group_size == -1 else group_size
    grid = Grid(bits=4, group_size=size, symmetric=False)
    expected = quantize(linear.weight.detach().double(), moments, grid, act_order=act_order, percdamp=0.01)
    torch.testing.assert_close(packed.weight, expected.dequantized().float(), rtol=1e-6, atol=1e-8)
    x = torch.randn(3, 32)
    torch.testing.assert_close(packed(x), nn.functional.linear(x, packed.weight, linear.bias))


def calibration_batches(house, examples):
    order = np.random.default_rng(house.seed).permutation(len(house.data.train))[:examples]
    for index in order:
        part = [house.data.train[int(index)]]
        features = house.task.encode(house.teacher.tokenizer, part)
        yield house.task.collate(house.teacher.tokenizer, part, features)


def test_what_is_quantised_is_counted_and_bytes_are_as_predicted(tmp_path) -> None:
    house = TinyHouse(tmp_path)
    result = house.compress([Gptq(GptqConfig(examples=8, group_size=16))])
    eligible = encoder_linears(house.teacher.model)
    notes = result.lineage[0].notes
    assert notes["linears_quantised"] == notes["linears_eligible"] == len(eligible) == 4 * 6
    assert notes["output_error"] < notes["output_error_of_plain_rounding"]
    assert not encoder_linears(result.model)
    before = sum(m.weight.numel() * 4 for m in eligible.values())
    after = sum(b.numel() * b.element_size() for name in eligible for b in result.model.get_submodule(name).buffers())
    groups = sum(m.out_features * m.in_features // 16 for m in eligible.values())
    orders = sum(m.in_features * 4 for m in eligible.values())
    assert after == before // 8 + groups * 5 + orders


def test_linears_that_are_not_plain_are_named(tmp_path) -> None:
    class Other(nn.Linear):
        pass

    house = TinyHouse(tmp_path)
    layer = house.teacher.model.bert.encoder.layer[1]
    for path in ("attention.self.query", "attention.self.key", "intermediate.dense"):
        layer.get_submodule(path).__class__ = Other
    with pytest.raises(Incompatible, match="21 of 24 eligible linears.*layer.1.attention.self.query"):
        house.compress([Gptq(GptqConfig(examples=4))])
    house.compress([Gptq(GptqConfig(examples=4, minimum_share=0.8))])


def test_a_hessian_of_too_few_directions_is_refused_without_damping(tmp_path) -> None:
    with pytest.raises(Incompatible, match="too few directions"):
        TinyHouse(tmp_path).compress([Gptq(GptqConfig(examples=1, percdamp=0.0))])


def test_later_layers_are_calibrated_on_quantised_ones(tmp_path, monkeypatch) -> None:
    import compressor_plugins.gptq as module

    seen = []

    def watched(model, linears, batches):
        seen.append(sum(type(m).__name__ == "PackedLinear" for m in model.modules()))
        return input_moments(model, linears, batches)

    monkeypatch.setattr(module, "input_moments", watched)
    TinyHouse(tmp_path).compress([Gptq(GptqConfig(examples=2))])
    assert seen == [0, 6, 12, 18]


def test_padding_counts_nothing_in_the_moments(tmp_path) -> None:
    house = TinyHouse(tmp_path)
    linears = encoder_linears(house.teacher.model)
    short, long = house.batch(house.teacher), house.batch(house.teacher, extra_padding=5)
    with_padding = input_moments(house.teacher.model, linears, [long])
    for name, moments in input_moments(house.teacher.model, linears, [short]).items():
        torch.testing.assert_close(with_padding[name], moments, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"bits": 5}, "bits=5"),
        ({"group_size": 0}, "group_size=0"),
        ({"percdamp": -0.1}, "percdamp=-0.1"),
        ({"block_size": 0}, "block_size=0"),
        ({"examples": 0}, "examples=0"),
        ({"minimum_share": 0.0}, "minimum_share=0.0"),
    ],
)
def test_options_out_of_range_are_named(options, told) -> None:
    with pytest.raises(ConfigError, match=told):
        GptqConfig(**options)


def test_it_follows_distillation_and_nothing_trains_after_it(tmp_path) -> None:
    house = TinyHouse(tmp_path)
    chain = [Distill(DistillConfig()), Gptq(GptqConfig(examples=4))]
    result = house.compress(chain, StudentConfig(layers=2))
    store.save(result, tmp_path / "saved", house.registry(chain[0]))
    again = store.load(tmp_path / "saved", house.registry(chain[0]))
    np.testing.assert_array_equal(house.logits(again), house.logits(result))
    with pytest.raises(Incompatible, match="cannot be trained"):
        house.check([*chain, Distill(DistillConfig())], StudentConfig(layers=2))


@pytest.mark.parametrize("family", FAMILIES[1:])
def test_other_families_are_quantised_too(tmp_path, family) -> None:
    house = house_of(tmp_path, tiny_encoder(family))
    result = house.compress([Gptq(GptqConfig(bits=8, examples=4))])
    notes = result.lineage[0].notes
    assert notes["linears_quantised"] == notes["linears_eligible"] >= 6
    expected = house.logits(house.teacher)
    assert 0 < np.abs(house.logits(result) - expected).max() < 0.05 * np.abs(expected).max()


def test_a_narrow_student_of_tinybert_is_quantised(tmp_path) -> None:
    house = TinyHouse(tmp_path)
    recipe = TinyBert(TinyBertConfig(general_epochs=1, intermediate_epochs=1))
    result = house.compress([recipe, Gptq(GptqConfig(examples=4))], StudentConfig(layers=2, hidden_size=24))
    assert result.lineage[1].notes["linears_quantised"] == 2 * 6
    export_onnx(result.model, result.tokenizer, tmp_path / "onnx")  # checks its logits against torch's


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_packed_weights_are_counted_as_the_weights_that_they_stand_for(tmp_path, bits) -> None:
    house = TinyHouse(tmp_path)
    result = house.compress([Gptq(GptqConfig(bits=bits))])
    assert count_parameters(result.form, result.model, None) == parameter_count(house.teacher.model)
