"""Products of two matrices: errors in closed form and against numpy, ranks, parameters, other families, chains."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from compressor import store
from compressor.api import encoder_linears, layer_parts, parameter_count
from compressor.config import StudentConfig
from compressor.errors import ConfigError, Incompatible
from compressor.runtimes.export import export_onnx
from compressor.testing import parametrize_with_checks
from compressor.testing.encoders import FAMILIES, house_of, tiny_encoder
from compressor.testing.house import TinyHouse
from compressor_plugins.distill import Distill, DistillConfig
from compressor_plugins.factorize import Factorize, FactorizeConfig, Targets, Weighting, factors, square_root, weighted
from compressor_plugins.gptq import Gptq, GptqConfig

RNG = np.random.default_rng(11)


@parametrize_with_checks([Factorize(FactorizeConfig(linears=Targets.all, embeddings=True, examples=8))])
def test_promises(method, check, tmp_path) -> None:
    check(method, tmp_path)


def approximated(w, moments, rank, damping=1e-12):
    root = None if moments is None else square_root(torch.tensor(moments), damping)
    left, values, right = torch.linalg.svd(weighted(torch.tensor(w), root), full_matrices=False)
    up, down = factors(left, values, right, root, rank)
    assert up.shape == (len(w), rank) and down.shape == (rank, w.shape[1])
    return (up @ down).numpy(), values.numpy()


@pytest.mark.parametrize("rank", [1, 4, 9])
def test_without_data_the_error_is_the_tail_of_the_singular_values(rank) -> None:
    w = RNG.normal(size=(12, 9))
    cut, values = approximated(w, None, rank)
    assert np.linalg.norm(w - cut) ** 2 == pytest.approx((np.linalg.svd(w)[1][rank:] ** 2).sum(), abs=1e-12)
    np.testing.assert_allclose(values, np.linalg.svd(w)[1])
    assert np.linalg.matrix_rank(cut) == rank


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_with_data_the_output_error_is_the_tail_and_no_product_does_better(rank) -> None:
    w = RNG.normal(size=(12, 9))
    x = RNG.normal(size=(9, 4)) @ RNG.normal(size=(4, 60)) + 0.2 * RNG.normal(size=(9, 60))
    cut, values = approximated(w, x @ x.T, rank)
    error = np.linalg.norm(w @ x - cut @ x) ** 2
    assert error == pytest.approx((values[rank:] ** 2).sum(), rel=1e-6)
    # The best approximation of the outputs by any matrix of this rank, by Eckart and Young on W X itself:
    assert error == pytest.approx((np.linalg.svd(w @ x)[1][rank:] ** 2).sum(), rel=1e-6)
    plain, _ = approximated(w, None, rank)
    assert error < 0.9 * np.linalg.norm(w @ x - plain @ x) ** 2


def test_counts_weigh_tokens_as_one_hot_inputs_do() -> None:
    table, counts = RNG.normal(size=(20, 6)), RNG.integers(0, 50, size=20).astype(float)
    by_counts, _ = approximated(table.T, counts, 2)
    one_hot, _ = approximated(table.T, np.diag(counts + 1), 2)
    np.testing.assert_allclose(by_counts, one_hot, atol=1e-8)
    errors = ((by_counts.T - table) ** 2).sum(1)
    plain = ((approximated(table.T, None, 2)[0].T - table) ** 2).sum(1)
    assert (errors * (counts + 1)).sum() < (plain * (counts + 1)).sum()


def test_nothing_seen_means_no_weighting() -> None:
    w = RNG.normal(size=(5, 4))
    np.testing.assert_allclose(approximated(w, np.zeros((4, 4)), 2)[0], approximated(w, None, 2)[0], atol=1e-12)


def test_ranks_follow_the_options() -> None:
    values = torch.tensor([4.0, 2.0, 1.0, 1.0]).double()  # squares 16, 4, 1, 1
    assert FactorizeConfig(rank=3).choose(values, 4, 8) == 3
    assert FactorizeConfig(rank=9).choose(values, 4, 8) == 4
    energies = [FactorizeConfig(energy=e, multiple_of=1) for e in (0.5, 16 / 22, 0.73, 0.95, 0.999)]
    assert [options.choose(values, 4, 8) for options in energies] == [1, 1, 2, 3, 4]
    assert FactorizeConfig(ratio=0.75, multiple_of=1).choose(values, 30, 60) == 15
    assert FactorizeConfig(multiple_of=1).choose(values, 30, 60) == 10


def test_ranks_are_multiples_that_groups_fit_into() -> None:
    values = torch.linspace(2, 0, 384).double()
    assert FactorizeConfig(multiple_of=1).choose(values, 384, 1536) == 153
    assert FactorizeConfig().choose(values, 384, 1536) == FactorizeConfig().choose(values, 1536, 384) == 128
    assert FactorizeConfig(multiple_of=8).choose(values, 384, 1536) == 152
    # Narrow matrices have ranks below a multiple: of a half, a quarter ... of it, and at least 1.
    assert [FactorizeConfig(ratio=r).choose(values, 32, 64) for r in (0.9, 0.5, 0.1, 0.01)] == [16, 8, 2, 1]
    # An energy is a floor, so its ranks go up.
    least = FactorizeConfig(energy=0.9, multiple_of=1).choose(values, 384, 1536)
    rank = FactorizeConfig(energy=0.9).choose(values, 384, 1536)
    assert least % 32 and rank == 32 * (least // 32 + 1)
    kept = values.square().cumsum(0) / values.square().sum()
    assert kept[rank - 1] >= 0.9 > kept[least - 2]


@pytest.mark.parametrize(
    ("targets", "each_layer"),
    [(Targets.ffn, 2 * (64 * 32 - 6 * 96)), (Targets.attention, 4 * (32 * 32 - 6 * 64)), (Targets.all, None)],
)
@pytest.mark.parametrize("weighting", Weighting)
def test_parameters_are_as_predicted(tmp_path, targets, each_layer, weighting) -> None:
    house = TinyHouse(tmp_path)
    options = FactorizeConfig(linears=targets, rank=6, weighting=weighting, examples=4)
    method = Factorize(options)
    assert method.capabilities.needs_calibration == (weighting is Weighting.activations)
    result = house.compress([method])
    each_layer = each_layer or 2 * (64 * 32 - 6 * 96) + 4 * (32 * 32 - 6 * 64)
    assert parameter_count(house.teacher.model) - parameter_count(result.model) == 4 * each_layer
    notes = result.lineage[0].notes
    assert notes["parameters_saved"] == 4 * each_layer
    assert notes["matrices_replaced"] == notes["matrices_chosen"] == {"ffn": 8, "attention": 16, "all": 24}[targets]
    parts = layer_parts(result.model, result.model.bert.encoder.layer[0])
    assert isinstance(parts.ffn_in, nn.Sequential) == (targets is not Targets.attention)


def test_a_matrix_that_would_not_get_smaller_stays(tmp_path) -> None:
    # rank 20: 20 * (32 + 64) < 32 * 64, but 20 * (32 + 32) > 32 * 32
    result = TinyHouse(tmp_path).compress([Factorize(FactorizeConfig(linears=Targets.all, rank=20, examples=4))])
    notes = result.lineage[0].notes
    assert (notes["matrices_replaced"], notes["matrices_chosen"]) == (8, 24)
    assert type(result.model.bert.encoder.layer[0].attention.self.query) is nn.Linear
    with pytest.raises(Incompatible, match="none of 24 chosen matrices"):
        TinyHouse(tmp_path / "b").compress([Factorize(FactorizeConfig(linears=Targets.all, energy=0.9999, examples=4))])


def test_almost_all_energy_is_almost_the_same_model(tmp_path) -> None:
    house = TinyHouse(tmp_path)
    for parameter in house.teacher.model.bert.encoder.layer.parameters():
        if parameter.dim() == 2:  # of rank 5, so that a product can hold it whole
            left, values, right = torch.linalg.svd(parameter.data, full_matrices=False)
            parameter.data = left[:, :5] * values[:5] @ right[:5]
    result = house.compress([Factorize(FactorizeConfig(linears=Targets.all, rank=6, examples=8))])
    np.testing.assert_allclose(house.logits(result), house.logits(house.teacher), atol=1e-4)
    assert result.lineage[0].notes["energy_lost"] < 1e-8


def test_the_table_is_factorised_and_padding_stays_padding(tmp_path) -> None:
    house = TinyHouse(tmp_path)
    result = house.compress([Factorize(FactorizeConfig(linears=Targets.none, embeddings=True, rank=8))])
    product, table = result.model.get_input_embeddings(), house.teacher.model.get_input_embeddings()
    rows = table.num_embeddings
    assert product[0].weight.shape == (rows, 8) and product[1].weight.shape == (32, 8) and product[0].padding_idx == 0
    assert parameter_count(house.teacher.model) - parameter_count(result.model) == rows * 32 - 8 * (rows + 32)
    with pytest.raises(Incompatible, match="Sequential already"):
        again = Factorize(FactorizeConfig(linears=Targets.none, embeddings=True, rank=4))
        house.compress([Factorize(FactorizeConfig(linears=Targets.none, embeddings=True, rank=8)), again])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"ratio": 0.0}, "ratio=0.0"),
        ({"energy": 1.0}, "energy=1.0"),
        ({"rank": 0}, "rank=0"),
        ({"multiple_of": 0}, "multiple_of=0"),
        ({"rank": 4, "multiple_of": 8}, "rank=4 multiple_of=8"),
        ({"ratio": 0.5, "rank": 4}, "ratio=0.5 with rank"),
        ({"damping": 0.0}, "damping=0.0"),
        ({"examples": 0}, "examples=0"),
        ({"linears": Targets.none}, "linears=none"),
    ],
)
def test_options_out_of_range_are_named(options, told) -> None:
    with pytest.raises(ConfigError, match=told):
        FactorizeConfig(**options)


def test_a_rank_that_saves_nothing_is_refused_before_work(tmp_path) -> None:
    house = TinyHouse(tmp_path)
    with pytest.raises(Incompatible, match="rank=16 saves nothing"):
        house.check([Factorize(FactorizeConfig(linears=Targets.attention, rank=16))])
    house.check([Factorize(FactorizeConfig(linears=Targets.ffn, rank=16))])


def test_distillation_recovers_and_packed_integers_follow(tmp_path) -> None:
    house = TinyHouse(tmp_path)
    chain = [
        Factorize(FactorizeConfig(embeddings=True, rank=6, examples=4)),
        Distill(DistillConfig()),
        Gptq(GptqConfig(examples=4)),
    ]
    result = house.compress(chain, StudentConfig())
    assert result.lineage[2].notes["linears_quantised"] == 4 * (4 + 2 * 2)
    assert not encoder_linears(result.model)
    store.save(result, tmp_path / "saved", house.registry(chain[0]))
    again = store.load(tmp_path / "saved", house.registry(chain[0]))
    np.testing.assert_array_equal(house.logits(again), house.logits(result))
    with pytest.raises(Incompatible, match="replaced modules"):
        house.check([chain[0], Distill(DistillConfig())], StudentConfig(layers=2))


def test_it_exports_to_onnx(tmp_path) -> None:
    house = TinyHouse(tmp_path)
    result = house.compress([Factorize(FactorizeConfig(embeddings=True, rank=6, examples=4))])
    export_onnx(result.model, result.tokenizer, tmp_path / "onnx")  # checks its logits against torch's


@pytest.mark.parametrize("family", FAMILIES[1:])
def test_other_families_are_factorised_too(tmp_path, family) -> None:
    house = house_of(tmp_path, tiny_encoder(family))
    method = Factorize(FactorizeConfig(linears=Targets.all, embeddings=True, rank=7, examples=4))
    result = house.compress([method])
    notes = result.lineage[0].notes
    assert notes["matrices_replaced"] == notes["matrices_chosen"] >= 7
    store.save(result, tmp_path / "saved", house.registry(method))
    again = store.load(tmp_path / "saved", house.registry(method))
    np.testing.assert_array_equal(house.logits(again), house.logits(result))
