"""What a function comes to: weights, operations, activation memory, part by part; for `show` and for cost models.

Everything is per sample: a run-time size counts as 1. The work is that of the distinct functions, whatever the depth
they unfold to; only the table of weights is as long as the weights are many.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from latentc.ir.core import Function, Module, Node, Value, callees, parameters
from latentc.ir.derivatives import DERIVATIVES, expand_derivatives
from latentc.ir.draw import graph_svg
from latentc.ir.groups import groups_of
from latentc.ir.ops import CONTROL, OPS
from latentc.ir.types import NUMPY, Dim, Sym, TensorType, unify

# Ops whose result shares its operand's memory.
VIEWS = frozenset({"reshape", "transpose", "slice", "split", "unbind", "broadcast_to", "stop_gradient", "dropout"})


def bytes_of(type: TensorType) -> int:
    """Memory of a tensor, a run-time size counted as 1."""
    return type.count() * int(NUMPY[type.dtype]().itemsize)


def flops(module: Module, function: str) -> int:
    """Floating-point operations of one sample, a multiply-add as two; guidance counts both branches."""
    return _Costs(module).flops(module.entries.get(function, function))


def activation_bytes(module: Module, function: str) -> tuple[int, int]:
    """(peak, all): memory of the values alive at once, and of all values there ever are, in bytes per sample.

    The first is what inference needs beside the weights, without fusion; the second what training keeps for the
    backward pass, without recomputation. Views share memory with what they view; attention's scores are not counted.
    """
    costs, name = _Costs(module), module.entries.get(function, function)
    return costs.peak(name), costs.kept(name)


_WRITTEN_OUT = "written out"


class _Costs:
    """Costs of functions, each computed once."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self._known: dict[tuple[str, str], int] = {}

    def _once(self, what: str, name: str, compute: Callable[[Function], int]) -> int:
        if (what, name) not in self._known:
            self._known[what, name] = compute(self.module.functions[name])
        return self._known[what, name]

    def flops(self, name: str) -> int:
        return self._once("flops", name, lambda fn: sum(map(self.node_flops, fn.nodes)))

    def node_flops(self, node: Node) -> int:
        if node.op not in CONTROL:
            return OPS[node.op].flops([v.type for v in node.inputs], [v.type for v in node.outputs], node.attrs)
        if node.op in DERIVATIVES:
            costs = self._written_out(node)
            return costs.flops(_WRITTEN_OUT)
        combine = 3 * sum(o.type.count() for o in node.outputs) if node.op == "guided" else 0
        return combine + self._times(node) * self.flops(callees(node)[0])

    def _written_out(self, node: Node) -> _Costs:
        """Costs of a module whose function `_WRITTEN_OUT` is the node alone, as ordinary nodes."""
        fn = Function(_WRITTEN_OUT, node.inputs, (), (node,), node.outputs)
        return _Costs(expand_derivatives(self.module.with_(functions={**self.module.functions, _WRITTEN_OUT: fn})))

    def kept(self, name: str) -> int:
        return self._once("kept", name, lambda fn: sum(map(self._node_kept, fn.nodes)))

    def _node_kept(self, node: Node) -> int:
        if node.op in DERIVATIVES:
            return self._written_out(node).kept(_WRITTEN_OUT)
        if node.op in CONTROL:
            return self._times(node) * self.kept(callees(node)[0])
        return 0 if node.op in VIEWS else sum(bytes_of(o.type) for o in node.outputs)

    def peak(self, name: str) -> int:
        return self._once("peak", name, self._peak)

    def _peak(self, fn: Function) -> int:
        root: dict[Value, Value] = {}
        last: dict[Value, int] = {}
        for index, node in enumerate(fn.nodes):
            if node.op in VIEWS:
                root.update((o, root.get(node.inputs[0], node.inputs[0])) for o in node.outputs)
            last.update((root.get(v, v), index) for v in node.inputs)
        last.update((root.get(v, v), len(fn.nodes)) for v in fn.outputs)
        weights = {p.value for p in fn.params}
        alive = {v: bytes_of(v.type) for v in fn.inputs}
        most = total = sum(alive.values())
        for index, node in enumerate(fn.nodes):
            inner = 0
            if node.op in DERIVATIVES:
                inner = self._written_out(node).peak(_WRITTEN_OUT) - sum(bytes_of(v.type) for v in node.inputs)
            elif node.op in CONTROL:
                callee = self.module.functions[callees(node)[0]]
                given = sum(bytes_of(v.type) for v in callee.inputs)
                # Its operands are alive here already, except under guidance, which doubles them.
                inside = self.peak(callee.name) - (given if node.op != "guided" else 0)
                inner = inside * (1 if node.op == "loop" else self._times(node))
            born = {o: bytes_of(o.type) for o in node.outputs if o not in root}
            most = max(most, total + max(inner, sum(born.values())))
            alive.update(born)
            total += sum(born.values())
            dead = {root.get(v, v) for v in (*node.inputs, *node.outputs)} - weights
            for value in dead:
                if value in alive and last.get(value, -1) <= index:
                    total -= alive.pop(value)
        return most

    def _times(self, node: Node) -> int:
        """How often one sample runs what a node calls: trips, branches, and the rows a batch was folded from."""
        if node.op == "loop":
            return int(node.attrs["trip"])
        callee = self.module.functions[callees(node)[0]]
        sizes: dict[str, Dim] = {}
        for formal, actual in zip(callee.inputs, node.inputs, strict=False):
            unify(formal.type, actual.type, sizes)
        rows = max((s.factor if isinstance(s, Sym) else int(s) for s in sizes.values()), default=1)
        return 2 if node.op == "guided" else rows


