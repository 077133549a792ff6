from __future__ import annotations

import pytest
import torch
from torch import nn
from toy_task import Toy, sha256_of

from compressor.training import loop
from compressor.training.row_gradients import RowGradient, row_gradients


def test_the_gradient_is_the_dense_one() -> None:
    torch.manual_seed(0)
    dense, rows = nn.Embedding(5000, 8, padding_idx=0), nn.Embedding(5000, 8, padding_idx=0)
    rows.load_state_dict(dense.state_dict())
    with row_gradients([rows], wanted=True) as tables:
        for _ in range(3):
            for _ in range(2):  # two batches an optimizer step
                ids, weights = torch.randint(0, 40, (6, 5)), torch.randn(6, 5, 8)
                for table in (dense, rows):
                    (table(ids) * weights).sum().backward()
            tables[0].collect()
            torch.testing.assert_close(rows.weight.grad, dense.weight.grad)
            torch.testing.assert_close(tables[0].touched().norm(), dense.weight.grad.norm())
            dense.weight.grad = rows.weight.grad = None
            tables[0].clear()
            assert not tables[0].buffer.any()
    assert not rows.sparse


@pytest.mark.parametrize("case", ["small", "frozen", "shared", "not wanted"])
def test_tables_that_do_not_qualify_are_left_alone(case) -> None:
    table = nn.Embedding(100 if case == "small" else 5000, 4)
    modules = [table]
    if case == "frozen":
        table.weight.requires_grad_(False)
    if case == "shared":
        head = nn.Linear(4, 5000, bias=False)
        head.weight = table.weight
        modules.append(head)
    with row_gradients(modules, wanted=case != "not wanted") as tables:
        assert tables == [] and not table.sparse


def test_a_table_that_the_loss_reads_whole_gets_a_dense_gradient() -> None:
    table = nn.Embedding(5000, 4)
    with row_gradients([table], wanted=True) as tables:
        (table(torch.tensor([1, 2])).sum() + table.weight.square().sum()).backward()
        tables[0].collect()
        expected = 2 * table.weight.detach()
        expected[1:3] += 1
        torch.testing.assert_close(tables[0].touched(), expected)


def test_training_is_the_same_with_and_without(monkeypatch) -> None:
    toy = Toy()
    with_rows = toy.fit(toy.model(vocabulary=5000))[0]
    assert RowGradient  # the table above is large enough to get one
    real = loop.row_gradients
    monkeypatch.setattr(loop, "row_gradients", lambda modules, wanted: real(modules, wanted=False))
    without = toy.fit(toy.model(vocabulary=5000))[0]
    for name, value in without.state_dict().items():
        torch.testing.assert_close(with_rows.state_dict()[name], value, rtol=1e-3, atol=1e-4, msg=name)
    assert len({sha256_of(with_rows)}) == 1
