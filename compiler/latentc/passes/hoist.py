"""Hoist: what does not depend on the values a loop carries leaves the loop, across calls.

What depends on the loop's invariants alone is computed once before it. What depends on the step too is computed for
all steps in one batch before the loop and becomes a table of it: in a DiT the modulation of every block, whose weights
are then read once, not once a step. Under batched guidance the null branch is the same for every sample, so its rows
are the steps, those of the other branch steps × batch. Tables that would take more memory than a step's activations do
are made for as many steps at a time as fit, by a loop around the loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.core import Function, Module, Node, Param, Value, reachable
from latentc.ir.report import activation_bytes, short
from latentc.ir.rewriter import Rewriter
from latentc.ir.types import Sym, i64
from latentc.passes.batchwise import batched, fixed
from latentc.passes.split import Cut, Splitter, fresh
from latentc.passes.steps import Steps, stackable

TABLE_BYTES = 256 << 20
"""Memory that the tables of one loop may always take; beyond, they may take as much as a step's activations."""

LEAST_STEPS = 4
"""Tables are for so many steps or more: making them reads the weights once for each branch of guidance."""


@dataclass(frozen=True)
class Hoisted:
    """What was done about a loop: `kind` is invariant or steps; bytes are at the largest batch.

    `saved_bytes` is the memory traffic a step no longer has, by the estimate of `passes.split`; `chunk` how many steps
    the tables hold at a time, 0 where the loop was left as it is.
    """

    body: str
    kind: str
    tensors: int
    table_bytes: int
    saved_bytes: int
    chunk: int
    why: str


def hoist(module: Module, max_batch: int = 1, limit: int = TABLE_BYTES) -> Module:
    """The module with its loops relieved; the same object where there is nothing to gain. Wants `expand_guidance`.

    `limit` is the memory that tables may take at `max_batch`, in bytes, if a step's activations do not take more.
    """
    return hoist_report(module, max_batch, limit)[0]


def hoist_report(module: Module, max_batch: int = 1, limit: int = TABLE_BYTES) -> tuple[Module, tuple[Hoisted, ...]]:
    """The module after `hoist`, and what was decided about each loop."""
    pass_ = _Hoist(module, max_batch, limit)
    for name in reachable(module):  # bodies before the functions that loop over them
        fn = pass_.owner.functions[name]
        if any(node.op == "loop" for node in fn.nodes):
            pass_.function(fn)
    report = tuple(pass_.report)
    if not any(r.chunk for r in report):
        return module, report
    changed = module.with_(functions=dict(pass_.owner.functions))
    return changed.with_(functions={name: changed.functions[name] for name in reachable(changed)}), report


