from __future__ import annotations

import pytest
import torch

from compressor.errors import Incompatible
from compressor.quantised import linears_outside, quantised_share
from compressor.surgery import encoder_linears
from compressor.testing.encoders import FAMILIES, tiny_encoder

ELIGIBLE = [f"layer.{i}" for i in range(10)]


def test_counts_are_what_notes_hold() -> None:
    assert quantised_share("m", ELIGIBLE[:9], ELIGIBLE, 0.9) == {"linears_quantised": 9, "linears_eligible": 10}
    assert quantised_share("m", [*ELIGIBLE, "classifier"], ELIGIBLE, 1.0)["linears_quantised"] == 10


@pytest.mark.parametrize(
    ("done", "share", "told"), [(8, 0.9, "layer.8, layer.9"), (9, 1.0, "9 of 10"), (0, 0.1, "layer.0")]
)
def test_too_small_a_share_names_the_rest(done, share, told) -> None:
    with pytest.raises(Incompatible) as caught:
        quantised_share("m", ELIGIBLE[:done], ELIGIBLE, share)
    assert told in str(caught.value) and "method.m.minimum_share" in str(caught.value)


def test_a_model_without_eligible_linears_is_refused() -> None:
    with pytest.raises(Incompatible, match="0 of 0 eligible linears"):
        quantised_share("m", [], [], 0.9)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_linear_is_inside_or_outside_and_ends_tell_which(family) -> None:
    model = tiny_encoder(family)
    inside, outside = encoder_linears(model), linears_outside(model)
    every = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    assert len(inside) + len(outside) == len(every) and "classifier" in " ".join(outside)
    left_alone = {
        name for name in every if any(name.endswith(end) for end in outside)
    }  # as transformers compares names
    assert left_alone == set(every) - set(inside)
    assert {f"x.{end}" for end in outside}.isdisjoint(inside)
