"""Sequences that part at a tie are reconciled; sequences that differ are not."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from latentc.verify.tokens import reconciled, reconciled_by_trials

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
    expected, ties, decided = reconciled(lambda u: sample(0.0, u), u, got, 2e-4)
    assert np.array_equal(expected, got) and np.array_equal(sample(0.0, decided), got)
    assert 5 < ties < 60


def test_no_tie() -> None:
    u = np.random.default_rng(1).uniform(size=(50, 8))
    got = sample(0.1, u)
    expected, _, _ = reconciled(lambda u: sample(0.0, u), u, got, 1e-5)
    assert (expected != got).mean() > 0.1


def test_equal_sequences_cost_one_run() -> None:
    runs = []

    def counted(u: np.ndarray) -> np.ndarray:
        runs.append(1)
        return sample(0.0, u)

    u = np.random.default_rng(1).uniform(size=(50, 8))
    assert reconciled(counted, u, sample(0.0, u), 1e-5)[1] == 0
    assert len(runs) == 1


def ranked(border: float, noise: Mapping[str, np.ndarray]) -> np.ndarray:
    """i64[B, 8]: the last of 8 numbers [2, B, 8] is by `border` nearer to the front of their order; and a sum [B]."""
    keys = noise["keys"].sum(axis=0) + border * (np.arange(8) == 7)
    return np.argsort(keys, axis=1) + 8 * (noise["shift"] > 0.5)[:, None]


def test_ties_of_several_numbers() -> None:
    rng = np.random.default_rng(0)
    noise = {"keys": rng.normal(size=(2, 2000, 8)), "shift": rng.uniform(size=2000)}
    noise["shift"][:2] = 1e-5, 1 - 1e-5

    def moved(noise: Mapping[str, np.ndarray]) -> np.ndarray:
        assert (noise["shift"] > 0).all() and (noise["shift"] < 1).all()
        return ranked(0.0, noise)

    got, axes = ranked(-1e-4, noise), {"keys": 1, "shift": 0}
    differ = (ranked(0.0, noise) != got).any(axis=1)
    assert 0 < differ.sum() < 20
    expected, ties, decided = reconciled_by_trials(moved, noise, axes, {"shift"}, got, 2e-4)
    assert np.array_equal(expected, got) and np.array_equal(ranked(0.0, decided), got)
    assert ties == differ.sum()
    assert all(np.array_equal(np.moveaxis(decided[n], axes[n], 0)[~differ], np.moveaxis(noise[n], axes[n], 0)[~differ])
               for n in noise)  # fmt: skip
    other = ranked(-0.1, noise)
    expected, _, _ = reconciled_by_trials(moved, noise, axes, {"shift"}, other, 1e-5)
    assert (expected != other).any(axis=1).mean() > 0.05
