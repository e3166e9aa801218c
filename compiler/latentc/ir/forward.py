"""Forward-mode differentiation of functions: values and tangents side by side.

No op needs a forward rule of its own. The vector-Jacobian product of an op, g -> J^T g, is linear in g; its derivative
with respect to g, by reverse mode, is t -> J t. After dead code is removed the result is what a rule written by hand
would give: for tanh, t * (1 - y * y). A function that is called gets one companion, which takes its inputs and their
tangents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from latentc.ir.builder import Builder, Var, as_tuple
from latentc.ir.core import Function, Module, Node, Value, live
from latentc.ir.ops import OPS
from latentc.ir.reverse import Differentiation, Flags, Tape, Tidy, Transcript, Walk


@dataclass(frozen=True)
class Pushed:
    """The companion `name` of a function. It returns the outputs, then a tangent for each output marked in `of`."""

    name: str
    of: Flags


class Forward(Differentiation):
    """Functions differentiated by either mode."""

    def __init__(self, module: Module, tidy: Tidy = lambda fn: fn) -> None:
        super().__init__(module, tidy)
        self._pushed: dict[Any, Pushed] = {}

    def pushed(self, fn: Function, active: Flags) -> Pushed:
        """The companion that takes the inputs of `fn`, then a tangent for each input marked in `active`."""
        key = (fn.name, active)
        if key not in self._pushed:
            name, of = self.owner.unique(f"{fn.name}.jvp"), self.reached(fn, active)
            b = Transcript(self.owner, fn, name)
            varying = [v for v, on in zip(fn.inputs, active, strict=True) if on]
            tangents = {v: b.variable(f"{v.name}_tangent", v.type) for v in varying}
            step = _Push(self, b, dict(tangents))
            outs = step.run(fn.nodes, fn.outputs)
            found = [step.tangent(y) for y, on in zip(outs, of, strict=True) if on]
            ins, results = [*fn.inputs, *(t.value for t in tangents.values())], [y.value for y in (*outs, *found)]
            nodes = live(b.take_back(0), results)
            self.add(fn, name, ins, fn.params, nodes, results)
            self._pushed[key] = Pushed(name, of)
        return self._pushed[key]


class _Push(Walk):
    """Runs nodes together with the tangents of what varies; `tangents` are those of the inputs."""

    def __init__(self, work: Forward, b: Transcript, tangents: dict[Value, Var]) -> None:
        super().__init__(work, b)
        self.work: Forward = work
        self._tangents = tangents

    def is_active(self, value: Value) -> bool:
        return value in self._tangents

    def tangent(self, x: Var) -> Var:
        """The tangent of a value; zeros if it does not vary."""
        found = self._tangents.get(x.value)
        return self.b.fill_like(x, 0.0) if found is None else found

    def _op(self, node: Node, operands: list[Var], varying: list[Value]) -> Sequence[Var]:
        outs = self.b.keep(node, operands)
        for i, y in enumerate(node.outputs):
            if y in varying:
                self._transpose(node, operands, outs, i)
        return outs

    def _transpose(self, node: Node, operands: list[Var], outs: Sequence[Var], i: int) -> None:
        """The tangent of output i: the derivative of the vector-Jacobian product by its vector."""
        b, mark = self.b, self.b.mark()
        vector = b.variable("v", outs[i].type)
        grads = [vector if k == i else None for k in range(len(outs))]
        back = OPS[node.op].vjp(b, operands, outs, grads, node.attrs)  # type: ignore[misc]
        tape = Tape(self.work, b, {vector.value})
        pairs = [(g, self._tangents[x.value]) for g, x in zip(back, operands, strict=True)
                 if g is not None and x.value in self._tangents]  # fmt: skip
        ends = tape.run(b.take_back(mark), [g.value for g, _ in pairs])
        tape.sweep(list(zip(ends, (t for _, t in pairs), strict=True)))
        tangent = tape.gradient(vector)
        nodes = b.take_back(mark)
        needed = set(live(nodes, [tangent.value]))
        for part in nodes:
            if part in needed:
                # Nodes that still read the vector use only its shape, which is also that of the output.
                ins = tuple(outs[i].value if v is vector.value else v for v in part.inputs)
                b.append(Node(part.op, ins, part.outputs, part.attrs, part.loc))
            elif part.op == "constant":  # the builder may reuse it
                b.append(part)
        self._tangents[outs[i].value] = tangent

    def _call(self, node: Node, operands: list[Var], active: list[bool], varying: list[Value]) -> Sequence[Var]:
        pushed = self.work.pushed(self.work.function(node.attrs["fn"]), tuple(active))
        ins = [*operands, *(self._tangents[x.value] for x in operands if x.value in self._tangents)]
        whole = as_tuple(self.b.call(pushed.name, node.attrs["name"], *ins))
        outs, tangents = whole[: len(pushed.of)], iter(whole[len(pushed.of) :])
        self._tangents.update((y.value, next(tangents)) for y, on in zip(outs, pushed.of, strict=True) if on)
        return outs

    def _loop(self, node: Node, operands: list[Var], active: list[bool], varying: list[Value]) -> Sequence[Var]:
        """A loop whose carried values and rows are followed by their tangents."""
        keep, carry, trip = node.attrs["invariants"], node.attrs["carried"], node.attrs["trip"]
        head = keep + carry
        body = self.work.function(node.attrs["body"])
        flags = self.work.body_flags(node, active)
        pushed = self.work.pushed(body, flags)
        varying_operands = [i for i, on in enumerate(flags[1:]) if on]
        parts = [(0, keep), (keep, head), (head, len(operands))]
        given = {i: self.tangent(operands[i]) for i in varying_operands}
        groups = [[*operands[a:b], *(given[i] for i in varying_operands if a <= i < b)] for a, b in parts]
        stacked = pushed.of[carry:]
        varying_state = [k for k in range(carry) if flags[1 + keep + k]]

        def step(inner: Builder, i: Var, kept: Any, state: Any, rows: Any) -> Any:
            values, tangents = [i], []
            for part, (a, b) in zip((kept, state, rows), parts, strict=True):
                values += part[: b - a]
                tangents += part[b - a :]
            whole = as_tuple(inner.call(pushed.name, "", *values, *tangents))
            outs = whole[: len(pushed.of)]
            found = dict(zip([k for k, on in enumerate(pushed.of) if on], whole[len(outs) :], strict=True))
            carried = [found[k] if k in found else inner.fill_like(outs[k], 0.0) for k in varying_state]
            return [*outs[:carry], *carried], [*outs[carry:], *(found[k] for k in sorted(found) if k >= carry)]

        whole = self.b.loop(f"{body.name}.jvp", trip, step, invariants=groups[0], carried=groups[1], tables=groups[2])
        state, stacks = whole[: carry + len(varying_state)], whole[carry + len(varying_state) :]
        outs = [*state[:carry], *stacks[: len(stacked)]]
        self._tangents.update((outs[k].value, t) for k, t in zip(varying_state, state[carry:], strict=True))
        rows = [carry + k for k, on in enumerate(stacked) if on]
        self._tangents.update((outs[k].value, t) for k, t in zip(rows, stacks[len(stacked) :], strict=True))
        return outs
