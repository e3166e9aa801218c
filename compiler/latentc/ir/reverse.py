"""Reverse-mode differentiation of functions, from the derivatives in the op table.

A function that is called gets two companions: one that runs it and also returns what its derivative will need (the
residuals), and its vector-Jacobian product, which turns the residuals and the outputs' gradients into the inputs'
gradients. Both are called under the name of the original call, so they use the same weights. They are built once for
each distinct function and each choice of inputs, so the cost does not depend on depth. A loop runs its body's companion
and stacks the residuals; a second loop goes backwards over the stacks.

Functions are differentiated as they compute in inference: dropout and other training-only ops are the identity.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from latentc.ir.builder import Builder, ModuleBuilder, Rewriter, Var, as_tuple
from latentc.ir.core import Function, Module, Node, Value, live
from latentc.ir.ops import CONTROL, OPS, OpError
from latentc.ir.types import TensorType

Flags = tuple[bool, ...]
# gradients of a step's outputs (None if zero) -> gradients of its inputs (None if not needed)
Backward = Callable[[list[Var | None]], Sequence[Var | None]]
Tidy = Callable[[Function], Function]


@dataclass(frozen=True)
class Companions:
    """The two functions that replace a function in a differentiated call.

    `saving` returns the outputs, then the residuals. `vjp` takes the inputs whose numbers are in `inputs`, the
    residuals, then the gradients of the differentiated outputs; it returns the gradients of the differentiated inputs.
    """

    saving: str
    vjp: str
    inputs: tuple[int, ...]


class Differentiation:
    """The functions of a module and their derivatives, each built once; `tidy` simplifies each new function."""

    def __init__(self, module: Module, tidy: Tidy = lambda fn: fn) -> None:
        self.owner, self.tidy = ModuleBuilder(module), tidy
        self._companions: dict[Any, Companions] = {}
        self._reached: dict[Any, Flags] = {}

    def function(self, name: str) -> Function:
        return self.owner.functions[name]

    def companions(self, fn: Function, of: Flags, wrt: Flags, stacked: Flags) -> Companions:
        """Those for outputs `of` and inputs `wrt`. Inputs marked in `stacked` are returned as residuals if needed."""
        key = (fn.name, of, wrt, stacked)
        if key in self._companions:
            return self._companions[key]
        saving, vjp = self.owner.unique(f"{fn.name}.saving"), self.owner.unique(f"{fn.name}.vjp")
        b = Transcript(self.owner, fn, saving)
        tape = Tape(self, b, {v for v, on in zip(fn.inputs, wrt, strict=True) if on and v.type.is_float})
        ys = tape.run(fn.nodes, fn.outputs)
        mark = b.mark()
        seeds = [b.variable(f"d_{v.name}", v.type) for v, wanted in zip(fn.outputs, of, strict=True) if wanted]
        outs = [y for y, wanted in zip(ys, of, strict=True) if wanted]
        tape.sweep(list(zip(outs, seeds, strict=True)))
        results = [tape.gradient(Var(v, b)).value for v, wanted in zip(fn.inputs, wrt, strict=True) if wanted]
        backward, forward = live(b.take_back(mark), results), b.take_back(0)
        used = dict.fromkeys([*(v for n in backward for v in n.inputs), *results])
        literals = [n for n in forward if n.op == "constant" and n.outputs[0] in used]
        params = [p for p in fn.params if p.value in used]
        inputs = tuple(i for i, v in enumerate(fn.inputs) if v in used and not stacked[i])
        direct = [fn.inputs[i] for i in inputs]
        known = {v for n in (*backward, *literals) for v in n.outputs}
        known.update([*direct, *(p.value for p in params), *(s.value for s in seeds)])
        residuals = [v for v in used if v not in known]
        if not residuals and tuple(forward) == fn.nodes:
            saving = fn.name  # nothing to save
        else:
            self.add(fn, saving, fn.inputs, fn.params, forward, [*(y.value for y in ys), *residuals])
        self.add(fn, vjp, [*direct, *residuals, *(s.value for s in seeds)], params, [*literals, *backward], results)
        self._companions[key] = Companions(saving, vjp, inputs)
        return self._companions[key]

    def add(self, fn: Function, name: str, ins: Any, params: Any, nodes: Any, outs: Any) -> None:
        origin = fn.origin and replace(fn.origin, method=fn.origin.method + _suffix(name))
        new = Function(name, tuple(ins), tuple(params), tuple(nodes), tuple(outs), origin)
        self.owner.functions[name] = self.tidy(new)

    def reached(self, fn: Function, active: Flags) -> Flags:
        """Which outputs of `fn` vary smoothly with the inputs marked `active`."""
        key = (fn.name, active)
        if key not in self._reached:
            values = {v for v, on in zip(fn.inputs, active, strict=True) if on}
            for node in fn.nodes:
                values.update(self.varying(node, [v in values for v in node.inputs]))
            self._reached[key] = tuple(v in values for v in fn.outputs)
        return self._reached[key]

    def varying(self, node: Node, active: Sequence[bool]) -> list[Value]:
        """Which outputs of a node vary smoothly with those of its inputs that are marked."""
        if not any(active):
            return []
        flags: Sequence[bool] = [True] * len(node.outputs)
        if node.op == "call":
            flags = self.reached(self.function(node.attrs["fn"]), tuple(active))
        elif node.op == "loop":
            flags = self.reached(self.function(node.attrs["body"]), self.body_flags(node, active))
        elif node.op in OPS and OPS[node.op].train_only:
            flags = active[:1]
        elif node.op in OPS and not OPS[node.op].differentiable:
            flags = [False] * len(node.outputs)
        return [o for o, on in zip(node.outputs, flags, strict=True) if on and o.type.is_float]

    def body_flags(self, node: Node, active: Sequence[bool]) -> Flags:
        """Which inputs of a loop's body vary. A carried value may begin to vary after some steps."""
        keep, carry = node.attrs["invariants"], node.attrs["carried"]
        flags = [False, *active]
        while True:
            out = self.reached(self.function(node.attrs["body"]), tuple(flags))
            state = [a or b for a, b in zip(flags[1 + keep : 1 + keep + carry], out[:carry], strict=True)]
            if state == flags[1 + keep : 1 + keep + carry]:
                return tuple(flags)
            flags[1 + keep : 1 + keep + carry] = state


