"""Hoist: moves what does not depend on the carried values of a loop out of it, across calls.

What depends only on the loop's invariants is computed once before it. What also depends on the step is computed for all
steps in one batch before the loop and becomes a table of the loop: in a DiT the modulation of every block, whose
weights are then read once instead of once per step. Under batched guidance the null branch is the same for every
sample, so it has one row per step, the other branch steps × batch rows. If the tables would take more memory than the
activations of a step, an outer loop computes them for as many steps at a time as fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.core import Function, Module, Names, Node, Value, in_order, reachable
from latentc.ir.costs import Costs
from latentc.ir.report import short
from latentc.ir.types import Sym, i64
from latentc.passes.batchwise import batched, fixed
from latentc.passes.rewrite import loop_over_blocks, rewrite_function
from latentc.passes.split import Cut, Splitter
from latentc.passes.steps import Steps, stackable

TABLE_BYTES = 256 << 20
"""Bytes that the tables of a loop may always take; they may take more if the activations of a step do."""

LEAST_STEPS = 4
"""Fewest steps worth a table: computing it reads the weights once per branch of guidance."""


@dataclass(frozen=True)
class Hoisted:
    """A decision about a loop; bytes are at the largest batch.

    `kind` is `invariant` or `steps`. `saved_bytes` is the memory traffic saved per step, as `passes.split` estimates
    it. `chunk` is the number of steps that the tables hold at a time, 0 if the loop was left unchanged.
    """

    body: str
    kind: str
    tensors: int
    table_bytes: int
    saved_bytes: int
    chunk: int
    why: str


def hoist(module: Module, max_batch: int = 1, limit: int = TABLE_BYTES) -> Module:
    """Hoists out of every loop; returns the module unchanged if there is nothing to gain. Needs `expand_guidance`.

    Tables may take `limit` bytes at `max_batch`, or as many as the activations of a step.
    """
    return hoist_report(module, max_batch, limit)[0]


def hoist_report(module: Module, max_batch: int = 1, limit: int = TABLE_BYTES) -> tuple[Module, tuple[Hoisted, ...]]:
    """The module after `hoist`, and the decisions about its loops."""
    pass_ = _Hoist(module, max_batch, limit)
    for name in reachable(module):  # bodies before the functions that loop over them
        rewrite_function(pass_.owner, pass_.owner.functions[name], pass_.loop)
    report = tuple(pass_.report)
    if not any(r.chunk for r in report):
        return module, report
    return in_order(module.with_(functions=pass_.owner.functions)), report


class _Hoist:
    def __init__(self, module: Module, max_batch: int, limit: int) -> None:
        self.batch, self.least = max_batch, limit
        self.owner = ModuleBuilder(module)
        self.once = Splitter(self.owner, max_batch, steps=False)
        self.steps = Splitter(self.owner, max_batch, steps=True)
        self.report: list[Hoisted] = []

    def loop(self, b: Builder, node: Node, operands: Sequence[Var]) -> Sequence[Var] | None:
        """Appends a loop to `b`, after what can be computed before it; None for other nodes.

        Weights that are used outside keep their names, so a loop with a weight whose name is taken outside is left
        unchanged.
        """
        if node.op != "loop":
            return None
        others = (b.names - b.params.keys()) | {x.value.name for x in operands}
        if any(p.name in others for p in self.owner.functions[node.attrs["body"]].params):
            return None
        node, operands = self.invariant(b, node, operands)
        return self.stepwise(b, node, operands)

    # ---- what depends only on the invariants

    def invariant(self, b: Builder, node: Node, operands: Sequence[Var]) -> tuple[Node, Sequence[Var]]:
        body, keep = self.owner.functions[node.attrs["body"]], node.attrs["invariants"]
        if not keep or node.attrs["trip"] == 1:
            return node, operands
        formals = body.inputs[1 : 1 + keep]
        cut = self.once.cut(body, formals, 1, self.once.movable)
        size = sum(self.once.held(v.type) for v in cut.crossing)
        if not cut.crossing or size > self.limit(body):
            if cut.crossing:
                self._add_decision(body, "invariant", cut, size, 0, self._too_large(size, body))
            return node, operands
        env = dict(zip(formals, operands[:keep], strict=True))
        env.update((p.value, b.same_param(p)) for p in body.params)
        for early in cut.early:
            env.update(zip(early.outputs, _copied(b, early, [env[v] for v in early.inputs]), strict=True))
        self._add_decision(body, "invariant", cut, size, node.attrs["trip"], "the same in every step")
        changed = self._late(body, cut, 1 + keep)
        attrs = {**node.attrs, "body": changed.name, "invariants": keep + len(cut.crossing)}
        more = [env[v] for v in cut.crossing]
        return Node("loop", (), node.outputs, attrs, node.loc), [*operands[:keep], *more, *operands[keep:]]

    def _late(self, body: Function, cut: Cut, at: int) -> Function:
        """The body without its early nodes: it takes their values as inputs, inserted at index `at`."""
        changed = body.with_(
            name=self.owner.unique(f"{body.name}.late"),
            inputs=(*body.inputs[:at], *cut.crossing, *body.inputs[at:]),
            nodes=cut.late,
        ).without_unused_params()
        self.owner.functions[changed.name] = changed
        return changed

    def _add_decision(self, body: Function, kind: str, cut: Cut, size: int, chunk: int, why: str) -> None:
        self.report.append(Hoisted(body.name, kind, len(cut.crossing), size, round(cut.saved), chunk, why))

    def limit(self, body: Function) -> int:
        """Bytes that the values computed before a loop may take."""
        return max(self.least, self.batch * Costs(self.owner.functions).peak(body.name))

    def _too_large(self, size: int, body: Function) -> str:
        return f"{short(size, 'B')} at the largest batch is more than the limit of {short(self.limit(body), 'B')}"

    # ---- what depends on the step

    def stepwise(self, b: Builder, node: Node, operands: Sequence[Var]) -> Sequence[Var]:
        body, trip = self.owner.functions[node.attrs["body"]], node.attrs["trip"]
        keep, carry = node.attrs["invariants"], node.attrs["carried"]
        head = 1 + keep + carry
        like = _batch_of_one(operands[: keep + carry])
        if like is None or trip < LEAST_STEPS:
            return b.keep(node, operands)
        early = (*body.inputs[: 1 + keep], *body.inputs[head:])
        early = tuple(v for v in early if fixed(v) or _has_batch(v, like.shape[0]))
        varying = [v for v in (body.inputs[0], *body.inputs[head:]) if fixed(v)]
        cut = self.steps.cut(body, early, 1, stackable(self.steps.batchwise, varying))
        if not cut.crossing:
            return b.keep(node, operands)
        row = sum(self.steps.held(v.type) for v in cut.crossing)
        limit = self.limit(body)
        if trip * row > limit:
            why = self._too_large(trip * row, body)
            chunk = max((n for n in range(LEAST_STEPS, trip) if trip % n == 0 and n * row <= limit), default=0)
            if not chunk:
                self._add_decision(body, "steps", cut, trip * row, 0, why)
                return b.keep(node, operands)
            self._add_decision(body, "steps", cut, chunk * row, chunk, why)
            return self.chunked(b, node, operands, cut, chunk)
        self._add_decision(body, "steps", cut, trip * row, trip, "the tables of all steps fit")
        return self.with_tables(b, node, operands, cut, like)

    def with_tables(self, b: Builder, node: Node, operands: Sequence[Var], cut: Cut, like: Var) -> Sequence[Var]:
        """Appends the tables and the loop over them."""
        body, keep = self.owner.functions[node.attrs["body"]], node.attrs["invariants"]
        head = keep + node.attrs["carried"]
        steps = Steps(b, node.attrs["trip"], like)
        steps.index(body.inputs[0])
        for formal, operand in zip(body.inputs[1 : 1 + keep], operands, strict=False):
            steps.invariant(formal, operand)
        for formal, operand in zip(body.inputs[1 + head :], operands[head:], strict=True):
            steps.row(formal, operand)
        for param in body.params:
            steps.invariant(param.value, b.same_param(param))
        for early in cut.early:
            steps.node(early)
        tables = [steps.table(v) for v in cut.crossing]
        changed = self._late(body, cut, len(body.inputs))
        attrs = {**node.attrs, "body": changed.name}
        return b.keep(Node("loop", (), node.outputs, attrs, node.loc), [*operands, *tables])

    def chunked(self, b: Builder, node: Node, operands: Sequence[Var], cut: Cut, chunk: int) -> Sequence[Var]:
        """Appends a loop over chunks of steps: it computes the tables of a chunk, and an inner loop uses them."""
        body, trip = self.owner.functions[node.attrs["body"]], node.attrs["trip"]
        keep, carry = node.attrs["invariants"], node.attrs["carried"]
        index = body.inputs[0]
        columns = list(operands[keep + carry :])
        if index in body.used():  # the number of the step becomes a table
            columns.append(b.constant(np.arange(trip), out="step"))
            place = Value(Names(v.name for v in body.values()).fresh("i"), i64())
            name = self.owner.unique(f"{body.name}.step")
            body = body.with_(name=name, inputs=(place, *body.inputs[1:], index))
            self.owner.functions[body.name] = body
        inner_attrs = {**node.attrs, "body": body.name, "trip": chunk}

        def around(
            inner: Builder, i: Var, kept: tuple[Var, ...], state: tuple[Var, ...], rows: tuple[Var, ...]
        ) -> tuple[Sequence[Var], Sequence[Var]]:
            last = [inner.fresh(v.name, v.type) for v in node.outputs[:carry]]
            stacks = [inner.fresh(v.name, v.type.with_shape([chunk, *v.type.shape[1:]])) for v in node.outputs[carry:]]
            like = _batch_of_one([*kept, *state])
            assert like is not None
            loop = Node("loop", (), (*last, *stacks), inner_attrs, node.loc)
            outs = self.with_tables(inner, loop, [*kept, *state, *rows], cut, like)
            return outs[:carry], outs[carry:]

        kept, state = operands[:keep], operands[keep : keep + carry]
        last, stacks = loop_over_blocks(b, f"{body.name}.chunk", trip // chunk, chunk, around, kept, state, columns)
        return [*last, *stacks]


def _batch_of_one(operands: Sequence[Var]) -> Var | None:
    """An operand [B, ...] (not [2*B, ...]), from which the batch size can be read at run time."""
    return next((x for x in operands if batched(x.value) and x.shape[0].factor == 1), None)


def _has_batch(value: Value, batch: Sym) -> bool:
    """True if the first size of a value is a multiple of `batch`."""
    size = value.type.shape[0] if batched(value) else None
    return isinstance(size, Sym) and size.name == batch.name


def _copied(b: Builder, node: Node, operands: Sequence[Var]) -> Sequence[Var]:
    """Appends a node of another function; its outputs are renamed if their names are taken."""
    outs = tuple(b.fresh(o.name, o.type) for o in node.outputs)
    return b.keep(Node(node.op, (), outs, node.attrs, node.loc), operands)
