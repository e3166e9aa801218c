"""A set of tokens in several steps: chosen by confidence, then drawn step by step by evaluations of the set alone.

Symbols: B batch, T tokens of a sample, V values drawn among, G most tokens of a set, m steps of a set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from latentc.components.kit.tokens import draw, filtered, rows
from latentc.components.samplers._masked import Request
from latentc.ir.builder import Builder, Var


def chosen_set(b: Builder, confidence: Var, most: int) -> tuple[Var, Var]:
    """(i64[B, G] the places of the most confident tokens, i64[B, T] the rank of each token) of confidence f32[B, T]."""
    order = b.argsort(b.neg(confidence), out="by_confidence")
    return b.slice(order, axis=1, start=0, stop=most, out="position"), b.argsort(order, out="rank")


def drawn_set(
    b: Builder,
    request: Request,
    tokens: Var,
    first: Var,
    caches: tuple[Var, ...],
    place: tuple[Var, Var],
    made: list[Var],
    row: Mapping[str, Var],
    top_k: int,
) -> Var:
    """tokens i64[B, T] with a set of tokens drawn in m steps, the most confident first.

    first f32[B, T, V or more]: all logits of the step that chose the set. place: see `chosen_set`. made: m numbers of
    tokens of the set, i64[] or i64[B, 1], known after each step. row: tables [m, …] by name.
    """
    position, rank = place
    most = int(position.shape[1])
    nth = b.add(b.mul(position, 0), b.arange(most), out="nth")
    mine = b.less(rank, made[-1], out="mine")
    others = b.op("sub", 1.0, b.cast(mine, to="f32"), out="others")
    counted = b.cast(b.less(nth, made[-1]), to="f32", out="counted")
    x = b.add(b.mul(position, 0), request.mask, out="x")
    # In this order, because OpenVINO drops a slice along other axes before it gathers.
    logits = request.drawable(b, rows(b, first, position, "local"))
    before: Any = 0
    for k, after in enumerate(made):
        at = {key: nth_row(b, table, k) for key, table in row.items()}
        if k:
            masks = [counted, others]
            given = {"state": x, "mask": masks, "position": position, "cache": list(caches)}
            logits = request.logits(b, "recall", at.get("weight"), **given)
        sharp = logits
        for key in ("sharpness", "cooling"):
            if key in at:
                sharp = b.mul(sharp, at[key], out="logits")
        u = b.slice(at["again"], axis=1, start=0, stop=most, out="u")
        drawn = draw(b, filtered(b, sharp, top_k, 1.0), u, out="drawn")
        now = b.logical_and(b.less_equal(before, nth), b.less(nth, after), out="now")
        x, before = b.where(now, drawn, x, out="x"), after
    back = b.minimum(rank, most - 1, out="back")
    return b.where(mine, b.take_along(x, back, axis=1), tokens, out="tokens")  # type: ignore[no-any-return]


def nth_row(b: Builder, table: Var, k: int) -> Var:
    """Row k of a table [m, …]."""
    row = b.slice(table, axis=0, start=k, stop=k + 1)
    return b.reshape(row, shape=table.shape[1:], out="row")  # type: ignore[no-any-return]


__all__ = ["chosen_set", "drawn_set", "nth_row"]