def _suffix(name: str) -> str:
    """`_vjp2` of a function called `F.vjp#2`: a method's name."""
    return "_" + name.rpartition(".")[2].replace("#", "")


class Transcript(Rewriter):
    """A rewriter of a function under another name; nodes can be taken back, and values may come from elsewhere."""

    def __init__(self, owner: ModuleBuilder, fn: Function, name: str) -> None:
        super().__init__(owner, fn)
        self.name, self.origin = name, None

    def variable(self, name: str, type: TensorType) -> Var:
        """A value that no node here computes: an input of the function that the nodes will go into."""
        return Var(self.fresh(name, type), self)

    def mark(self) -> int:
        """Number of nodes so far; see `take_back`."""
        return len(self._nodes)

    def take_back(self, mark: int) -> list[Node]:
        """Removes and returns the nodes appended since `mark()` returned `mark`."""
        nodes = self._nodes[mark:]
        del self._nodes[mark:]
        return nodes

    def forget(self, nodes: Sequence[Node]) -> None:
        """Makes constants anew that these nodes, which were taken back, compute: until they run again, none may use
        them."""
        gone = {value for node in nodes for value in node.outputs}
        self._constants = {key: x for key, x in self._constants.items() if x.value not in gone}

    def replaced(self, node: Node, operands: Sequence[Var], callee: Function, **attrs: str) -> list[Var]:
        """Appends a call or loop that runs `callee` instead: the outputs of `node`, then those that callee adds."""
        types = CONTROL[node.op].types(callee, [x.type for x in operands], node.attrs)
        saved = tuple(self.fresh("saved", t) for t in types[len(node.outputs) :])
        changed = Node(node.op, (), (*node.outputs, *saved), {**node.attrs, **attrs}, node.loc)
        return list(self.keep(changed, operands))