class _Hoist:
    def __init__(self, module: Module, max_batch: int, limit: int) -> None:
        self.batch, self.least = max_batch, limit
        self.owner = ModuleBuilder()
        self.owner.adopt(module)
        self.once = Splitter(self.owner.functions, max_batch, steps=False)
        self.steps = Splitter(self.owner.functions, max_batch, steps=True)
        self.report: list[Hoisted] = []

    def function(self, fn: Function) -> None:
        """Relieves the loops of one function."""
        b = Rewriter(self.owner, fn)
        env = {v: Var(v, b) for v in (*fn.inputs, *(p.value for p in fn.params))}
        before = len(self.report)
        for node in fn.nodes:
            operands = [env[v] for v in node.inputs]
            outs = self.loop(b, node, operands) if node.op == "loop" else b.keep(node, operands)
            env.update(zip(node.outputs, outs, strict=True))
        if any(r.chunk for r in self.report[before:]):
            b.output([env[v] for v in fn.outputs])
            b.finish(fn.doc)

    def loop(self, b: Builder, node: Node, operands: Sequence[Var]) -> Sequence[Var]:
        """Appends a loop to `b`, relieved, and what has left it before it.

        Weights that leave it keep their names, so it stays as it is where one of these means something else outside.
        """
        others = (b.names - b.params.keys()) | {x.value.name for x in operands}
        if any(p.name in others for p in self.owner.functions[node.attrs["body"]].params):
            return _appended(b, node, operands)
        node, operands = self.invariant(b, node, operands)
        return self.stepwise(b, node, operands)

    # ---- what depends on the invariants alone

    def invariant(self, b: Builder, node: Node, operands: Sequence[Var]) -> tuple[Node, Sequence[Var]]:
        body, keep = self.owner.functions[node.attrs["body"]], node.attrs["invariants"]
        if not keep or node.attrs["trip"] == 1:
            return node, operands
        formals = body.inputs[1 : 1 + keep]
        cut = self.once.cut(body, formals, 1, self.once.movable)
        size = sum(self.once.held(v.type) for v in cut.crossing)
        if not cut.crossing or size > self.limit(body):
            if cut.crossing:
                self._told(body, "invariant", cut, size, 0, self._too_large(size, body))
            return node, operands
        env = dict(zip(formals, operands[:keep], strict=True))
        for param in body.params:
            env[param.value] = _adopted(b, param)
        for early in cut.early:
            env.update(zip(early.outputs, _copied(b, early, [env[v] for v in early.inputs]), strict=True))
        self._told(body, "invariant", cut, size, node.attrs["trip"], "the same in every step")
        changed = self._late(body, cut, 1 + keep)
        attrs = {**node.attrs, "body": changed.name, "invariants": keep + len(cut.crossing)}
        more = [env[v] for v in cut.crossing]
        return Node("loop", (), node.outputs, attrs, node.loc), [*operands[:keep], *more, *operands[keep:]]

    def _late(self, body: Function, cut: Cut, at: int) -> Function:
        """The body without what was moved: its values come in as inputs from place `at` on."""
        used = {v for n in cut.late for v in n.inputs} | set(body.outputs)
        changed = body.with_(
            name=fresh(f"{body.name}.late", set(self.owner.functions), "#"),
            inputs=(*body.inputs[:at], *cut.crossing, *body.inputs[at:]),
            params=tuple(p for p in body.params if p.value in used),
            nodes=cut.late,
        )
        self.owner.functions[changed.name] = changed
        return changed

    def _told(self, body: Function, kind: str, cut: Cut, size: int, chunk: int, why: str) -> None:
        self.report.append(Hoisted(body.name, kind, len(cut.crossing), size, round(cut.saved), chunk, why))

    def limit(self, body: Function) -> int:
        """Bytes that what leaves a loop may take."""
        return max(self.least, self.batch * activation_bytes(Module(self.owner.functions, {}), body.name)[0])

    def _too_large(self, size: int, body: Function) -> str:
        return f"{short(size, 'B')} at the largest batch is more than the limit of {short(self.limit(body), 'B')}"

    # ---- what depends on the step

    def stepwise(self, b: Builder, node: Node, operands: Sequence[Var]) -> Sequence[Var]:
        body, trip = self.owner.functions[node.attrs["body"]], node.attrs["trip"]
        keep, carry = node.attrs["invariants"], node.attrs["carried"]
        head = 1 + keep + carry
        lender = _lender(operands[: keep + carry])
        if lender is None or trip < LEAST_STEPS:
            return _appended(b, node, operands)
        ours = [v for v in (*body.inputs[: 1 + keep], *body.inputs[head:]) if fixed(v) or _of(v, lender.shape[0])]
        varying = [v for v in (body.inputs[0], *body.inputs[head:]) if fixed(v)]
        cut = self.steps.cut(body, ours, 1, stackable(self.steps.batchwise, varying))
        if not cut.crossing:
            return _appended(b, node, operands)
        row = sum(self.steps.held(v.type) for v in cut.crossing)
        limit = self.limit(body)
        if trip * row > limit:
            why = self._too_large(trip * row, body)
            chunk = max((n for n in range(LEAST_STEPS, trip) if trip % n == 0 and n * row <= limit), default=0)
            if not chunk:
                self._told(body, "steps", cut, trip * row, 0, why)
                return _appended(b, node, operands)
            self._told(body, "steps", cut, chunk * row, chunk, why)
            return self.chunked(b, node, operands, cut, chunk)
        self._told(body, "steps", cut, trip * row, trip, "the tables of all steps fit")
        return self.tabled(b, node, operands, cut, lender)

    def tabled(self, b: Builder, node: Node, operands: Sequence[Var], cut: Cut, lender: Var) -> Sequence[Var]:
        """Appends the tables and the loop over them."""
        body, keep = self.owner.functions[node.attrs["body"]], node.attrs["invariants"]
        head = keep + node.attrs["carried"]
        steps = Steps(b, node.attrs["trip"], lender)
        steps.index(body.inputs[0])
        for formal, operand in zip(body.inputs[1 : 1 + keep], operands, strict=False):
            steps.invariant(formal, operand)
        for formal, operand in zip(body.inputs[1 + head :], operands[head:], strict=True):
            steps.row(formal, operand)
        for param in body.params:
            steps.invariant(param.value, _adopted(b, param))
        for early in cut.early:
            steps.node(early)
        tables = [steps.table(v) for v in cut.crossing]
        changed = self._late(body, cut, len(body.inputs))
        attrs = {**node.attrs, "body": changed.name}
        return _appended(b, Node("loop", (), node.outputs, attrs, node.loc), [*operands, *tables])

    def chunked(self, b: Builder, node: Node, operands: Sequence[Var], cut: Cut, chunk: int) -> Sequence[Var]:
        """Appends a loop of chunks, in each of which a loop goes over the tables of the chunk's steps."""
        body, trip = self.owner.functions[node.attrs["body"]], node.attrs["trip"]
        keep, carry = node.attrs["invariants"], node.attrs["carried"]
        index = body.inputs[0]
        counted = any(index in n.inputs for n in body.nodes) or index in body.outputs
        columns = list(operands[keep + carry :])
        if counted:  # the number of the step is a table like another
            columns.append(b.constant(np.arange(trip), out="step"))
            place = Value(fresh("i", {v.name for v in _values(body)}), i64())
            body = body.with_(
                name=fresh(f"{body.name}.step", set(self.owner.functions), "#"),
                inputs=(place, *body.inputs[1:], index),
            )
            self.owner.functions[body.name] = body
        inner_attrs = {**node.attrs, "body": body.name, "trip": chunk}

        def around(
            inner: Builder, i: Var, kept: tuple[Var, ...], state: tuple[Var, ...], rows: tuple[Var, ...]
        ) -> tuple[Sequence[Var], Sequence[Var]]:
            made = tuple(inner.fresh(v.name, v.type) for v in node.outputs)
            made = tuple(v if n < carry else Value(v.name, v.type.with_shape([chunk, *v.type.shape[1:]]))
                         for n, v in enumerate(made))  # fmt: skip
            lender = _lender([*kept, *state])
            assert lender is not None
            loop = Node("loop", (), made, inner_attrs, node.loc)
            outs = self.tabled(inner, loop, [*kept, *state, *rows], cut, lender)
            return outs[:carry], outs[carry:]

        chunks = [b.reshape(x, shape=(trip // chunk, chunk, *x.shape[1:]), out=x.value.name) for x in columns]
        outs = b.loop(
            f"{body.name}.chunk",
            trip // chunk,
            around,
            invariants=operands[:keep],
            carried=operands[keep : keep + carry],
            tables=chunks,
        )
        stacks = [b.reshape(x, shape=(trip, *x.shape[2:])) for x in outs[carry:]]
        return [*outs[:carry], *stacks]


def _lender(operands: Sequence[Var]) -> Var | None:
    """An operand [B, ...]: what says how large the batch is."""
    return next((x for x in operands if batched(x.value) and x.shape[0].factor == 1), None)


def _of(value: Value, batch: Sym) -> bool:
    """Whether a value is of a multiple of the batch `batch`."""
    size = value.type.shape[0] if batched(value) else None
    return isinstance(size, Sym) and size.name == batch.name


def _values(fn: Function) -> list[Value]:
    return [*fn.inputs, *(p.value for p in fn.params), *(o for n in fn.nodes for o in n.outputs)]


def _adopted(b: Builder, param: Param) -> Var:
    """A param of a loop's body as one of the function around it, which has the same place in the state dict."""
    if param.recipe is not None:
        return b.made(param.name, param.recipe)
    return b.param(param.name, param.type, param.init.kind, param.kind, **param.init.args)


def _copied(b: Builder, node: Node, operands: Sequence[Var]) -> Sequence[Var]:
    """Appends a node of another function, its outputs renamed where the names are taken."""
    outs = tuple(b.fresh(o.name, o.type) for o in node.outputs)
    return _appended(b, Node(node.op, (), outs, node.attrs, node.loc), operands)


def _appended(b: Builder, node: Node, operands: Sequence[Var]) -> Sequence[Var]:
    """Appends a node applied to operands, its outputs as they are."""
    return b.append(Node(node.op, tuple(x.value for x in operands), node.outputs, node.attrs, node.loc))


__all__ = ["TABLE_BYTES", "Hoisted", "hoist", "hoist_report"]
