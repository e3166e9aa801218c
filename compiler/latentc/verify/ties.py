"""Token sequences that differ by a tie: a random number so near the border between two tokens that rounding decides.

Both tokens are then right, and all that follow may differ.

Symbols: B batch, T tokens, N rows of a per-step input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

Array = np.ndarray
Noise = Mapping[str, Array]
MOST = 16  # ties that are decided in one sequence, and trials to decide those of programs of several random numbers


def reconciled(sample: Callable[[Array], Array], uniforms: Array, got: Array, width: float) -> tuple[Array, int, Array]:
    """The tokens i64[B, T] that `sample(uniforms [T, B])` draws with its ties decided as in `got`, their number, and
    the uniforms that decide them so.

    At the first difference, the uniform number of that token is moved by `width` down or up. If that draws the token of
    `got`, it was a tie, and the next difference follows. Otherwise the sequence stays as it is.
    """
    u = uniforms.copy()
    expected = sample(u)
    given_up = np.zeros(len(expected), bool)
    ties = 0
    for _ in range(MOST):
        rows = np.nonzero((expected != got).any(axis=1) & ~given_up)[0]
        if not rows.size:
            break
        first = (expected != got).argmax(axis=1)
        decided, used = expected.copy(), u.copy()
        for step in (-width, width):
            moved = u.copy()
            moved[first[rows], rows] = np.clip(moved[first[rows], rows] + step, 0.0, 1.0)
            other = sample(moved)
            for b in rows:
                if other[b, first[b]] == got[b, first[b]]:
                    decided[b], used[:, b] = other[b], moved[:, b]
        for b in rows:
            ties += int(decided[b, first[b]] == got[b, first[b]])
            given_up[b] = decided[b, first[b]] != got[b, first[b]]
        expected, u = decided, used
    return expected, ties, u


def reconciled_by_trials(
    sample: Callable[[Noise], Array], noise: Noise, axes: Mapping[str, int], got: Array, width: float
) -> tuple[Array, int, dict[str, Array]]:
    """As `reconciled`, of a program in which several random numbers decide a token, or the order of tokens.

    Moves all of `noise` {input: [B, ...] or [N, B, ...]} by `width` up or down at random. A sequence that is then that
    of `got` differed by ties; each counts as one. `axes`: the batch axis of each input.
    """
    rng = np.random.default_rng(0)
    found = {name: a.copy() for name, a in noise.items()}
    expected = sample(noise).copy()
    differ, ties = (expected != got).any(axis=1), 0
    for _ in range(MOST):
        if not differ.any():
            break
        moved = {name: a + rng.choice([-width, width], a.shape).astype(a.dtype) for name, a in noise.items()}
        other = sample(moved)
        for b in np.nonzero(differ & (other == got).all(axis=1))[0]:
            for name, a in moved.items():
                np.moveaxis(found[name], axes[name], 0)[b] = np.moveaxis(a, axes[name], 0)[b]
            expected[b], differ[b] = other[b], False
            ties += 1
    return expected, ties, found
