"""Sequences that part at a tie are reconciled; sequences that differ are not."""

from __future__ import annotations

import numpy as np

from latentc.verify.ties import reconciled

LOGITS = np.random.default_rng(0).standard_normal((8, 8))  # of the next token, by the last


def sample(border: float, u: np.ndarray) -> np.ndarray:
    """A Markov chain of 8 tokens whose cumulative probabilities are off by `border`; u [T, B] -> i64[B, T]."""
    token = np.zeros(u.shape[1], np.int64)
    found = []
    for row in u:
        p = np.exp(LOGITS[token])
        cdf = np.cumsum(p, axis=1) / p.sum(axis=1, keepdims=True) + border
        token = (cdf[:, :-1] < row[:, None]).sum(axis=1)
        found.append(token)
    return np.stack(found, axis=1)


def test_ties() -> None:
    u = np.random.default_rng(1).uniform(size=(400, 64))
    got = sample(1e-4, u)
    assert (sample(0.0, u) != got).any(axis=1).sum() > 5, "rounding parts some of the sequences"
    expected, ties = reconciled(lambda u: sample(0.0, u), u, got, 2e-4)
    assert np.array_equal(expected, got)
    assert 5 < ties < 60


def test_no_tie() -> None:
    u = np.random.default_rng(1).uniform(size=(50, 8))
    got = sample(0.1, u)
    expected, _ = reconciled(lambda u: sample(0.0, u), u, got, 1e-5)
    assert (expected != got).mean() > 0.1


def test_equal_sequences_cost_one_run() -> None:
    runs = []

    def counted(u: np.ndarray) -> np.ndarray:
        runs.append(1)
        return sample(0.0, u)

    u = np.random.default_rng(1).uniform(size=(50, 8))
    assert reconciled(counted, u, sample(0.0, u), 1e-5)[1] == 0
    assert len(runs) == 1
