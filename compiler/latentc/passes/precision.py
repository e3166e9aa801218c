"""Half precision as a rule of the type system: which values are f16 or bf16, with the casts between them and f32.

Networks compute in half: products, attention, elementwise work. What sums or spreads over magnitudes stays f32: norms,
softmax and other reductions, exponentials, the embedding of a time. Everything of the sampler around the networks stays
f32 too, and so do the inputs and outputs of entries; only what networks alone hand each other (key-value caches) is
kept in half. Casts are ordinary nodes, so any backend can run the result.

The rule, callees before callers. Every op is of one of three kinds: half, wide, or one that only moves values and keeps
their dtype; what decides between experts is wide. A function's input or param is half if anything that its value
reaches computes in half; a param is so wherever its weight is bound. In a sampler a carried value is half only if
nothing computes with it there.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

import ml_dtypes
import networkx as nx
import numpy as np

from latentc.ir.builder import ModuleBuilder, Var
from latentc.ir.core import Function, Module, Node, Value, callees, frozen, walk
from latentc.ir.rewriter import Rewriter
from latentc.ir.types import FLOATS

Precision = Literal["fp32", "fp16", "bf16"]
HALF: dict[str, str] = {"fp16": "f16", "bf16": "bf16"}

_HALVES = frozenset(HALF.values())
# fmt: off
_COMPUTES = frozenset((
    "linear", "matmul", "conv", "conv_transpose", "attention", "rotary", "add", "sub", "mul", "silu", "gelu",
    "mish", "leaky_relu",
    "tanh", "sigmoid", "quantize", "dequantize", "avg_pool",
))
# These give back values they were given (or their negatives), so they are exact in any dtype.
_MOVES = frozenset((
    "reshape", "transpose", "broadcast_to", "concat", "split", "unbind", "slice", "pad", "take", "take_along",
    "update_slice", "embedding", "where", "stop_gradient", "dropout", "max", "maximum", "minimum", "relu", "neg", "abs",
    "clamp", "upsample_nearest", "max_pool",
))
# fmt: on
_MADE = frozenset(("constant", "full"))  # made in the dtype that is wanted
_Flags = frozenset[str]  # of what a value reaches: "half", "wide"
_NONE: _Flags = frozenset()


def precision(module: Module, arithmetic: Precision) -> Module:
    """The module, its networks computing in `arithmetic`; the same object for fp32, and where nothing narrows.

    Takes a module at stage `expanded` with floats in f32; entries keep their signature.
    """
    return module if arithmetic == "fp32" else _Narrowing(module, HALF[arithmetic]).run()


def caches_in_half(module: Module, arithmetic: Precision) -> Module:
    """The module with its key-value caches kept in half and all else as it is; the same object where nothing narrows.

    For an engine that chooses its arithmetic itself: what a loop carries it would keep in f32, and narrow every step.
    """
    if arithmetic == "fp32" or not any(node.op == "update_slice" for _, node in walk(module)):
        return module
    return _Narrowing(module, HALF[arithmetic], frozenset(["update_slice"])).run()


class _Narrowing:
    def __init__(self, module: Module, dtype: str, computes: frozenset[str] = _COMPUTES) -> None:
        self.module, self.dtype, self.computes = module, dtype, computes
        self.owner = ModuleBuilder()
        self.owner.adopt(module)
        self.networks = _networks(module)
        self.owners = _owners(module)
        self.routers = {n for name in self.networks for n in _routers(module.functions[name])}
        self.reached = self._reached()

    def run(self) -> Module:
        roots = set(self.module.entries.values()) - self.networks
        bodies = {n.attrs["body"]: n for fn in self.module.functions.values() for n in fn.nodes if n.op == "loop"}
        for name, fn in self.module.functions.items():
            self._function(fn, name in roots, bodies.get(name))
        entries = {entry: self._entry(name) for entry, name in self.module.entries.items()}
        functions = self.owner.functions
        if entries == self.module.entries and all(functions[n] is fn for n, fn in self.module.functions.items()):
            return self.module
        return Module(dict(functions), entries)

    # ---- what values reach

    def _reached(self) -> dict[str, dict[Value, _Flags]]:
        """For each function what the values in it reach, params by what they reach wherever they are bound."""
        found: dict[str, dict[Value, _Flags]] = {}
        for name, fn in self.module.functions.items():
            found[name] = self._flags(fn, found)
        shared: dict[tuple[str, str], _Flags] = {}
        for name, fn in self.module.functions.items():
            for p in fn.params:
                key = (self.owners[name], p.name)
                shared[key] = shared.get(key, _NONE) | found[name].get(p.value, _NONE)
        for name, fn in self.module.functions.items():
            for p in fn.params:
                found[name][p.value] = shared[self.owners[name], p.name]
        return found

    def _flags(self, fn: Function, done: Mapping[str, Mapping[Value, _Flags]]) -> dict[Value, _Flags]:
        flags: dict[Value, _Flags] = {}
        inside = fn.name in self.networks

        def add(value: Value, more: _Flags) -> None:
            if value.type.is_float:
                flags[value] = flags.get(value, _NONE) | more

        if fn.name in self.module.entries.values() and not inside:
            for value in fn.outputs:
                add(value, frozenset(["wide"]))
        for node in reversed(fn.nodes):
            if names := callees(node):
                callee = self.module.functions[names[0]]
                formals = callee.inputs[1:] if node.op == "loop" else callee.inputs
                for actual, formal in zip(node.inputs, formals, strict=True):
                    narrow = _is_half(done[callee.name].get(formal, _NONE), callee.name in self.networks)
                    known = done[callee.name].get(formal, _NONE)
                    add(actual, frozenset(["half" if narrow else "wide"]) if known else _NONE)
            elif node.op in _MOVES - self.computes:
                reached = _NONE.union(*(flags.get(o, _NONE) for o in node.outputs))
                for value in node.inputs:
                    add(value, reached)
            elif node.op != "full":  # which asks its operand for nothing but its size
                kind = "half" if inside and self.narrows(node) else "wide"
                for value in node.inputs:
                    add(value, frozenset([kind]))
        return flags

    def narrows(self, node: Node) -> bool:
        """Whether a node computes in half where it is inside of a network."""
        return node.op in self.computes and node not in self.routers

    # ---- rewriting

    def _function(self, fn: Function, root: bool, loop: Node | None) -> None:
        inside, reached = fn.name in self.networks, self.reached[fn.name]
        narrow = {v for v in fn.inputs if not root and v.type.is_float and _is_half(reached.get(v, _NONE), inside)}
        narrow |= {p.value for p in fn.params if p.type.is_float and _is_half(reached.get(p.value, _NONE), True)}
        if loop is None:
            self._rewrite(fn, narrow, dict.fromkeys(fn.outputs, "f32") if root else {})
            return
        # A carried value is half where the body takes it and makes it so; what is made wide would lose digits.
        first, count = 1 + loop.attrs["invariants"], loop.attrs["carried"]
        carried = fn.inputs[first : first + count]
        while True:
            wanted = [self.dtype if v in narrow else "f32" for v in carried]
            made = self._rewrite(fn, narrow, {})
            dtypes = [v.type.dtype for v in made.outputs[:count]]
            lost = {v for v, w, d in zip(carried, wanted, dtypes, strict=True) if w in _HALVES and d == "f32"}
            if not lost:
                break
            narrow -= lost
        if any(v.type.is_float and w != d for v, w, d in zip(carried, wanted, dtypes, strict=True)):
            self._rewrite(fn, narrow, dict(enumerate(wanted)))

    def _rewrite(self, fn: Function, narrow: set[Value], outputs: Mapping[Any, str]) -> Function:
        """Rewrites `fn` with inputs and params in `narrow` in half; `outputs` {value or number: its dtype}."""

        def retyped(v: Value) -> Value:
            return Value(v.name, v.type.with_dtype(self.dtype)) if v in narrow else v

        inputs = tuple(retyped(v) for v in fn.inputs)
        params = tuple(p if p.value not in narrow else replace(p, value=retyped(p.value)) for p in fn.params)
        b = Rewriter(self.owner, fn.with_(inputs=inputs, params=params))
        body = _Body(self, b, fn, dict(zip(fn.inputs, inputs, strict=True)))
        body.env.update((old.value, new.value) for old, new in zip(fn.params, params, strict=True))
        for node in fn.nodes:
            body.visit(node)
        results = []
        for number, v in enumerate(fn.outputs):
            dtype = outputs.get(v, outputs.get(number))
            results.append(body.at(v, dtype) if dtype and v.type.is_float else body.env[v])
        b.output([Var(v, b) for v in results])
        b.finish(fn.doc)
        made = self.owner.functions[fn.name]
        if _values(made) == _values(fn):
            self.owner.functions[fn.name] = made = fn
        return made

    def _entry(self, name: str) -> str:
        """The function of an entry: one that takes and gives f32, as the function did before."""
        old, new = self.module.functions[name], self.owner.functions[name]
        same = [v.type for v in (*old.inputs, *old.outputs)] == [v.type for v in (*new.inputs, *new.outputs)]
        if same:
            return name
        b = self.owner.function(f"{name}.f32")
        given = [b.input(v.name, v.type) for v in old.inputs]
        ins = [
            x if x.type.dtype == v.type.dtype else b.cast(x, to=v.type.dtype)
            for x, v in zip(given, new.inputs, strict=True)
        ]
        made = b.call(name, "", *ins, out=" ".join(v.name for v in new.outputs))
        outs = made if isinstance(made, tuple) else (made,)
        b.output(
            [
                y if y.type.dtype == v.type.dtype else b.cast(y, to=v.type.dtype)
                for y, v in zip(outs, old.outputs, strict=True)
            ]
        )
        return b.finish(old.doc)


class _Body:
    """One function being rewritten: `env` {old value: the value that stands for it, in the dtype it was made in}."""

    def __init__(self, work: _Narrowing, b: Rewriter, fn: Function, env: dict[Value, Value]) -> None:
        self.work, self.b, self.env = work, b, env
        self.inside = fn.name in work.networks
        self.reached = work.reached[fn.name]
        self.made = {n.outputs[0]: n for n in fn.nodes if n.op in _MADE}
        self.casts: dict[tuple[Value, str], Value] = {}

    def at(self, value: Value, dtype: str) -> Value:
        """The value in a dtype, cast or made again where it has another."""
        now = self.env[value]
        if now.type.dtype == dtype or not value.type.is_float:
            return now
        key = (value, dtype)
        if key not in self.casts:
            maker = self.made.get(value)
            out = self.b.fresh(f"{value.name}_{dtype}", value.type.with_dtype(dtype))
            if maker is not None:
                self._make(maker, out)
            else:
                self.b.append(Node("cast", (now,), (out,), {"to": dtype}))
            self.casts[key] = out
        return self.casts[key]

    def visit(self, node: Node) -> None:
        outs = tuple(Value(o.name, o.type.with_dtype(d)) for o, d in zip(node.outputs, self.dtypes(node), strict=True))
        outs = tuple(o if new.type == o.type else new for o, new in zip(node.outputs, outs, strict=True))
        self.env.update(zip(node.outputs, outs, strict=True))
        if node.op in _MADE:
            self._make(node, outs[0])
            return
        ins = tuple(self.at(v, d) for v, d in zip(node.inputs, self.wanted(node, outs), strict=True))
        attrs = {**node.attrs, "to": outs[0].type.dtype} if node.op == "cast" else node.attrs
        self.b.append(Node(node.op, ins, outs, attrs, node.loc))

    def dtypes(self, node: Node) -> list[str]:
        """Dtypes of a node's outputs."""
        if names := callees(node):
            callee = self.work.owner.functions[names[0]]
            return [v.type.dtype for v in callee.outputs]
        return [self._dtype(node, o) if o.type.is_float else o.type.dtype for o in node.outputs]

    def _dtype(self, node: Node, out: Value) -> str:
        half = self.work.dtype
        wanted = half if _is_half(self.reached.get(out, _NONE), self.inside) else "f32"
        if node.op in _MADE:
            return wanted
        if node.op == "cast":  # of numbers that were no floats
            return out.type.dtype if node.inputs[0].type.is_float else wanted
        if node.op in _MOVES - self.work.computes:
            # Constants have no dtype of their own; where others differ, the result has the one that is wanted.
            found = {self.env[v].type.dtype for v in node.inputs if v.type.is_float and v not in self.made}
            return found.pop() if len(found) == 1 else wanted
        return half if self.inside and self.work.narrows(node) else "f32"

    def wanted(self, node: Node, outs: Iterable[Value]) -> list[str]:
        """Dtypes a node takes its operands in."""
        own = [self.env[v].type.dtype for v in node.inputs]
        if names := callees(node):
            formals = self.work.owner.functions[names[0]].inputs
            return [v.type.dtype for v in (formals[1:] if node.op == "loop" else formals)]
        if node.op == "cast":
            return own
        dtype = self.work.dtype if self.inside and node.op == "quantize" else "f32"  # of comparisons too
        for o in outs:
            dtype = o.type.dtype if o.type.is_float else dtype
        return [dtype] * len(own)

    def _make(self, node: Node, out: Value) -> None:
        """A constant or a fill in the dtype of `out`, the largest finite number standing for those beyond it."""
        attrs = {**node.attrs, "dtype": out.type.dtype}
        if out.type.dtype in _HALVES:
            most = float(ml_dtypes.finfo(FLOATS[out.type.dtype]).max)
            clipped = np.clip(np.asarray(node.attrs["value"]), -most, most)
            attrs["value"] = np.asarray(clipped) if node.op == "constant" else float(clipped)
        ins = tuple(self.env[v] for v in node.inputs)
        self.b.append(Node(node.op, ins, (out,), attrs, node.loc))