@dataclass(frozen=True)
class Part:
    """A part of a function: a call, a row of equal calls, or the function's own nodes."""

    name: str
    function: str
    times: int
    parameters: int
    flops: int


@dataclass(frozen=True)
class FunctionReport:
    """What a function comes to; bytes and flops are per sample."""

    function: str
    inputs: dict[str, str]
    outputs: dict[str, str]
    parameters: int
    buffers: int
    weight_bytes: int
    flops: int
    peak_bytes: int
    kept_bytes: int
    parts: tuple[Part, ...]
    read_bytes: int = 0  # of weights, in one run of a sampler
    uncached: tuple[int, int] | None = None  # flops and read_bytes of the sampler without block caching

    def data(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return asdict(self)

    def _savings(self) -> list[str]:
        lines = [f"  reads    {short(self.read_bytes, 'B')} of weights per run"] if self.read_bytes else []
        if self.uncached is not None:
            flops, read = self.uncached
            lines.append(f"  uncached {short(flops, '')} FLOPs per sample, {short(read, 'B')} of weights read")
        return lines

    def text(self) -> str:
        """As a table for a terminal."""
        lines = [
            self.function,
            *_listed("takes", self.inputs),
            *_listed("gives", self.outputs),
            f"  weights  {self.parameters:,} ({short(self.weight_bytes, 'B')})"
            + (f", and {self.buffers:,} in buffers" if self.buffers else ""),
            f"  flops    {short(self.flops, '')} per sample",
            *self._savings(),
            f"  memory   {short(self.peak_bytes, 'B')} per sample at peak; "
            f"{short(self.kept_bytes, 'B')} if all activations are kept for a backward pass",
            "",
        ]
        rows = [("part", "weights", "flops")]
        for p in self.parts:
            name = p.name + (f"  ({p.function})" if p.function else "")
            rows.append((name, short(p.parameters, ""), short(p.flops, "")))
        wide = [max(len(row[i]) for row in rows) for i in range(3)]
        lines += [f"  {n:<{wide[0]}}  {w:>{wide[1]}}  {f:>{wide[2]}}" for n, w, f in rows]
        return "\n".join(lines) + "\n"


def _listed(verb: str, values: dict[str, str]) -> list[str]:
    """One line per value; consecutive values of one type share a line."""
    lines = []
    for type, row in itertools.groupby(values.items(), key=lambda item: item[1]):
        names = [name for name, _ in row]
        few = len(names) < 4
        each = names if few else [f"{names[0]} … {names[-1]}"]
        lines += [f"  {verb}    {name}: {type}" + ("" if few else f"  ×{len(names)}") for name in each]
    return lines


def short(number: float, unit: str) -> str:
    """A number with three digits and a prefix: 119 G, 2.7 MB; bytes by powers of 1000 too."""
    prefixes = ["", "k", "M", "G", "T", "P"]
    while abs(number) >= 999.5 and len(prefixes) > 1:
        number, prefixes = number / 1000, prefixes[1:]
    prefix = prefixes[0]
    digits = f"{number:.3g}" if prefix else f"{number:.0f}"
    return f"{digits} {prefix}{unit}".rstrip()


def report(module: Module, function: str) -> FunctionReport:
    """The report of a function, or of an entry by its name."""
    fn = module.functions[module.entries.get(function, function)]
    weights = parameters(module, fn.name).values()
    costs = _Costs(module)
    return FunctionReport(
        fn.name,
        {v.name: str(v.type) for v in fn.inputs},
        {v.name: str(v.type) for v in fn.outputs},
        sum(p.type.count() for p in weights if p.kind == "weight"),
        sum(p.type.count() for p in weights if p.kind != "weight"),
        sum(bytes_of(p.type) for p in weights if p.kind == "weight"),
        costs.flops(fn.name),
        costs.peak(fn.name),
        costs.kept(fn.name),
        tuple(_parts(module, fn, costs)),
    )


def _parts(module: Module, fn: Function, costs: _Costs) -> Sequence[Part]:
    """The calls of a function in order, equal ones in a row together, then what it does itself."""
    parts, own = [], 0
    seen: set[str] = {path for path, p in parameters(module, fn.name).items() if p.kind != "weight"}
    for group in groups_of(module, fn):
        called = [n for n in group.nodes if n.op in CONTROL]
        own += sum(costs.node_flops(n) for n in group.nodes if n.op not in CONTROL)
        if not called:
            continue
        paths = {
            path: p for n in called for path, p in parameters(module, callees(n)[0], n.attrs.get("name", "")).items()
        }
        count = sum(p.type.count() for path, p in paths.items() if path not in seen)
        seen.update(paths)
        target = callees(called[0])[0]
        parts.append(Part(group.name, target, group.times, count, sum(map(costs.node_flops, called))))
    mine = [p for p in fn.params if p.kind == "weight" and p.name not in seen]
    parts.append(Part("its own", "", 1, sum(p.type.count() for p in mine), own))
    return parts


__all__ = [
    "FunctionReport",
    "Part",
    "activation_bytes",
    "bytes_of",
    "flops",
    "graph_svg",
    "report",
    "short",
]
