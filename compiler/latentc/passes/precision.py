"""Mixed precision: decides which values are f16 or bf16, and inserts the casts between them and f32.

In networks, matmuls, attention and elementwise ops run in half precision. Norms, softmax and other reductions,
exponentials and the timestep embedding stay in float32, and so do the sampler around the networks and the inputs and
outputs of entries. Values that only networks exchange (key-value caches) are kept in half precision. Casts are ordinary
nodes, so any backend can run the result.

The rule: every op either computes in half precision, or computes in float32 ("wide"), or only moves values and keeps
their dtype; the ops that choose between experts are wide. An input or param of a function is half if any op that its
value reaches computes in half; a param has one dtype wherever its weight is used. A carried value of a sampler's loop
is half only if no op of the sampler itself computes with it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

import ml_dtypes
import networkx as nx
import numpy as np

from latentc.ir.builder import ModuleBuilder, Rewriter, Var, as_tuple
from latentc.ir.core import Function, Module, Node, Value, callees, frozen, makers, walk
from latentc.ir.types import FLOATS

Precision = Literal["fp32", "fp16", "bf16"]
HALF: dict[str, str] = {"fp16": "f16", "bf16": "bf16"}

_HALVES = frozenset(HALF.values())
# fmt: off
_COMPUTES = frozenset((
    "linear", "matmul", "conv", "conv_transpose", "attention", "rotary", "add", "sub", "mul", "silu", "gelu",
    "mish", "elu", "leaky_relu",
    "tanh", "sigmoid", "quantize", "dequantize", "fake_quantize_nvfp4", "avg_pool",
))
# These return values that they are given (or their negatives), so they are exact in any dtype.
_MOVES = frozenset((
    "reshape", "transpose", "broadcast_to", "concat", "split", "unbind", "slice", "pad", "take", "take_along",
    "update_slice", "embedding", "where", "stop_gradient", "dropout", "max", "maximum", "minimum", "relu", "neg", "abs",
    "clamp", "upsample_nearest", "max_pool",
))
# fmt: on
_WIDE_OPERAND = {"fake_quantize_nvfp4": 1}  # {op that computes in half: number of an operand that stays in float32}
_LITERALS = frozenset(("constant", "full"))  # can be created directly in the dtype that is needed
_Flags = frozenset[str]  # the kinds of ops that a value reaches: "half", "wide"
_NONE: _Flags = frozenset()


def precision(module: Module, arithmetic: Precision) -> Module:
    """Makes the networks compute in the precision `arithmetic`; returns the module unchanged if nothing narrows.

    The module is at stage `expanded` and its floats are f32. Entries keep their signature.
    """
    return module if arithmetic == "fp32" else _Narrowing(module, HALF[arithmetic]).run()


def caches_in_half(module: Module, arithmetic: Precision) -> Module:
    """Keeps only the key-value caches in half precision; returns the module unchanged if nothing narrows.

    For engines that choose the precision of ops themselves: they would carry caches in f32 and cast them in each step.
    """
    if arithmetic == "fp32" or not any(node.op == "update_slice" for _, node in walk(module)):
        return module
    return _Narrowing(module, HALF[arithmetic], frozenset(["update_slice"])).run()


class _Narrowing:
    def __init__(self, module: Module, dtype: str, computes: frozenset[str] = _COMPUTES) -> None:
        self.module, self.dtype, self.computes = module, dtype, computes
        self.owner = ModuleBuilder(module)
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

    # ---- which ops values reach

    def _reached(self) -> dict[str, dict[Value, _Flags]]:
        """{function: {value: flags}}; those of a param are the union over all uses of its weight."""
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
            elif node.op != "full":  # it reads only the size of its operand
                kind = "half" if inside and self.narrows(node) else "wide"
                for i, value in enumerate(node.inputs):
                    add(value, frozenset(["wide" if i == _WIDE_OPERAND.get(node.op) else kind]))
        return flags

    def narrows(self, node: Node) -> bool:
        """True if a node inside a network computes in half precision."""
        return node.op in self.computes and node not in self.routers

    # ---- rewriting

    def _function(self, fn: Function, root: bool, loop: Node | None) -> None:
        inside, reached = fn.name in self.networks, self.reached[fn.name]
        narrow = {v for v in fn.inputs if not root and v.type.is_float and _is_half(reached.get(v, _NONE), inside)}
        narrow |= {p.value for p in fn.params if p.type.is_float and _is_half(reached.get(p.value, _NONE), True)}
        if loop is None:
            self._rewrite(fn, narrow, dict.fromkeys(fn.outputs, "f32") if root else {})
            return
        # A carried value can be half only if the body also computes it in half: casting it back would lose precision.
        first, count = 1 + loop.attrs["invariants"], loop.attrs["carried"]
        carried = fn.inputs[first : first + count]
        while True:
            wanted = [self.dtype if v in narrow else "f32" for v in carried]
            dtypes = [v.type.dtype for v in self._rewrite(fn, narrow, {}).outputs[:count]]
            lost = {v for v, w, d in zip(carried, wanted, dtypes, strict=True) if w in _HALVES and d == "f32"}
            if not lost:
                break
            narrow -= lost
        if any(v.type.is_float and w != d for v, w, d in zip(carried, wanted, dtypes, strict=True)):
            self._rewrite(fn, narrow, dict(enumerate(wanted)))

    def _rewrite(self, fn: Function, narrow: set[Value], outputs: Mapping[Any, str]) -> Function:
        """Rewrites `fn` with the inputs and params of `narrow` in half; `outputs` {value or its number: dtype}."""

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
        new = self.owner.functions[fn.name]
        if _values(new) == _values(fn):
            self.owner.functions[fn.name] = new = fn
        return new

    def _entry(self, name: str) -> str:
        """The function of an entry; if its signature changed, a new one that casts to and from the old types."""
        old, new = self.module.functions[name], self.owner.functions[name]
        same = [v.type for v in (*old.inputs, *old.outputs)] == [v.type for v in (*new.inputs, *new.outputs)]
        if same:
            return name
        b = self.owner.function(f"{name}.f32")
        given = [b.input(v.name, v.type) for v in old.inputs]

        def cast(x: Var, like: Value) -> Var:
            return x if x.type.dtype == like.type.dtype else b.cast(x, to=like.type.dtype)

        ins = map(cast, given, new.inputs)
        outs = as_tuple(b.call(name, "", *ins, out=" ".join(v.name for v in new.outputs)))
        b.output(list(map(cast, outs, old.outputs)))
        return b.finish(old.doc)


class _Body:
    """One function being rewritten; `env` {old value: its replacement, in the dtype it is computed in}."""

    def __init__(self, work: _Narrowing, b: Rewriter, fn: Function, env: dict[Value, Value]) -> None:
        self.work, self.b, self.env = work, b, env
        self.inside = fn.name in work.networks
        self.reached = work.reached[fn.name]
        self.literals = {n.outputs[0]: n for n in fn.nodes if n.op in _LITERALS}
        self.casts: dict[tuple[Value, str], Value] = {}

    def at(self, value: Value, dtype: str) -> Value:
        """The value in a dtype; if it has another, cast to it, or for a literal created again."""
        now = self.env[value]
        if now.type.dtype == dtype or not value.type.is_float:
            return now
        key = (value, dtype)
        if key not in self.casts:
            literal = self.literals.get(value)
            out = self.b.fresh(f"{value.name}_{dtype}", value.type.with_dtype(dtype))
            if literal is not None:
                self._create(literal, out)
            else:
                self.b.append(Node("cast", (now,), (out,), {"to": dtype}))
            self.casts[key] = out
        return self.casts[key]

    def visit(self, node: Node) -> None:
        outs = tuple(Value(o.name, o.type.with_dtype(d)) for o, d in zip(node.outputs, self.dtypes(node), strict=True))
        outs = tuple(o if new.type == o.type else new for o, new in zip(node.outputs, outs, strict=True))
        self.env.update(zip(node.outputs, outs, strict=True))
        if node.op in _LITERALS:
            self._create(node, outs[0])
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
        if node.op in _LITERALS:
            return wanted
        if node.op == "cast":
            return out.type.dtype if node.inputs[0].type.is_float else wanted
        if node.op in _MOVES - self.work.computes:
            # Literals take any dtype. If the other operands differ, the result has the dtype that its users need.
            found = {self.env[v].type.dtype for v in node.inputs if v.type.is_float and v not in self.literals}
            return found.pop() if len(found) == 1 else wanted
        return half if self.inside and self.work.narrows(node) else "f32"

    def wanted(self, node: Node, outs: Iterable[Value]) -> list[str]:
        """Dtypes in which a node reads its operands."""
        own = [self.env[v].type.dtype for v in node.inputs]
        if names := callees(node):
            formals = self.work.owner.functions[names[0]].inputs
            return [v.type.dtype for v in (formals[1:] if node.op == "loop" else formals)]
        if node.op == "cast":
            return own
        dtype = self.work.dtype if self.inside and node.op == "quantize" else "f32"  # of comparisons too
        for o in outs:
            dtype = o.type.dtype if o.type.is_float else dtype
        return ["f32" if i == _WIDE_OPERAND.get(node.op) else dtype for i in range(len(own))]

    def _create(self, node: Node, out: Value) -> None:
        """Appends a literal in the dtype of `out`, clipped to its finite range."""
        attrs = {**node.attrs, "dtype": out.type.dtype}
        if out.type.dtype in _HALVES:
            most = float(ml_dtypes.finfo(FLOATS[out.type.dtype]).max)
            clipped = np.clip(np.asarray(node.attrs["value"]), -most, most)
            attrs["value"] = np.asarray(clipped) if node.op == "constant" else float(clipped)
        ins = tuple(self.env[v] for v in node.inputs)
        self.b.append(Node(node.op, ins, (out,), attrs, node.loc))


def _values(fn: Function) -> tuple[object, ...]:
    """Every value of a function with its place; equal before and after rewriting if no dtype changed."""
    return fn.inputs, [p.value for p in fn.params], [(n.inputs, n.outputs) for n in fn.nodes], fn.outputs


def _is_half(reached: _Flags, network: bool) -> bool:
    return "half" in reached and (network or "wide" not in reached)


def _networks(module: Module) -> set[str]:
    """The functions of networks: those reached through a call under a name, and entries that are methods."""
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


# Ops that rank tokens or experts by their operands.
_CHOOSE = frozenset(("top_k", "argsort", "pool_choice"))
# Ops that compute these operands.
_RANKED = frozenset(("softmax", "sigmoid", "silu", "add", "linear", "neg", "transpose"))


def _routers(fn: Function) -> set[Node]:
    """The nodes that compute the routing to experts; rounding them could send a token to other experts."""
    made_by = makers(fn.nodes)
    found: set[Node] = set()
    left = [v for n in fn.nodes if n.op in _CHOOSE for v in n.inputs]
    while left:
        node = made_by.get(left.pop())
        if node is not None and node not in found and node.op in _RANKED:
            found.add(node)
            left += node.inputs
    return found


def _owners(module: Module) -> dict[str, str]:
    """{function: representative of all functions that use the same weights}.

    The following share weights: the methods of a class; functions called under one name by functions that share weights
    (the halves of a split method); a function called without a name and its caller; entries that are not methods.
    """
    same = nx.utils.UnionFind(module.functions)
    first: dict[Hashable, str] = {}
    entries = set(module.entries.values())
    for name, fn in module.functions.items():
        if fn.origin:
            same.union(name, first.setdefault((fn.origin.cls, frozen(fn.origin.args)), name))
        elif name in entries:
            same.union(name, first.setdefault("entries", name))
    while True:  # joining two functions may join the functions that they call
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
