"""Tokens as parts of some of their bits each, the lowest first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from latentc.ir.builder import Builder, Var


def parts_of(b: Builder, tokens: Var, bits: Sequence[int]) -> list[Var]:
    """The parts i64[...] of tokens i64[...], the lowest bits first."""
    found, rest = [], tokens
    for count in bits[:-1]:
        above = b.div(rest, b.constant(np.int64(2**count)), out="above")
        found.append(b.op("sub", rest, above * 2**count, out="part"))
        rest = above
    return [*found, rest]


def token_of(b: Builder, parts: Sequence[Var], bits: Sequence[int]) -> Var:
    """The tokens i64[...] of their parts i64[...], the lowest bits first."""
    token, shift = parts[0], bits[0]
    for part, count in zip(parts[1:], bits[1:], strict=True):
        token = b.op("add", token, part * 2**shift, out="token")
        shift += count
    return token
