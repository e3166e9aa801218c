"""Functions as they run inside a block of tokens: caches do not change, and the block's own rows are kept separately.

Symbols: B batch, H query heads, G key heads, T rows of a cache, n rows of a block, d channels of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from latentc.ir.builder import Builder, ModuleBuilder, Rewriter, Var, as_tuple
from latentc.ir.core import Function, Node, Value
from latentc.ir.ops.attention import attention_scale
from latentc.ir.types import TensorType, i64
from latentc.passes.kv_use import CacheUse, cache_use


@dataclass
class Variants:
    """The functions of a module in the form that runs inside a block, each built once."""

    owner: ModuleBuilder
    built: dict[tuple[str, tuple[int, ...], int], str] = field(default_factory=dict)

    def variant(self, name: str, caches: tuple[int, ...], size: int) -> str:
        """The name of a function's form inside a block of `size` tokens; `caches` are their numbers among its inputs.

        Its masks cover the rows of both parts. It has further inputs: the block's rows of each cache, the number of the
        current row in the block, and the number of the block's first row in the caches. Where the function returned
        grown caches, the form returns the block's rows.
        """
        key = (name, caches, size)
        if key not in self.built:
            fn = self.owner.functions[name]
            held = [fn.inputs[i] for i in caches]
            use = cache_use(self.owner.functions, fn, held)
            assert use is not None  # part of the caller's use, which has been checked
            recent = [Value(f"{v.name}.recent", _rows(v, size)) for v in held]
            slot, begin = Value("slot", i64()), Value("begin", i64())
            inputs = [Value(v.name, _both_parts(v, size)) if v in use.masks else v for v in fn.inputs]
            origin = fn.origin and replace(fn.origin, method=f"{fn.origin.method}_in_block")
            changed = fn.with_(name=self.owner.unique(f"{name}_in_block"), origin=origin)
            b = Rewriter(self.owner, changed.with_(inputs=(*inputs, *recent, slot, begin)))
            env = {v: Var(new, b) for v, new in zip(fn.inputs, inputs, strict=True)}
            env.update((p.value, Var(p.value, b)) for p in fn.params)
            block = dict(zip(held, (Var(v, b) for v in recent), strict=True))
            b.output(BodyInBlock(self, b, fn, use, env, block, size, Var(slot, b), Var(begin, b)).run(b.keep))
            self.built[key] = b.finish(fn.doc)
        return self.built[key]


def _rows(cache: Value, size: int) -> TensorType:
    shape = cache.type.shape
    return cache.type.with_shape([*shape[:2], size, shape[3]])


def _both_parts(mask: Value, size: int) -> TensorType:
    return mask.type.with_shape([1, 1, 1, int(mask.type.shape[3]) + size])  # type: ignore[arg-type]


@dataclass
class BodyInBlock:
    """The nodes of a function, rewritten to run inside a block.

    `env` {value of `fn`: its replacement}; `recent` {cache of `fn`, grown or not: the block's rows of it}; `slot`, the
    row of the block that is written; `begin`, the row of the caches where the block begins.
    """

    variants: Variants
    b: Builder
    fn: Function
    use: CacheUse
    env: dict[Value, Var]
    recent: dict[Value, Var]
    size: int
    slot: Var
    begin: Var

    def run(self, keep: Callable[[Node, Sequence[Var]], Sequence[Var]]) -> list[Var]:
        """Appends the nodes, with `keep` those that do not touch caches; returns the function's results."""
        for node in self.fn.nodes:
            outs = self._node(node)
            if outs is None:
                outs = keep(node, [self.env[v] for v in node.inputs])
            for old, new in zip(node.outputs, outs, strict=True):
                if old in self.use.grown:
                    self.recent[old] = new
                    self.env[old] = self.env[self.use.grown[old]]
                else:
                    self.env[old] = new
        return [self.recent[v] if v in self.use.grown else self.env[v] for v in self.fn.outputs]

    def _node(self, node: Node) -> Sequence[Var] | None:
        """The replacement of a node; None if it does not touch caches."""
        if node.op == "update_slice" and node.outputs[0] in self.use.grown:
            return [self.b.update_slice(self.recent[node.inputs[0]], self.env[node.inputs[1]], self.slot, axis=2)]
        if node.outputs[0] in self.use.cast:
            (grown,), (out,) = node.inputs, node.outputs
            self.recent[out] = self.b.cast(self.recent[grown], to=node.attrs["to"])
            return [self.b.cast(self.env[grown], to=node.attrs["to"])]
        if node.outputs[0] in self.use.masks:
            return [self._mask(node.outputs[0])]
        if node.op == "attention" and node.inputs[1] in self.recent:
            return [self._attention(node)]
        caches = tuple(i for i, v in enumerate(node.inputs) if v in self.recent)
        if node.op != "call" or not caches:
            return None
        variant = self.variants.variant(node.attrs["fn"], caches, self.size)
        ins = [self.env[v] for v in node.inputs] + [self.recent[node.inputs[i]] for i in caches]
        names = " ".join(o.name for o in node.outputs)
        args = node.attrs["args"]
        return as_tuple(self.b.call(variant, node.attrs["name"], *ins, self.slot, self.begin, args=args, out=names))

    def _mask(self, value: Value) -> Var:
        """The mask [1, 1, 1, T + n]: the caches' rows before the block, then the block's rows up to this token."""
        b, rows = self.b, int(value.type.shape[3])  # type: ignore[arg-type]
        before = b.less(b.constant(np.arange(rows)), self.begin, out="before")
        own = b.less_equal(b.constant(np.arange(self.size)), self.slot, out="own")
        return b.reshape(b.concat(before, own, axis=0), shape=_both_parts(value, self.size).shape, out="mask")

    def _attention(self, node: Node) -> Var:
        """Attention to both parts under one softmax, written out."""
        b, q = self.b, self.env[node.inputs[0]]
        batch, heads, _, channels = q.shape
        keys, values = ((self.env[v], self.recent[v]) for v in node.inputs[1:3])
        groups = int(keys[0].shape[1])
        q = b.reshape(q, shape=(batch, groups, int(heads) // groups, channels))
        scale = attention_scale(q, node.attrs)
        q = q if scale == 1.0 else q * scale
        scores = b.concat(*(b.matmul(q, b.transpose(k, perm=(0, 1, 3, 2))) for k in keys), axis=3, out="scores")
        scores = b.where(self.env[node.inputs[3]], scores, b.scalar(-1e30, scores))
        p = b.softmax(scores, axis=-1)
        weights = b.split(p, axis=3, sizes=tuple(int(v.shape[2]) for v in values))
        seen = [b.matmul(w, v) for w, v in zip(weights, values, strict=True)]
        return b.reshape(b.add(*seen), shape=node.outputs[0].type.shape, out=node.outputs[0].name)
