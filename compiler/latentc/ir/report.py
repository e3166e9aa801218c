"""Reports of functions, part by part, and of the weights that samplers read; for `show`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from latentc.ir.core import Function, Module, callees, parameters
from latentc.ir.costs import Costs, bytes_of
from latentc.ir.groups import groups_of
from latentc.ir.ops import CONTROL


@dataclass(frozen=True)
class Part:
    """A part of a function: a call, a run of equal calls, or the function's own nodes."""

    name: str
    function: str
    times: int
    parameters: int
    flops: int


@dataclass(frozen=True)
class FunctionReport:
    """Cost summary of a function; bytes and FLOPs are per sample."""

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
        if len(names) < 4:
            lines += [f"  {verb}    {name}: {type}" for name in names]
        else:
            lines.append(f"  {verb}    {names[0]} … {names[-1]}: {type}  ×{len(names)}")
    return lines


def short(number: float, unit: str) -> str:
    """A number with three digits and a prefix for powers of 1000, also of bytes: `119 G`, `2.7 MB`."""
    prefixes = ["", "k", "M", "G", "T", "P"]
    while abs(number) >= 999.5 and len(prefixes) > 1:
        number, prefixes = number / 1000, prefixes[1:]
    prefix = prefixes[0]
    digits = f"{number:.3g}" if prefix else f"{number:.0f}"
    return f"{digits} {prefix}{unit}".rstrip()


def report(module: Module, function: str) -> FunctionReport:
    """The report of a function or an entry, by name."""
    fn = module.functions[module.entries.get(function, function)]
    weights = parameters(module, fn.name).values()
    costs = Costs(module.functions)
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


def _parts(module: Module, fn: Function, costs: Costs) -> Sequence[Part]:
    """The calls of a function in order, runs of equal ones together, then its own nodes."""
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


@dataclass(frozen=True)
class LoopReads:
    """A loop: `bytes` of weights are read in each of its `trip` steps."""

    body: str
    trip: int
    bytes: int


@dataclass(frozen=True)
class SamplerReads:
    """Bytes of weights that an entry reads: `once` outside its loops, the rest in each step."""

    once: int
    loops: tuple[LoopReads, ...]

    @property
    def total(self) -> int:
        """Bytes of weights read in one run."""
        return self.once + sum(loop.trip * loop.bytes for loop in self.loops)

    def data(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return {**asdict(self), "total": self.total}

    def text(self) -> str:
        """As lines for a terminal."""
        lines = [f"  {short(loop.bytes, 'B')} per step × {loop.trip}  ({loop.body})" for loop in self.loops]
        once = [f"  {short(self.once, 'B')} once"] if self.once else []
        return "\n".join([f"weights read: {short(self.total, 'B')}", *once, *lines]) + "\n"


def weights_read(module: Module, entry: str) -> SamplerReads:
    """The weights that an entry (or a function, by its name) reads. Inner loops count in the step around them."""
    costs = Costs(module.functions)
    fn = module.functions[module.entries.get(entry, entry)]
    bodies = [(node.attrs["body"], int(node.attrs["trip"])) for node in fn.nodes if node.op == "loop"]
    loops = tuple(LoopReads(body, trip, costs.weights(body)) for body, trip in bodies)
    return SamplerReads(costs.weights(fn.name) - sum(loop.trip * loop.bytes for loop in loops), loops)
