"""Computes nodes of a loop's body for all steps at once.

A value that is the same for every sample (the time, the null class) has one row per step, another has steps × batch
rows; a tensor of both branches of guidance consists of two such parts. Nodes that treat each row of a batch
independently are applied to the rows, part by part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from latentc.ir.builder import Builder, Var, as_tuple
from latentc.ir.core import Node, Value
from latentc.ir.types import Dim, Sym
from latentc.passes.batchwise import ELEMENTWISE, Batchwise, aligned, batched, fixed


@dataclass(frozen=True, eq=False)
class _Part:
    """`size` * B rows per step, [trip * size * B, ...]; if all rows of a step are the `same`, one: [trip, ...]."""

    size: int
    same: bool
    rows: Var


@dataclass(frozen=True, eq=False)
class _Row:
    """A tensor without batch that differs from step to step: [trip, ...]."""

    rows: Var


# A value in all steps: one tensor for all of them (no batch), one per step (no batch), or the parts of its batch.
_Known = Var | _Row | list[_Part]


def stackable(batchwise: Batchwise, varying: Iterable[Value]) -> Callable[[Node], bool]:
    """A predicate that tells, for the nodes of a body in order, which of them `Steps` can compute.

    `varying` are the inputs of the body without batch that differ from step to step.
    """
    rows = set(varying)

    def movable(node: Node) -> bool:
        by_step = [v for v in node.inputs if v in rows]
        if any(v not in rows and not fixed(v) and not batched(v) for v in node.inputs):
            return False
        if node.op == "broadcast_to" and fixed(node.inputs[0]) and batched(node.outputs[0]):
            return _spreads(node)
        if node.op == "concat" and batched(node.outputs[0]) and not node.attrs["axis"]:
            return not by_step
        if not by_step:
            return batchwise.node(node)
        (out, *more) = node.outputs
        if node.op not in ELEMENTWISE or more:
            return False
        if fixed(out) and all(map(fixed, node.inputs)) and all(v.type.rank == out.type.rank for v in by_step):
            rows.add(out)
            return True
        return batched(out) and aligned(node) and not any(v.type.rank for v in by_step)

    return movable


def _spreads(node: Node) -> bool:
    """True if a broadcast only repeats a tensor for every sample."""
    x, out = node.inputs[0].type, node.outputs[0].type
    return x.shape in (out.shape[1:], (1, *out.shape[1:]))


class Steps:
    """Computes values of a loop's body for all steps; appends to `b`, the function of the loop.

    `trip` is the number of steps. The batch size is read from `like`, a tensor [B, ...].
    """

    def __init__(self, b: Builder, trip: int, like: Var) -> None:
        self.b, self.trip, self.like = b, trip, like
        self.batch: Sym = like.shape[0]
        self._known: dict[Value, _Known] = {}
        self._waiting: dict[Value, Callable[[], _Known]] = {}  # computed at first use
        self._index: dict[int, Var] = {}
        self._spread: dict[tuple[Value, int], Var] = {}

    # ---- inputs of the body

    def index(self, formal: Value) -> None:
        """Declares that `formal` is the number of the step."""
        self._waiting[formal] = lambda: _Row(self.b.constant(np.arange(self.trip), out="step"))

    def invariant(self, formal: Value, operand: Var) -> None:
        """Declares that `formal` is `operand` in every step."""
        if fixed(formal):
            self._known[formal] = operand
            return

        def tiled() -> _Known:
            size, *rest = operand.shape
            one = self.b.reshape(operand, shape=(1, size, *rest))
            every = self.b.broadcast_to(one, shape=(self.trip, size, *rest))
            rows = self.b.reshape(every, shape=(self.trip * size, *rest), out=f"{formal.name}_steps")
            return [_Part(size.factor, False, rows)]

        self._waiting[formal] = tiled

    def row(self, formal: Value, table: Var) -> None:
        """Declares that `formal` is a row of `table`."""
        if fixed(formal):
            self._known[formal] = _Row(table)
            return

        def flat() -> _Known:
            _, size, *rest = table.shape
            return [_Part(size.factor, False, self.b.reshape(table, shape=(self.trip * size, *rest)))]

        self._waiting[formal] = flat

    def _get(self, value: Value) -> _Known:
        if value not in self._known:
            self._known[value] = self._waiting[value]()
        return self._known[value]

    # ---- nodes

    def node(self, node: Node) -> None:
        """Computes a node for all steps, after its operands."""
        out = node.outputs[0]
        if batched(out):
            if node.op == "broadcast_to" and fixed(node.inputs[0]):
                self._known[out] = [_Part(_factor(out), True, self._repeated(node))]
            elif node.op == "full":
                value = np.full([self.trip, *map(int, out.type.shape[1:])], node.attrs["value"])  # type: ignore[arg-type]
                rows = self.b.constant(value, out.type.dtype, out=out.name)
                self._known[out] = [_Part(_factor(out), True, rows)]
            elif node.op == "concat" and not node.attrs["axis"]:
                self._known[out] = [part for v in node.inputs for part in self._parts(v)]
            else:
                self._known.update(zip(node.outputs, self._by_parts(node), strict=True))
            return
        if node.op == "constant":
            self._known[out] = self.b.constant(node.attrs["value"], node.attrs["dtype"], out=out.name)
            return
        operands = [self._get(v) for v in node.inputs]
        plain = [x.rows if isinstance(x, _Row) else x for x in operands]
        outs = self._apply(node, plain, None)
        some = any(isinstance(x, _Row) for x in operands)
        self._known.update(zip(node.outputs, map(_Row, outs) if some else outs, strict=True))

    def _parts(self, value: Value) -> list[_Part]:
        known = self._get(value)
        assert isinstance(known, list), value.name
        return known

    def _repeated(self, node: Node) -> Var:
        """The rows [trip, ...] of a tensor without batch that the node repeats for every sample."""
        known, (_, *rest) = self._get(node.inputs[0]), node.outputs[0].type.shape
        out = node.outputs[0].name
        if isinstance(known, _Row):
            return self._shaped(known.rows, (self.trip, *rest))
        assert isinstance(known, Var)
        one = self._shaped(known, (1, *rest))
        spread: Var = self.b.broadcast_to(one, shape=(self.trip, *rest), out=out)
        return spread

    def _shaped(self, x: Var, shape: Sequence[Dim]) -> Var:
        return x if x.shape == tuple(shape) else self.b.reshape(x, shape=tuple(shape), out=x.value.name)

    def _by_parts(self, node: Node) -> list[list[_Part]]:
        """Applies a node that treats each row independently to each part; equal parts are computed once."""
        operands = node.inputs[:1] if node.op == "broadcast_to" else node.inputs  # the rows have a batch already
        lists = self._matched([self._parts(v) for v in operands if batched(v)])
        done: dict[Any, list[Var]] = {}
        results: list[list[_Part]] = [[] for _ in node.outputs]
        for column in zip(*lists, strict=True):
            size, same = column[0].size, all(p.same for p in column)
            key = (0 if same else size, *(p.rows.value for p in column))
            if key not in done:
                parts = iter(column)
                ins = [self._operand(v, next(parts) if batched(v) else None, size, same, node) for v in operands]
                done[key] = self._apply(node, ins, self.trip if same else self.trip * size * self.batch)
            for result, rows in zip(results, done[key], strict=True):
                result.append(_Part(size, same, rows))
        return results

    def _operand(self, value: Value, part: _Part | None, size: int, same: bool, node: Node) -> Var:
        """An operand for one part of a node's batch."""
        if part is not None:
            return part.rows if part.same == same else self._for_all(part.rows, size)
        known = self._get(value)
        if not isinstance(known, _Row):
            assert isinstance(known, Var)
            return known
        rows = known.rows if same else self._for_all(known.rows, size)
        return self._shaped(rows, (rows.shape[0], *[1] * (node.outputs[0].type.rank - 1)))

    def _apply(self, node: Node, operands: Sequence[Any], lead: Dim | None) -> list[Var]:
        """Appends a node; `lead` is the number of rows of its batch, if it has one."""
        names = " ".join(o.name for o in node.outputs)
        if node.op == "call":
            outs = self.b.call(node.attrs["fn"], node.attrs["name"], *operands, out=names)
        else:
            attrs = {k: _with_lead(v, lead) for k, v in node.attrs.items()}
            outs = self.b.op(node.op, *operands, out=names, **attrs)
        return list(as_tuple(outs))

    # ---- parts

    def _matched(self, lists: Sequence[list[_Part]]) -> Sequence[list[_Part]]:
        """Parts of equal sizes: an operand of one `same` part is repeated to match the others, else all are joined."""
        sizes = max(([p.size for p in parts] for parts in lists), key=len)
        matched = []
        for parts in lists:
            if len(parts) == 1 and parts[0].same:
                parts = [_Part(size, True, parts[0].rows) for size in sizes]
            if [p.size for p in parts] != sizes:
                return [[self._joined(parts)] for parts in lists]
            matched.append(parts)
        return matched

    def _joined(self, parts: Sequence[_Part]) -> _Part:
        size = sum(p.size for p in parts)
        rows = self._stacked(parts, parts[0].rows.value.name)
        return _Part(size, False, self._shaped(rows, (self.trip * size * self.batch, *rows.shape[2:])))

    def _stacked(self, parts: Sequence[_Part], name: str) -> Var:
        """Parts as one tensor [trip, size * B, ...]."""
        columns = []
        for part in parts:
            rows = self._for_all(part.rows, part.size) if part.same else part.rows
            columns.append(self.b.reshape(rows, shape=(self.trip, part.size * self.batch, *rows.shape[1:]), out=name))
        whole: Var = columns[0] if len(columns) == 1 else self.b.concat(*columns, axis=1, out=name)
        return whole

    def _for_all(self, rows: Var, size: int) -> Var:
        """Rows [trip, ...] repeated for size * B samples: [trip * size * B, ...]."""
        key = (rows.value, size)
        if key not in self._spread:
            if size not in self._index:
                count = self.trip * size
                zeros = self.b.full(self.like, shape=(), value=0, dtype="i64", factor=count)
                grid = self.b.reshape(zeros, shape=(self.trip, size * self.batch))
                steps = self.b.add(grid, self.b.constant(np.arange(self.trip)[:, None], out="step"))
                self._index[size] = self.b.reshape(steps, shape=(count * self.batch,), out="step_of_row")
            self._spread[key] = self.b.take(rows, self._index[size], axis=0, out=f"{rows.value.name}_rows")
        return self._spread[key]

    def table(self, value: Value) -> Var:
        """The table of a value: [trip, size * B, ...]."""
        return self._stacked(self._parts(value), value.name)


def _factor(value: Value) -> int:
    size = value.type.shape[0]
    assert isinstance(size, Sym)
    return size.factor


def _with_lead(attr: Any, lead: Dim | None) -> Any:
    """An attribute with `lead` instead of the batch if it is a shape with a batch."""
    if lead is not None and isinstance(attr, tuple) and attr and isinstance(attr[0], Sym):
        return (lead, *attr[1:])
    return attr
