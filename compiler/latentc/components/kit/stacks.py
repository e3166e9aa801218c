"""Tensors of one shape in one tensor, along a new first axis: what loops carry and read."""

from __future__ import annotations

from collections.abc import Sequence

from latentc.ir.builder import Builder, Var


def entry(b: Builder, stack: Var, i: int, out: str) -> Var:
    """Element i of a stack."""
    one = b.slice(stack, axis=0, start=i, stop=i + 1)
    return b.reshape(one, shape=stack.shape[1:], out=out)


def stacked(b: Builder, values: Sequence[Var], out: str) -> Var:
    """[N, ...] of N tensors of one shape."""
    if not values:
        raise ValueError("nothing to stack")
    one = [b.reshape(x, shape=(1, *x.shape)) for x in values]
    return one[0] if len(one) == 1 else b.concat(*one, axis=0, out=out)
