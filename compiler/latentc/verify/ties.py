"""Token sequences that differ by a tie: a uniform number so near the border between two tokens that rounding decides.

Both tokens are then right, and all that follow may differ.

Symbols: B batch, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Array = np.ndarray
MOST = 16  # ties that are decided in one sequence


def reconciled(sample: Callable[[Array], Array], uniforms: Array, got: Array, width: float) -> tuple[Array, int]:
    """The tokens i64[B, T] that `sample(uniforms [T, B])` draws with its ties decided as in `got`, and their number.

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
        decided = expected.copy()
        for step in (-width, width):
            moved = u.copy()
            moved[first[rows], rows] = np.clip(moved[first[rows], rows] + step, 0.0, 1.0)
            other = sample(moved)
            for b in rows:
                if other[b, first[b]] == got[b, first[b]]:
                    decided[b], u[first[b], b] = other[b], moved[first[b], b]
        for b in rows:
            ties += int(decided[b, first[b]] == got[b, first[b]])
            given_up[b] = decided[b, first[b]] != got[b, first[b]]
        expected = decided
    return expected, ties


__all__ = ["reconciled"]