class Walk(ABC):
    """Appends nodes to a builder one by one, and for what varies with the active values also what differentiates it.

    Subclasses say which values are active, and differentiate ops with a vector-Jacobian product, calls and loops.
    """

    def __init__(self, work: Differentiation, b: Transcript) -> None:
        self.work, self.b = work, b

    @abstractmethod
    def is_active(self, value: Value) -> bool:
        """True if the derivative depends on the value."""

    def run(self, nodes: Sequence[Node], outputs: Sequence[Value]) -> list[Var]:
        """Appends the nodes; returns the replacements of `outputs`. Values of other nodes are used as they are."""
        env: dict[Value, Var] = {}
        for node in nodes:
            outs = self._node(node, [env.get(v, Var(v, self.b)) for v in node.inputs])
            env.update(zip(node.outputs, outs, strict=True))
        return [env.get(v, Var(v, self.b)) for v in outputs]

    def _node(self, node: Node, operands: list[Var]) -> Sequence[Var]:
        active = [self.is_active(x.value) for x in operands]
        varying = self.work.varying(node, active)
        if node.op in OPS and OPS[node.op].train_only:
            return operands[:1]
        if any(active) and node.op == "guided":
            raise OpError(f"{self.b.name} differentiates a guided call; run expand_guidance first")
        if not varying:
            return self.b.keep(node, operands)
        if node.op == "call":
            return self._call(node, operands, active, varying)
        if node.op == "loop":
            return self._loop(node, operands, active, varying)
        row = OPS[node.op]
        if row.vjp is not None:
            return self._op(node, operands, varying)
        if row.decompose is None:
            raise OpError(f"{node.op} has no derivative, but {self.b.name} needs one")
        mark = self.b.mark()
        outs = [x.value for x in row.decompose(self.b, operands, node.attrs)]
        parts = self.b.take_back(mark)
        self.b.forget(parts)
        return self.run(parts, outs)

    @abstractmethod
    def _op(self, node: Node, operands: list[Var], varying: list[Value]) -> Sequence[Var]: ...

    @abstractmethod
    def _call(self, node: Node, operands: list[Var], active: list[bool], varying: list[Value]) -> Sequence[Var]: ...

    @abstractmethod
    def _loop(self, node: Node, operands: list[Var], active: list[bool], varying: list[Value]) -> Sequence[Var]: ...


