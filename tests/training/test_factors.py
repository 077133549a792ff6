"""Factorised embeddings against numpy: Eckart and Young, exactness at full width, least squares."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compressor.training.factors import factorise_embeddings, refit_linear
from compressor.training.starts import Tables, truncated_svd

RNG = np.random.default_rng(5)


def test_the_error_of_the_truncated_svd_is_that_of_eckart_and_young() -> None:
    matrix = RNG.normal(size=(40, 12)) @ np.diag(np.linspace(3, 0.1, 12))
    left, right = truncated_svd(torch.tensor(matrix), 5)
    values = np.linalg.svd(matrix, compute_uv=False)
    error = np.linalg.norm(matrix - left.numpy() @ right.numpy())
    assert error == pytest.approx(np.sqrt((values[5:] ** 2).sum()), rel=1e-9)
    np.testing.assert_allclose(np.linalg.norm(left.numpy(), axis=0), values[:5], rtol=1e-9)  # U_k S_k
    np.testing.assert_allclose(right.numpy() @ right.numpy().T, np.eye(5), atol=1e-9)


def norm(rows, gamma=1.0, beta=0.0):
    centred = rows - rows.mean(axis=-1, keepdims=True)
    return gamma * centred / centred.std(axis=-1, keepdims=True) + beta


def tables(width=12):
    word, position, kind = (RNG.normal(size=(n, width)) for n in (30, 9, 2))
    return word, position * 0.3, kind * 0.3, RNG.normal(size=width) + 2, RNG.normal(size=width)


def factorised(word, position, kind, gamma, beta, size, counts=None):
    factors = factorise_embeddings(
        Tables(*(torch.tensor(t) for t in (word, position, kind))),
        torch.tensor(gamma),
        torch.tensor(beta),
        size=size,
        token_counts=torch.ones(len(word)) if counts is None else torch.tensor(counts),
        position_counts=torch.ones(len(position)),
    )
    inner = factors.word_VE[:, None] + factors.position_PE[None] + factors.type_KE[1]
    return norm(inner.double().numpy()) @ factors.projection_HE.numpy().T + factors.bias_H.numpy()


def test_factorised_at_full_width_the_norm_before_the_projection_equals_the_norm_after_it() -> None:
    word, position, kind, gamma, beta = tables()
    expected = norm(word[:, None] + position[None] + kind[1], gamma, beta)
    np.testing.assert_allclose(factorised(word, position, kind, gamma, beta, 12), expected, atol=1e-5)


def test_a_narrow_table_serves_the_tokens_that_are_used() -> None:
    word, position, kind, gamma, beta = tables()
    expected = norm(word[:, None] + position[None] + kind[1], gamma, beta)
    counts = np.where(np.arange(30) < 4, 10_000, 0)
    seldom = np.abs(factorised(word, position * 0, kind * 0, gamma, beta, 6) - norm(word, gamma, beta)[:, None])[
        :4
    ].mean()
    often = np.abs(factorised(word, position * 0, kind * 0, gamma, beta, 6, counts) - norm(word, gamma, beta)[:, None])[
        :4
    ].mean()
    assert often < seldom / 5
    assert (
        np.abs(factorised(word, position, kind, gamma, beta, 6) - expected).mean() > 0.05
    )  # five directions are not twelve


def test_refitting_is_least_squares_and_unseen_directions_keep_the_start() -> None:
    states, targets = RNG.normal(size=(50, 4)), RNG.normal(size=(50, 7))
    pairs = [
        (torch.tensor(states[:20]), torch.tensor(targets[:20])),
        (torch.tensor(states[20:]), torch.tensor(targets[20:])),
    ]
    weight, bias = refit_linear(pairs, torch.zeros(7, 4).double(), torch.zeros(7).double(), pull=0.0)
    best = np.linalg.lstsq(np.column_stack([states, np.ones(50)]), targets, rcond=None)[0]
    np.testing.assert_allclose(np.vstack([weight.numpy().T, bias.numpy()]), best, atol=1e-9)
    states[:, 3] = 0
    start = torch.tensor(RNG.normal(size=(7, 4)))
    weight, _ = refit_linear([(torch.tensor(states), torch.tensor(targets))], start, torch.zeros(7).double())
    np.testing.assert_allclose(weight[:, 3].numpy(), start[:, 3].numpy(), atol=1e-9)