def _values(fn: Function) -> tuple[object, ...]:
    """Every value of a function, where it stands: what is rewritten keeps those whose dtype it keeps."""
    return fn.inputs, [p.value for p in fn.params], [(n.inputs, n.outputs) for n in fn.nodes], fn.outputs


def _is_half(reached: _Flags, network: bool) -> bool:
    return "half" in reached and (network or "wide" not in reached)


def _networks(module: Module) -> set[str]:
    """The functions that networks consist of: those reached through a call under a name, or entries of a class."""
    found: set[str] = set()

    def visit(name: str, inside: bool) -> None:
        inside = inside or module.functions[name].origin is not None
        if (name, inside) in seen:
            return
        seen.add((name, inside))
        if inside:
            found.add(name)
        for node in module.functions[name].nodes:
            for callee in callees(node):
                visit(callee, inside or bool(node.attrs.get("name")))

    seen: set[tuple[str, bool]] = set()
    for root in module.entries.values():
        visit(root, False)
    return found


def _routers(fn: Function) -> set[Node]:
    """The nodes whose numbers decide which experts a token goes through: rounded, they would send it elsewhere."""
    made = {o: n for n in fn.nodes for o in n.outputs}
    found: set[Node] = set()
    left = [v for n in fn.nodes if n.op == "top_k" for v in n.inputs]
    while left:
        node = made.get(left.pop())
        if node is not None and node not in found and node.op in ("softmax", "sigmoid", "add", "linear"):
            found.add(node)
            left += node.inputs
    return found


def _owners(module: Module) -> dict[str, str]:
    """For each function the one that stands for all that bind the same weights.

    These are the methods of a class, what is called under one name by such functions (the halves of a split method),
    what is called without a name and its caller, and the entries that are no methods.
    """
    same = nx.utils.UnionFind(module.functions)
    first: dict[Hashable, str] = {}
    entries = set(module.entries.values())
    for name, fn in module.functions.items():
        if fn.origin:
            same.union(name, first.setdefault((fn.origin.cls, frozen(fn.origin.args)), name))
        elif name in entries:
            same.union(name, first.setdefault("entries", name))
    while True:  # what is called by functions found to be one may be one too
        under: dict[tuple[str, str], str] = {}
        joined = False
        for caller, node in walk(module):
            for callee in callees(node):
                prefix = node.attrs.get("name", "")
                other = under.setdefault((same[caller.name], prefix), callee) if prefix else caller.name
                joined |= same[other] != same[callee]
                same.union(other, callee)
        if not joined:
            return {name: same[name] for name in module.functions}


__all__ = ["HALF", "Precision", "precision"]
