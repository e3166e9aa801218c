"""Token sequences that part at a tie: where a uniform number lies so near the border between two tokens that rounding
decides, both are right, and everything behind it differs.

Symbols: B batch, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

Array = np.ndarray
MOST = 16  # ties of one sequence


def reconciled(
    sample: Callable[..., Array], inputs: Mapping[str, Array], uniforms: str, got: Array, width: float
) -> tuple[Array, int]:
    """What `sample` draws if its ties are decided as in `got`, i64[B, T], and how many ties there were.

    Where the two part, the uniform number of that token ([T, B] in `inputs[uniforms]`) is moved by `width` down or up;
    if that gives the token of `got`, it was a tie and the next difference is looked for. Otherwise the sequence stays.
    """
    u = inputs[uniforms].copy()
    expected = sample(*inputs.values())
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
            other = sample(*{**inputs, uniforms: moved}.values())
            for b in rows:
                if other[b, first[b]] == got[b, first[b]]:
                    decided[b], u[first[b], b] = other[b], moved[first[b], b]
        for b in rows:
            ties += int(decided[b, first[b]] == got[b, first[b]])
            given_up[b] = decided[b, first[b]] != got[b, first[b]]
        expected = decided
    return expected, ties


__all__ = ["reconciled"]
