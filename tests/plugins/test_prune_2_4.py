"""2:4 pruning: the pattern is counted, the two largest stay, and training does not break it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from compressor.errors import ConfigError, Incompatible
from compressor.surgery import encoder_linears
from compressor.testing import parametrize_with_checks
from compressor.testing.encoders import FAMILIES, house_of, tiny_encoder
from compressor.testing.house import TinyHouse
from compressor.testing.tiny import tiny_bert
from compressor_plugins.int8_dynamic import Int8Dynamic, Int8DynamicConfig
from compressor_plugins.prune_2_4 import Pattern, PruneTwoFour, PruneTwoFourConfig, two_of_four


@parametrize_with_checks([PruneTwoFour(PruneTwoFourConfig()), PruneTwoFour(PruneTwoFourConfig(recover=False))])
def test_promises(method, check, tmp_path) -> None:
    check(method, tmp_path)


def has_pattern(model) -> bool:
    """Tell whether of every four consecutive inputs of every output exactly two are zero."""
    groups = [linear.weight.detach().numpy().reshape(-1, 4) for linear in encoder_linears(model).values()]
    return len(groups) > 0 and all(((group == 0).sum(axis=1) == 2).all() for group in groups)


def test_the_two_largest_of_every_four_stay() -> None:
    weight = np.random.default_rng(0).normal(size=(6, 12)).astype(np.float32)
    expected = np.zeros_like(weight, dtype=bool)
    for row in range(6):
        for start in range(0, 12, 4):
            order = np.argsort(np.abs(weight[row, start : start + 4]))
            expected[row, start + order[:2]] = True
    np.testing.assert_array_equal(two_of_four(torch.from_numpy(weight)).numpy(), expected)
    moved = weight.copy()
    moved[:, 0] += 9
    assert (two_of_four(torch.from_numpy(moved)).numpy() != expected).any()


def test_equal_weights_lose_two_as_well() -> None:
    assert (two_of_four(torch.ones(3, 8)).view(-1, 4).sum(dim=1) == 2).all()
    assert (two_of_four(torch.zeros(3, 8)).view(-1, 4).sum(dim=1) == 2).all()


@pytest.mark.parametrize("recover", [False, True])
def test_every_group_of_every_linear_has_two_zeros(tmp_path, recover) -> None:
    house = TinyHouse(tmp_path)
    result = house.compress([PruneTwoFour(PruneTwoFourConfig(recover=recover))])
    assert has_pattern(result.model)
    notes = result.lineage[0].notes
    assert notes["linears"] == 4 * 6 and notes["zeros"] * 2 == notes["prunable_weights"]
    teacher = encoder_linears(house.teacher.model)
    changed = 0
    for name, linear in encoder_linears(result.model).items():
        pruned = two_of_four(teacher[name].weight)
        assert bool((linear.weight[pruned] == 0).all())  # the same places as before training
        changed += int((linear.weight[~pruned] != teacher[name].weight[~pruned]).sum())
    assert (changed > 0) == recover
    assert house.teacher.model.bert.embeddings.word_embeddings.weight.eq(0).sum() < 40  # nothing but linears


def test_a_run_that_was_killed_goes_on_with_the_same_places() -> None:
    torch.manual_seed(0)
    model = tiny_bert(layers=1)
    pattern = Pattern(encoder_linears(model))
    other = tiny_bert(layers=1)
    again = Pattern(encoder_linears(other))
    other.load_state_dict(model.state_dict())
    again.load_state_dict(pattern.state_dict())
    for linear in encoder_linears(other).values():
        linear.weight.data += 0.1
    again.after_step(1, 2)
    assert has_pattern(other)
    for name, linear in encoder_linears(model).items():
        assert torch.equal(linear.weight == 0, encoder_linears(other)[name].weight == 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="sparse tensor cores are CUDA's")
@pytest.mark.filterwarnings(
    "ignore:The PyTorch API of SparseSemiStructuredTensor:UserWarning"
)  # it is in beta, torch says
def test_cuda_reads_the_pattern_and_the_product_is_the_dense_one(tmp_path) -> None:
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("sparse tensor cores came with Ampere (8.0)")
    house = TinyHouse(tmp_path)
    module = tiny_bert(layers=1, hidden=128, **house.task.config_overrides()).eval()
    house.teacher = replace(house.teacher, module=module, config=module.config)
    result = house.compress([PruneTwoFour(PruneTwoFourConfig(recover=False))])
    inputs = torch.randn(128, 128, generator=torch.Generator().manual_seed(0)).to("cuda", torch.float16)
    linear = encoder_linears(result.model)["bert.encoder.layer.0.attention.self.query"].to("cuda", torch.float16)
    packed = torch.sparse.to_sparse_semi_structured(linear.weight.detach())
    torch.testing.assert_close(packed.to_dense(), linear.weight.detach())  # 2:4 holds everywhere, so nothing is lost
    sparse = torch.nn.functional.linear(inputs, packed)
    dense = inputs.float() @ linear.weight.detach().float().T
    assert dense.abs().max() > 0.1
    torch.testing.assert_close(sparse.float(), dense, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("field", ["hidden_size", "intermediate_size"])
def test_widths_that_four_does_not_divide_are_named(tmp_path, field) -> None:
    house = TinyHouse(tmp_path)
    shape = {"hidden": 30, "heads": 3} if field == "hidden_size" else {"intermediate_size": 50}
    config = tiny_bert(layers=1, **shape).config
    with pytest.raises(Incompatible, match=f"{field} is {getattr(config, field)}"):
        PruneTwoFour(PruneTwoFourConfig()).check(
            replace(house.teacher.blueprint, config=config),
            house.plan(house.student(PruneTwoFour(PruneTwoFourConfig()))),
        )


def test_a_single_odd_linear_is_named(tmp_path) -> None:
    from compressor.families import encoder_layers
    from compressor.surgery import keep_neurons

    house = TinyHouse(tmp_path)
    keep_neurons(house.teacher.model, encoder_layers(house.teacher.model)[2], range(63))
    with pytest.raises(Incompatible, match=r"layer\.2\.output\.dense \(63 inputs\)"):
        house.compress([PruneTwoFour(PruneTwoFourConfig(recover=False))])


def test_without_recovery_nothing_trains_and_its_options_are_refused(tmp_path) -> None:
    assert PruneTwoFour(PruneTwoFourConfig()).capabilities.needs_training
    assert not PruneTwoFour(PruneTwoFourConfig(recover=False)).capabilities.needs_training
    with pytest.raises(Incompatible, match="nothing trains with recover=false"):
        TinyHouse(tmp_path).check([PruneTwoFour(PruneTwoFourConfig(recover=False, alpha=0.5))])


def test_int8_may_follow(tmp_path) -> None:
    chain = [PruneTwoFour(PruneTwoFourConfig(recover=False)), Int8Dynamic(Int8DynamicConfig())]
    assert TinyHouse(tmp_path).compress(chain).lineage[1].notes["linears_quantised"] >= 24


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_taken(tmp_path, family) -> None:
    result = house_of(tmp_path, tiny_encoder(family)).compress([PruneTwoFour(PruneTwoFourConfig())])
    assert has_pattern(result.model)


@pytest.mark.parametrize("options", [{"alpha": 1.5}, {"hidden_weight": -1.0}])
def test_options_out_of_range_are_named(options) -> None:
    (name,) = options
    with pytest.raises(ConfigError, match=name):
        PruneTwoFourConfig(**options)
