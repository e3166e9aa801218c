"""Removes transposes that cancel each other around elementwise ops."""

from __future__ import annotations

from latentc.passes.fuse.engine import Rule
from latentc.passes.fuse.pattern import Match

_UNARY = ("silu", "gelu", "tanh", "sigmoid", "relu", "exp", "neg", "abs", "sqrt", "rsqrt", "cast", "clamp")


def _check(match: Match) -> str | None:
    first, second = match.node("t").attrs["perm"], match.root.attrs["perm"]
    order = [first[axis] for axis in second]
    return None if order == sorted(order) else f"the transposes together are {tuple(order)}"


# Adjacent transposes are joined by cleanup.
TRANSPOSES = Rule(
    "transposes",
    tuple(f"transpose((f := {op}((t := transpose(x)))))" for op in _UNARY),
    lambda b, v: b.op(v.match.node("f").op, v.x, **v.match.node("f").attrs),
    _check,
)
