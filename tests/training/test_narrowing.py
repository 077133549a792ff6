"""A projected copy: its parts against their definitions, and how near the whole comes to its source."""

from __future__ import annotations

import pytest
import torch

from compressor.config import StudentConfig
from compressor.errors import Incompatible
from compressor.families import encoder_layers
from compressor.students import student_config
from compressor.surgery import keep_neurons
from compressor.testing.house import TinyHouse
from compressor.testing.tiny import tiny_bert
from compressor.training.narrowing import best_product, directions, narrow_weights


def test_best_product_is_the_truncated_svd() -> None:
    left, right = torch.randn(9, 5), torch.randn(5, 7)
    found = best_product(left, right, 3)
    u, s, vt = torch.linalg.svd(left @ right, full_matrices=False)
    assert torch.allclose(found[0] @ found[1], (u[:, :3] * s[:3]) @ vt[:3], atol=1e-5)


def test_directions_span_the_largest_and_make_the_gain_diagonal() -> None:
    x = torch.randn(500, 8) * torch.tensor([5.0, 4, 3, 2, 1, 0.1, 0.1, 0.1])
    moment, gain = x.T @ x, torch.rand(8) + 0.5
    basis, energy = directions(moment, gain, 5)
    assert torch.allclose(basis.T @ basis, torch.eye(5), atol=1e-5)
    assert energy == pytest.approx(float(torch.linalg.eigvalsh(moment)[-5:].sum() / moment.trace()), abs=1e-5)
    within = basis.T @ (gain[:, None] * basis)
    assert torch.allclose(within, within.diagonal().diag(), atol=1e-5)


def test_a_projected_model_computes_nearly_what_its_source_does(tmp_path) -> None:
    """At equal depth; where the states lie in fewer directions than they have dimensions."""
    torch.manual_seed(0)
    house = TinyHouse(tmp_path)
    wide = tiny_bert(layers=2, hidden=32).eval()
    flat = torch.linalg.qr(torch.randn(32, 32)).Q[:, :16]
    for name, p in wide.named_parameters():  # everything that writes the stream writes 16 of its 32 directions
        if name.endswith(("output.dense.weight", "output.dense.bias")) or "embeddings" in name and "Norm" not in name:
            p.data = (
                (p.data.movedim(0, -1) @ flat @ flat.T).movedim(-1, 0) if "dense" in name else p.data @ flat @ flat.T
            )
    config = student_config(wide.config, StudentConfig(hidden_size=24))
    student = type(wide)(config).eval()
    batches = [house.batch(house.teacher)]
    before = error_of(student, wide, batches[0])
    found = narrow_weights(student, wide, [0, 1], batches)
    assert found.energy > 0.95 and found.drawn == []
    assert error_of(student, wide, batches[0]) < 0.35 * before


def error_of(student, wide, batch):
    with torch.inference_mode():
        mine, theirs = (m(**batch.inputs).logits for m in (student, wide))
    return float((mine - theirs).square().mean())


@pytest.mark.parametrize(("width", "heads", "told"), [(32, 4, "not below"), (24, 2, "as many attention heads")])
def test_what_cannot_be_projected_is_refused(tmp_path, width, heads, told) -> None:
    wide = tiny_bert(layers=2)
    student = type(wide)(student_config(wide.config, StudentConfig(layers=1, hidden_size=width, heads=heads)))
    with pytest.raises(Incompatible, match=told):
        narrow_weights(student, wide, [1], [])


def test_layers_that_lost_neurons_are_refused_and_the_way_out_is_an_option() -> None:
    wide = tiny_bert(layers=2)
    student = type(wide)(student_config(wide.config, StudentConfig(layers=1, hidden_size=16)))
    keep_neurons(wide, encoder_layers(wide)[0], range(8))
    with pytest.raises(Incompatible, match="student.init=random"):
        narrow_weights(student, wide, [1], [])
