"""The calls of networks' methods in a program, also those inside loops and helper functions.

`Watched` runs a program in the interpreter and reports every call. `operands_shown` rewrites a program for an engine,
so that it returns the operands of chosen calls: a chosen call is taken out of the loops around it, and the trips before
it, the trip itself and those after it run one after another. Nothing but the chosen operands is kept, however long and
deeply nested the loops are.

Symbols: B batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from latentc.components.contract import Lowered, Port
from latentc.ir.builder import ModuleBuilder, Rewriter, Var, as_tuple
from latentc.ir.core import Function, Module, Node, Value, callees
from latentc.ir.interpret import Interpreter
from latentc.ir.types import Sym, TensorType, i64

Array = np.ndarray
Path = tuple[int, ...]


@dataclass(frozen=True)
class Call:
    """One call of a network's method while a program runs.

    `path` orders calls in time: the place of a node in its function, then for each function inside it the trip (0
    outside of loops) and the place there.
    """

    network: str
    method: str
    path: Path

    @property
    def entry(self) -> str:
        """The method as an entry of the module."""
        return f"{self.network}.{self.method}"


def calls_of(module: Module, entry: str, methods: Mapping[str, str]) -> list[Call]:
    """Every call of `methods` {function: method} while an entry runs, in the order they happen.

    `module` is at stage `expanded`, its networks' functions under their own names.
    """
    known: dict[str, list[Call]] = {}

    def inside(name: str) -> list[Call]:
        if name not in known:
            found = []
            for at, node in enumerate(module.functions[name].nodes):
                if node.op == "call" and node.attrs["fn"] in methods:
                    found.append(Call(node.attrs["name"], methods[node.attrs["fn"]], (at,)))
                    continue
                inner = [call for callee in callees(node) for call in inside(callee)]
                for trip in range(node.attrs.get("trip", 1) if inner else 0):
                    found += [replace(call, path=(at, trip, *call.path)) for call in inner]
            known[name] = found
        return known[name]

    return inside(module.entries[entry])


def methods_of(lowered: Lowered) -> dict[str, str]:
    """{function: method} of the networks that programs call."""
    networks = [lowered.networks[name] for name in lowered.sampled]
    return {method.function: name for network in networks for name, method in network.methods.items()}


Seen = Callable[[Call, Sequence[Array]], None]  # the call, its operands
Engines = Mapping[str, Callable[[Sequence[Array]], Sequence[Array]]]  # by the method's entry: function of the operands


class Watched(Interpreter):
    """Runs a module and reports each call of `methods` {function: method} to `seen` before it is made.

    `engines` make calls in place of the interpreter. Calls have the paths of `calls_of` if the module is expanded, but
    those of trips after the end of a loop that ends early are not made.
    """

    def __init__(
        self,
        module: Module,
        methods: Mapping[str, str],
        params: Mapping[str, Array],
        seen: Seen,
        engines: Engines = MappingProxyType({}),
        float_dtype: str = "f64",
    ) -> None:
        super().__init__(module, params, float_dtype)
        self.methods, self.seen, self.engines = methods, seen, engines
        self.inside = False  # a method, whose own calls are not reported
        self.path: Path = ()  # the node that is run
        self.looped = False  # true if that is a loop
        self.places = {id(node): at for fn in self.module.functions.values() for at, node in enumerate(fn.nodes)}

    def node(self, node: Node, xs: list[Array], prefix: str = "") -> Sequence[Array]:
        if self.inside or not callees(node):
            return super().node(node, xs, prefix)
        before = self.path, self.looped
        self.path, self.looped = (*self.path, self.places.get(id(node), 0)), node.op == "loop"
        try:
            return super().node(node, xs, prefix)
        finally:
            self.path, self.looped = before

    def call(self, fn: Function, inputs: Sequence[Array], prefix: str) -> Sequence[Array]:
        if self.inside:
            return super().call(fn, inputs, prefix)
        path = self.path
        if (method := self.methods.get(fn.name)) is None:
            self.path = (*path, int(inputs[0]) if self.looped else 0) if path else ()
        else:
            self.seen(Call(prefix, method, path), inputs)
            if (engine := self.engines.get(f"{prefix}.{method}")) is not None:
                return engine(inputs)
            self.inside = True
        try:
            return super().call(fn, inputs, prefix)
        finally:
            self.inside, self.path = False, path


def spread(calls: Sequence[Call], count: int) -> list[Call]:
    """`count` of the calls of each method, the first and the last among them, spread evenly; in order."""
    by_entry: dict[str, list[Call]] = {}
    for call in calls:
        by_entry.setdefault(call.entry, []).append(call)
    chosen = {found[i].path for found in by_entry.values() for i in evenly(len(found), count)}
    return [call for call in calls if call.path in chosen]


def evenly(total: int, count: int) -> list[int]:
    """`count` indices below `total`, evenly spread from the first to the last; all of them if there are fewer."""
    return sorted({round(i) for i in np.linspace(0, total - 1, min(count, total))})


def place_of(call: Call, every: Sequence[Call], ports: Sequence[Port], operands: Sequence[Array]) -> str:
    """Where in a program a call is, for people: `t=981`, else `call 3 of 50` of its method, or `sampled` if alone."""
    for port, value in zip(ports, operands, strict=True):
        if port.role == "time":
            return f"t={float(value.reshape(-1)[0]):.4g}"
    same = [other.path for other in every if other.entry == call.entry]
    return f"call {same.index(call.path) + 1} of {len(same)}" if len(same) > 1 else "sampled"


def rows_of(array: Array, type: TensorType) -> int:
    """Number of rows of an operand along its axis of run-time size; 0 without such an axis."""
    sizes = zip(array.shape, type.shape, strict=True)
    return next((size // dim.factor for size, dim in sizes if isinstance(dim, Sym)), 0)


def with_rows(array: Array, type: TensorType, rows: Array) -> Array:
    """Some rows of an operand along its axis of run-time size; the operand itself without such an axis."""
    for axis, dim in enumerate(type.shape):
        if isinstance(dim, Sym):
            places = (rows[:, None] * dim.factor + np.arange(dim.factor)).reshape(-1)
            array = np.take(array, places, axis)
    return array


def operands_shown(module: Module, entry: str, calls: Sequence[Call]) -> Module:
    """`entry` with all operands of `calls`, in their order, as outputs after its own."""
    work = _Showing(module)
    name = work.function(module.entries[entry], [call.path for call in calls])
    return Module(dict(work.owner.functions), {**module.entries, entry: name})


class _Showing:
    def __init__(self, module: Module) -> None:
        self.owner = ModuleBuilder(module)

    def function(self, name: str, paths: Sequence[Path]) -> str:
        """A copy of a function that returns the operands of the calls at `paths` as outputs after its own."""
        fn = self.owner.functions[name]
        copy = self.owner.unique(f"{name}.shown")
        b = Rewriter(self.owner, fn.with_(name=copy, origin=None))
        env = b.own_values()
        extras: list[Var] = []
        for at, node in enumerate(fn.nodes):
            operands = [env[v] for v in node.inputs]
            below = [path for path in paths if path[0] == at]
            if not below or below == [(at,)]:
                outs: Sequence[Var] = b.keep(node, operands)
                extras += operands if below else []
            elif node.op == "loop":
                outs, shown = self._loop(b, node, operands, below)
                extras += shown
            else:
                inner = self.function(node.attrs["fn"], [path[2:] for path in below])
                outs = as_tuple(b.call(inner, node.attrs["name"], *operands))
                extras += outs[len(node.outputs) :]
            env.update(zip(node.outputs, outs, strict=False))
        b.output([env[v] for v in fn.outputs], extras)
        return b.finish(fn.doc)

    def _loop(
        self, b: Rewriter, node: Node, operands: Sequence[Var], paths: Sequence[Path]
    ) -> tuple[list[Var], list[Var]]:
        """The loop in parts around the trips that are looked at: its results, and the operands shown."""
        body, attrs = self.owner.functions[node.attrs["body"]], node.attrs
        fixed, first_table = attrs["invariants"], attrs["invariants"] + attrs["carried"]
        invariants, tables = operands[:fixed], operands[first_table:]
        state, stacked, shown = list(operands[fixed:first_table]), list[list[Var]](), list[Var]()
        done = 0

        def kept(outs: Sequence[Var], rows: Sequence[Var]) -> None:
            state[:] = outs[: len(state)]
            stacked.append(list(rows))

        for trip in [*sorted({path[1] for path in paths}), attrs["trip"]]:
            if trip > done:
                parts = [b.slice(table, axis=0, start=done, stop=trip) for table in tables]
                outs = self._part(b, node, body, done, trip, [*invariants, *state, *parts])
                kept(outs, outs[len(state) :])
            if trip == attrs["trip"]:
                break
            inner = self.function(body.name, [path[2:] for path in paths if path[1] == trip])
            row = [
                b.reshape(b.slice(table, axis=0, start=trip, stop=trip + 1), shape=table.shape[1:]) for table in tables
            ]
            outs = as_tuple(b.call(inner, "", b.constant(np.int64(trip)), *invariants, *state, *row))
            own = outs[: len(body.outputs)]
            shown += outs[len(own) :]
            kept(own, [b.reshape(x, shape=(1, *x.shape)) for x in own[len(state) :]])
            done = trip + 1
        joined = [parts[0] if len(parts) == 1 else b.concat(*parts, axis=0) for parts in zip(*stacked, strict=True)]
        return [*state, *joined], shown

    def _part(
        self, b: Rewriter, node: Node, body: Function, start: int, stop: int, operands: Sequence[Var]
    ) -> tuple[Var, ...]:
        """Trips `start` to `stop` of a loop as a loop of their own."""
        carried = node.attrs["carried"]
        types = [o.type for o in node.outputs]
        types[carried:] = [t.with_shape([stop - start, *t.shape[1:]]) for t in types[carried:]]
        outs = tuple(Value(f"{o.name}.{start}", t) for o, t in zip(node.outputs, types, strict=True))
        attrs = {**node.attrs, "body": self._counting_from(body, start), "trip": stop - start}
        return b.keep(Node("loop", (), outs, attrs, node.loc), operands)

    def _counting_from(self, body: Function, start: int) -> str:
        """A body that receives trip number `i + start` in trip i."""
        if start == 0:
            return body.name
        b = self.owner.function(f"{body.name}.from")
        i, *rest = (b.input(v.name, v.type if n else i64()) for n, v in enumerate(body.inputs))
        b.output(b.call(body.name, "", b.op("add", i, start), *rest))
        return b.finish()
