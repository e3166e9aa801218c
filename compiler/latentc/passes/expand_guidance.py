"""Expands `guided` nodes, classifier-free guidance (Ho & Salimans 2022), into ordinary calls.

batched     one call with a batch of 2B, the conditional half first: reads the weights once
sequential  two calls with a batch of B: half the activations
off         the conditional call alone, as at scale 1

All give the same result if the network treats each row of a batch independently (and for `off`, at scale 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from latentc.ir.builder import Builder, Var, as_tuple
from latentc.ir.core import Module, Node
from latentc.passes.rewrite import rewrite

Mode = Literal["batched", "sequential", "off"]


def expand_guidance(module: Module, mode: Mode = "batched") -> Module:
    """Expands every `guided` node; returns the module unchanged if there are none."""

    def replace(b: Builder, node: Node, operands: list[Var]) -> Sequence[Var] | None:
        if node.op != "guided":
            return None
        return (_batched if mode == "batched" else _separate)(b, node, operands, mode == "off")

    return rewrite(module, replace)


def _operands(node: Node, operands: list[Var]) -> tuple[list[tuple[Var, Var, str]], Var]:
    """[(conditional operand, unconditional operand, kind)] and the scale."""
    kinds = node.attrs["kinds"]
    nulls = iter(operands[len(kinds) : -1])
    pairs = [
        (x, next(nulls) if kind == "conditional" else x, kind)
        for x, kind in zip(operands[: len(kinds)], kinds, strict=True)
    ]
    return pairs, operands[-1]


def _call(b: Builder, node: Node, operands: Sequence[Var]) -> tuple[Var, ...]:
    return as_tuple(b.call(node.attrs["fn"], node.attrs["name"], *operands))


def _batched(b: Builder, node: Node, operands: list[Var], off: bool) -> list[Var]:
    pairs, scale = _operands(node, operands)
    both = [
        c if kind == "carried" or not c.type.rank else b.concat(c, u, axis=0, out=f"{c.value.name}_both")
        for c, u, kind in pairs
    ]
    result = []
    for y, guide in zip(_call(b, node, both), node.attrs["guides"], strict=True):
        if guide != "carried":
            cond, null = _halves(b, y)
            y = _combine(b, cond, null, scale, node.attrs["channels"])
        result.append(y)
    return result


def _separate(b: Builder, node: Node, operands: list[Var], off: bool) -> list[Var]:
    pairs, scale = _operands(node, operands)
    # A carried tensor holds both branches, the conditional one first.
    branches = [_halves(b, c) if kind == "carried" and c.type.rank else (c, u) for c, u, kind in pairs]
    cond = _call(b, node, [c for c, _ in branches])
    null = cond if off else _call(b, node, [u for _, u in branches])
    result = []
    for c, u, guide in zip(cond, null, node.attrs["guides"], strict=True):
        if guide == "carried":
            result.append(b.concat(c, u, axis=0))
        else:
            result.append(c if off else _combine(b, c, u, scale, node.attrs["channels"]))
    return result


def _halves(b: Builder, y: Var) -> Any:
    half = y.shape[0] // 2
    return b.split(y, axis=0, sizes=(half, half), out="cond null")


def _combine(b: Builder, cond: Var, null: Var, scale: Var, channels: int | None) -> Var:
    """null + scale (cond - null); with `channels`, only on that many of axis 1, and the rest stays conditional."""
    rest = None
    if channels is not None and channels < cond.shape[1]:
        sizes = (channels, cond.shape[1] - channels)
        cond, rest = b.split(cond, axis=1, sizes=sizes, out="cond rest")
        null = b.slice(null, axis=1, start=0, stop=channels)
    column = b.reshape(scale, shape=(scale.shape[0], *(1 for _ in cond.shape[1:])), out="scale")
    guided: Var = null + (cond - null) * column
    return guided if rest is None else b.concat(guided, rest, axis=1)
