from __future__ import annotations

import pytest
import torch
from torch import nn

from compressor.training.quick_dropout import drop, quick_dropout


@pytest.mark.parametrize("rate", [0.1, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rate_scale_and_gradient_are_those_of_dropout(rate, dtype) -> None:
    torch.manual_seed(0)
    values = torch.ones(401, 501, dtype=dtype, requires_grad=True)
    out = drop(values, rate)
    kept = out != 0
    assert abs(float(kept.float().mean()) - (1 - rate)) < 5e-3
    torch.testing.assert_close(out[kept].float(), torch.full_like(out[kept], 1 / (1 - rate)).float(), rtol=8e-3, atol=0)
    out.sum().backward()
    assert torch.equal(values.grad, out.detach())


def test_neighbours_are_independent() -> None:
    torch.manual_seed(0)
    kept = (drop(torch.ones(100_000), 0.3) != 0).float() - 0.7
    for distance in (1, 2, 3, 4):
        assert abs(float((kept[distance:] * kept[:-distance]).mean())) < 3e-3


def test_the_draws_come_from_torchs_generator() -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = drop(torch.ones(1000), 0.2)
    assert not torch.equal(first, drop(torch.ones(1000), 0.2))
    torch.set_rng_state(state)
    assert torch.equal(first, drop(torch.ones(1000), 0.2))


def test_modules_are_left_as_they_were() -> None:
    class Own(nn.Dropout):
        pass

    module = nn.Sequential(nn.Dropout(0.5), Own(0.5), nn.Dropout(0.0))
    with quick_dropout([module, module], wanted=True):
        assert "forward" in vars(module[0]) and "forward" not in vars(module[1])
        assert torch.equal(module.eval()(torch.ones(50)), torch.ones(50))
        assert not torch.equal(module.train()(torch.ones(50)), torch.ones(50))
    assert not any("forward" in vars(m) for m in module)
    with quick_dropout([module], wanted=False):
        assert not any("forward" in vars(m) for m in module)