class Tape(Walk):
    """Records, while nodes run forward, how to go back to the values `active`; `sweep` then goes back."""

    def __init__(self, work: Differentiation, b: Transcript, active: set[Value]) -> None:
        super().__init__(work, b)
        self._active = set(active)
        self._steps: list[tuple[list[Value], list[Value], Backward]] = []
        self._grads: dict[Value, Var] = {}

    # ---- forward

    def is_active(self, value: Value) -> bool:
        return value in self._active

    def _op(self, node: Node, operands: list[Var], varying: list[Value]) -> Sequence[Var]:
        vjp = OPS[node.op].vjp
        assert vjp is not None
        outs = self.b.keep(node, operands)
        self._record(varying, operands, outs, lambda grads: vjp(self.b, operands, outs, grads, node.attrs))
        return outs

    def _record(
        self, varying: Sequence[Value], operands: Sequence[Var], outs: Sequence[Var], backward: Backward
    ) -> None:
        self._active.update(varying)
        self._steps.append(([x.value for x in operands], [y.value for y in outs], backward))

    def _call(self, node: Node, operands: list[Var], active: list[bool], varying: list[Value]) -> Sequence[Var]:
        callee = self.work.function(node.attrs["fn"])
        of = tuple(o in varying for o in node.outputs)
        pair = self.work.companions(callee, of, tuple(active), (False,) * len(operands))
        saving = self.work.function(pair.saving)
        whole = self.b.replaced(node, operands, saving, fn=pair.saving)
        outs, saved = whole[: len(node.outputs)], whole[len(node.outputs) :]

        def backward(grads: list[Var | None]) -> Sequence[Var | None]:
            seeds = [self._or_zeros(g, y) for g, y, wanted in zip(grads, outs, of, strict=True) if wanted]
            back = self.b.call(pair.vjp, node.attrs["name"], *(operands[i] for i in pair.inputs), *saved, *seeds)
            found = iter(as_tuple(back))
            return [next(found) if on else None for on in active]

        self._record(varying, operands, outs, backward)
        return outs

    def _loop(self, node: Node, operands: list[Var], active: list[bool], varying: list[Value]) -> Sequence[Var]:
        keep, carry, trip = node.attrs["invariants"], node.attrs["carried"], node.attrs["trip"]
        head = keep + carry
        body = self.work.function(node.attrs["body"])
        flags = self.work.body_flags(node, active)
        of = (*flags[1 + keep : 1 + head], *(o in varying for o in node.outputs[carry:]))
        stacked = tuple(keep < i <= head for i in range(len(body.inputs)))
        pair = self.work.companions(body, of, flags, stacked)
        saving = self.work.function(pair.saving)
        whole = self.b.replaced(node, operands, saving, body=pair.saving)
        outs, saved = whole[: len(node.outputs)], whole[len(node.outputs) :]

        def backward(grads: list[Var | None]) -> Sequence[Var | None]:
            b = self.b
            order = b.constant(np.arange(trip - 1, -1, -1))
            full = [self._or_zeros(g, y) if on else None for g, y, on in zip(grads, outs, of, strict=True)]
            given = [i for i in pair.inputs if 0 < i <= keep]
            rows = [order if i == 0 else b.take(operands[i - 1], order, axis=0) for i in pair.inputs if i not in given]
            rows += [b.take(s, order, axis=0) for s in saved]
            rows += [b.take(g, order, axis=0) for g in full[carry:] if g is not None]
            states = [g for g in full[:carry] if g is not None]
            shared = [i for i in range(keep) if flags[1 + i]]
            sums = [b.fill_like(operands[i], 0.0) for i in shared]

            def step(inner: Builder, i: Var, kept: Any, state: Any, row: Any) -> Any:
                values, known = iter(row), dict(zip(given, kept, strict=True))
                ins = [known[k] if k in known else next(values) for k in pair.inputs]
                ins += [next(values) for _ in saved]
                found = inner.call(pair.vjp, "", *ins, *state[: len(states)], *values)
                each = iter(as_tuple(found))
                back = [next(each) if on else None for on in flags]
                more = [s + back[1 + k] for s, k in zip(state[len(states) :], shared, strict=True)]
                new = [g for g in back[1 + keep : 1 + head] if g is not None]
                return [*new, *more], [g for g in back[1 + head :] if g is not None]

            whole = b.loop(
                f"{body.name}.back",
                trip,
                step,
                invariants=[operands[i - 1] for i in given],
                carried=[*states, *sums],
                tables=rows,
            )
            first, totals = iter(whole[: len(states)]), iter(whole[len(states) : len(states) + len(sums)])
            stacks = iter(whole[len(states) + len(sums) :])
            result: list[Var | None] = [next(totals) if on else None for on in flags[1 : 1 + keep]]
            result += [next(first) if on else None for on in flags[1 + keep : 1 + head]]
            return result + [b.take(next(stacks), order, axis=0) if on else None for on in flags[1 + head :]]

        self._record(varying, operands, outs, backward)
        return outs

    def _or_zeros(self, gradient: Var | None, like: Var) -> Var:
        return self.b.fill_like(like, 0.0) if gradient is None else gradient

    # ---- backward

    def sweep(self, pairs: Sequence[tuple[Var, Var]]) -> None:
        """Goes back through the steps from pairs (output, its gradient); one value may be several outputs."""
        self._grads = {}
        for y, g in pairs:
            self._grads[y.value] = self._grads[y.value] + g if y.value in self._grads else g
        for operands, outs, backward in reversed(self._steps):
            grads = [self._grads.get(y) for y in outs]
            if all(g is None for g in grads):
                continue
            for value, back in zip(operands, backward(grads), strict=True):
                if back is not None and value in self._active:
                    self._grads[value] = self._grads[value] + back if value in self._grads else back

    def gradient(self, x: Var) -> Var:
        """The gradient of an active value after `sweep`; zeros if no output depends on it."""
        return self._or_zeros(self._grads.get(x.value), x)
