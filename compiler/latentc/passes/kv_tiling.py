"""Key-value caches that grow a block of tokens at a time, not a token at a time.

An engine copies what a loop carries, so a loop over tokens copies every cache for each of them. Here it becomes a loop
over blocks of n tokens: inside a block the caches stand still, and only the block's own rows are carried; behind it
they are written into the caches at once. Attention then sees two parts, the rows before the block and its own, under
one softmax, so that the result is the same but for the order of sums.

Symbols: B batch, H query heads, G key heads, T rows of a cache, n rows of a block, d channels of a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.core import Function, Module, Node, Value, reachable
from latentc.ir.ops.attention import attention_scale
from latentc.ir.rewriter import Rewriter
from latentc.ir.types import TensorType, i64
from latentc.passes.rewrite import rewrite_function

SIZES = range(8, 33)
"""Tokens of a block that are tried where nobody says; loops of fewer steps than the most of them stay as they are."""

_Keep = Callable[[Node, Sequence[Var]], Sequence[Var]]
_Step = Callable[..., tuple[list[Var], list[Var]]]


def tile_caches(module: Module, size: int | None = None) -> Module:
    """The module with the caches of its sampling programs' loops grown `size` tokens at a time; 1 leaves them.

    Without a size it is about the root of the loop's steps: a token copies n rows, and a block T. The same module where
    no loop carries caches that a step only adds a row to and attends to.
    """
    if size == 1:
        return module
    owner = ModuleBuilder()
    owner.adopt(module)
    work = _Work(owner)
    names = [fn for entry, fn in module.entries.items() if entry.split(".")[0] == "sample"]
    changed = {name: _program(work, module.functions[name], size) for name in names}
    if all(changed[name] is module.functions[name] for name in names):
        return module
    whole = Module({**owner.functions, **changed}, module.entries)
    return whole.with_(functions={name: whole.functions[name] for name in reachable(whole)})


def blocks_of(trip: int, size: int | None = None) -> list[tuple[int, int, int]]:
    """(first step, blocks, steps of a block) of the loops that take the place of one over `trip` steps.

    Without a size the divisor next to the root, for an engine may hold the weights once a loop; else what does not fill
    a block comes first, in a shorter one.
    """
    if size is None:
        if trip <= SIZES[-1]:
            return []
        exact = [n for n in SIZES if trip % n == 0]
        size = min(exact, key=lambda n: abs(n - math.sqrt(trip))) if exact else SIZES[len(SIZES) // 3]
    rest, blocks = trip % size, trip // size
    return [(0, 1, rest)] * (rest > 0) + [(rest, blocks, size)] * (blocks > 0)


# ---- what a function does with caches


@dataclass
class _Use:
    """What a function does with the caches among its values: nothing but grow them by a row and attend up to it.

    `grown` {grown cache: the cache}; `widened` {a grown cache in another dtype: the grown cache}; `masks` of the
    attentions, made here or given; `position`, the row that is written.
    """

    grown: dict[Value, Value] = field(default_factory=dict)
    widened: dict[Value, Value] = field(default_factory=dict)
    masks: set[Value] = field(default_factory=set)
    position: Value | None = None


@dataclass
class _Work:
    owner: ModuleBuilder
    variants: dict[tuple[str, tuple[int, ...], int], str] = field(default_factory=dict)

    def use(self, fn: Function, caches: Sequence[Value]) -> _Use | None:
        """What `fn` does with `caches`; None where it does anything else with them, or with a mask."""
        found = _Use()
        positions: set[Value] = set()
        masked: set[tuple[Node, int]] = set()  # the operands that are masks
        for node in fn.nodes:
            held = [v for v in node.inputs if v in caches or v in found.grown or v in found.widened]
            if node.op == "update_slice" and held == [node.inputs[0]] and held[0] in caches:
                if node.attrs["axis"] % 4 != 2 or node.inputs[1].type.shape[2] != 1:
                    return None
                positions.add(node.inputs[2])
                found.grown[node.outputs[0]] = held[0]
            elif node.op == "cast" and held and held[0] in found.grown:
                found.widened[node.outputs[0]] = held[0]
            elif node.op == "attention" and held:
                if tuple(held) != node.inputs[1:3] or any(v in caches for v in held) or not _one_query(node):
                    return None
                masked.add((node, 3))
            elif node.op == "call" and held:
                callee = self.owner.functions[node.attrs["fn"]]
                inner = self.use(callee, [f for f, v in zip(callee.inputs, node.inputs, strict=True) if v in caches])
                if inner is None or not all(v in caches for v in held):
                    return None
                actual = dict(zip(callee.inputs, node.inputs, strict=True))
                if inner.position not in actual:  # a mask may be made inside, but the row comes from the loop
                    return None
                positions.add(actual[inner.position])
                masked.update((node, i) for i, f in enumerate(callee.inputs) if f in inner.masks)
                given = zip(node.outputs, callee.outputs, strict=True)
                found.grown.update((o, actual[inner.grown[f]]) for o, f in given if f in inner.grown)
            elif held:
                return None
        if len(positions) != 1 or set(found.grown.values()) != set(caches):
            return None
        (found.position,) = positions
        found.masks = {node.inputs[i] for node, i in masked}
        if not found.masks.union(caches, found.widened).isdisjoint(fn.outputs):
            return None
        if masked != {(n, i) for n in fn.nodes for i, v in enumerate(n.inputs) if v in found.masks}:
            return None
        made = {o: n for n in fn.nodes for o in n.outputs}
        up_to = (_shows_rows_up_to(m, found.position, made) for m in found.masks.difference(fn.inputs))
        return found if all(up_to) else None

    def variant(self, name: str, caches: tuple[int, ...], size: int) -> str:
        """The name of a function's form inside a block, `caches` being their places among its inputs.

        It takes masks of both parts, and behind its inputs the block's rows of its caches, the number of the row in
        them, and the first row of the block; it gives the block's rows where it gave grown caches.
        """
        key = (name, caches, size)
        if key not in self.variants:
            fn = self.owner.functions[name]
            held = [fn.inputs[i] for i in caches]
            use = self.use(fn, held)
            assert use is not None  # its caller's use has been looked at
            recent = [Value(f"{v.name}.recent", _rows(v, size)) for v in held]
            slot, begin = Value("slot", i64()), Value("begin", i64())
            inputs = [Value(v.name, _joined(v, size)) if v in use.masks else v for v in fn.inputs]
            origin = fn.origin and replace(fn.origin, method=f"{fn.origin.method}_in_block")
            made = fn.with_(name=self.owner.unique(f"{name}_in_block"), origin=origin)
            b = Rewriter(self.owner, made.with_(inputs=(*inputs, *recent, slot, begin)))
            env = {v: Var(new, b) for v, new in zip(fn.inputs, inputs, strict=True)}
            env.update((p.value, Var(p.value, b)) for p in fn.params)
            block = dict(zip(held, (Var(v, b) for v in recent), strict=True))
            b.output(_Body(self, b, fn, use, env, block, size, Var(slot, b), Var(begin, b)).run(b.keep))
            self.variants[key] = b.finish(fn.doc)
        return self.variants[key]


def _one_query(node: Node) -> bool:
    """Whether an attention is that of one token in f32, under a mask that is the same for all samples and heads."""
    if len(node.inputs) < 4 or node.attrs["causal"]:
        return False
    q, k, _, mask = (v.type for v in node.inputs)
    return q.shape[2] == 1 and q.dtype == "f32" and mask.dtype == "bool" and mask.shape == (1, 1, 1, k.shape[2])


def _shows_rows_up_to(mask: Value, position: Value, made: Mapping[Value, Node]) -> bool:
    """Whether a mask [1, 1, 1, T] is written as `0 … T - 1 <= position`."""
    node = made.get(mask)
    if node is not None and node.op == "reshape":
        node = made.get(node.inputs[0])
    if node is None or node.op != "less_equal" or node.inputs[1] is not position:
        return False
    rows = made.get(node.inputs[0])
    counted = np.arange(int(mask.type.shape[3]))  # type: ignore[arg-type]
    return rows is not None and rows.op == "constant" and np.array_equal(np.ravel(rows.attrs["value"]), counted)


def _rows(cache: Value, size: int) -> TensorType:
    shape = cache.type.shape
    return cache.type.with_shape([*shape[:2], size, shape[3]])


def _joined(mask: Value, size: int) -> TensorType:
    return mask.type.with_shape([1, 1, 1, int(mask.type.shape[3]) + size])  # type: ignore[arg-type]


# ---- writing


@dataclass
class _Body:
    """A function's nodes written again, with the block's rows of each cache beside it.

    `env` and `recent` {a value of `fn`: what stands for it, and the block's rows of it}; `slot`, the row of the block
    that is written; `begin`, the row of the caches that the block begins with.
    """

    work: _Work
    b: Builder
    fn: Function
    use: _Use
    env: dict[Value, Var]
    recent: dict[Value, Var]
    size: int
    slot: Var
    begin: Var

    def run(self, keep: _Keep) -> list[Var]:
        """Appends the nodes, `keep` those that have nothing to do with caches; the function's results."""
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
        if node.op == "update_slice" and node.outputs[0] in self.use.grown:
            return [self.b.update_slice(self.recent[node.inputs[0]], self.env[node.inputs[1]], self.slot, axis=2)]
        if node.outputs[0] in self.use.widened:
            (grown,), (out,) = node.inputs, node.outputs
            self.recent[out] = self.b.cast(self.recent[grown], to=node.attrs["to"])
            return [self.b.cast(self.env[grown], to=node.attrs["to"])]
        if node.outputs[0] in self.use.masks:
            return [self.mask(node.outputs[0])]
        if node.op == "attention" and node.inputs[1] in self.recent:
            return [self._attention(node)]
        caches = tuple(i for i, v in enumerate(node.inputs) if v in self.recent)
        if node.op != "call" or not caches:
            return None
        variant = self.work.variant(node.attrs["fn"], caches, self.size)
        ins = [self.env[v] for v in node.inputs] + [self.recent[node.inputs[i]] for i in caches]
        names = " ".join(o.name for o in node.outputs)
        args = node.attrs["args"]
        outs = self.b.call(variant, node.attrs["name"], *ins, self.slot, self.begin, args=args, out=names)
        return outs if isinstance(outs, tuple) else (outs,)

    def mask(self, value: Value) -> Var:
        """The mask [1, 1, 1, T + n] of the caches' rows before the block, then of the block's up to this token's."""
        b, rows = self.b, int(value.type.shape[3])  # type: ignore[arg-type]
        before = b.less(b.constant(np.arange(rows)), self.begin, out="before")
        own = b.less_equal(b.constant(np.arange(self.size)), self.slot, out="own")
        made: Var = b.reshape(b.concat(before, own, axis=0), shape=_joined(value, self.size).shape, out="mask")
        return made

    def _attention(self, node: Node) -> Var:
        b, q = self.b, self.env[node.inputs[0]]
        batch, heads, _, channels = q.shape
        parts = [(self.env[v], self.recent[v]) for v in node.inputs[1:3]]
        groups = int(parts[0][0].shape[1])
        q = b.reshape(q, shape=(batch, groups, int(heads) // groups, channels))  # type: ignore[arg-type]
        scale = attention_scale(q, node.attrs)
        q = q if scale == 1.0 else q * scale
        scores = b.concat(*(b.matmul(q, b.transpose(k, perm=(0, 1, 3, 2))) for k in parts[0]), axis=3, out="scores")
        scores = b.where(self.env[node.inputs[3]], scores, b.scalar(-1e30, scores))
        p = b.softmax(scores, axis=-1)
        weights = b.split(p, axis=3, sizes=tuple(int(v.shape[2]) for v in parts[1]))
        seen = [b.matmul(w, v) for w, v in zip(weights, parts[1], strict=True)]
        x: Var = b.reshape(b.add(*seen), shape=node.outputs[0].type.shape, out=node.outputs[0].name)
        return x


# ---- the sampler's loops


def _program(work: _Work, fn: Function, size: int | None) -> Function:
    def replaced(b: Builder, node: Node, operands: list[Var]) -> Sequence[Var] | None:
        if node.op != "loop":
            return None
        loop = _Loop.of(work, node)
        pieces = blocks_of(int(node.attrs["trip"]), size)
        return loop.write(b, operands, pieces) if loop is not None and pieces else None

    return rewrite_function(work.owner, fn, replaced)


@dataclass
class _Loop:
    """A loop over tokens: `caches`, their places among what it carries; `offset`, the first row that it writes."""

    work: _Work
    node: Node
    body: Function
    caches: tuple[int, ...]
    use: _Use
    offset: int

    @classmethod
    def of(cls, work: _Work, node: Node) -> _Loop | None:
        body, keep = work.owner.functions[node.attrs["body"]], 1 + node.attrs["invariants"]
        carried = body.inputs[keep : keep + node.attrs["carried"]]
        places = tuple(i for i, v in enumerate(carried) if v.type.rank == 4)
        use = work.use(body, [carried[i] for i in places]) if places else None
        if use is None or any(use.grown.get(body.outputs[i]) is not carried[i] for i in places):
            return None
        if any(v in use.grown for i, v in enumerate(body.outputs) if i not in places):
            return None
        if not use.masks.isdisjoint(body.inputs):
            return None
        offset, least = _offset(body, use.position), min(int(carried[i].type.shape[2]) for i in places)  # type: ignore
        if offset is None or not 0 <= offset <= least - int(node.attrs["trip"]):
            return None
        return cls(work, node, body, places, use, offset)

    def write(self, b: Builder, operands: Sequence[Var], pieces: Sequence[tuple[int, int, int]]) -> list[Var]:
        keep, carry = self.node.attrs["invariants"], self.node.attrs["carried"]
        kept, state, tables = operands[:keep], operands[keep : keep + carry], operands[keep + carry :]
        stacks: list[list[Var]] = []
        for first, count, size in pieces:
            rows = [b.slice(t, axis=0, start=first, stop=first + count * size) for t in tables]
            if count == 1:
                start = b.constant(np.int64(first), out="first")
                state, stacked = self._block(b, start, kept, state, rows, size)
            else:
                blocks = [b.reshape(t, shape=(count, size, *t.shape[1:])) for t in rows]
                outs = b.loop(
                    f"{self.body.name}.blocks",
                    count,
                    self._outer(first, size),
                    invariants=kept,
                    carried=state,
                    tables=blocks,
                )
                state = outs[:carry]
                stacked = [b.reshape(y, shape=(count * size, *y.shape[2:])) for y in outs[carry:]]
            stacks.append(list(stacked))
        columns = zip(*stacks, strict=True)
        joined = [c[0] if len(c) == 1 else b.concat(*c, axis=0) for c in columns]
        return [*state, *joined]

    def _outer(self, first: int, size: int) -> _Step:
        def blocks(
            b: Builder, i: Var, kept: Sequence[Var], state: Sequence[Var], rows: Sequence[Var]
        ) -> tuple[list[Var], list[Var]]:
            start = b.add(b.mul(i, size), first, out="first")
            return self._block(b, start, kept, state, rows, size)

        return blocks

    def _block(
        self, b: Builder, start: Var, kept: Sequence[Var], state: Sequence[Var], rows: Sequence[Var], size: int
    ) -> tuple[list[Var], list[Var]]:
        """Appends a block of steps from step `start` on: (what it carried, what it stacked)."""
        begin = b.add(start, self.offset, out="begin")
        caches = [state[i] for i in self.caches]
        # Until a row of theirs is written it is masked: any rows will do.
        recent = [b.slice(c, axis=2, start=0, stop=size, out=f"{c.value.name}_recent") for c in caches]
        carried = list(state)
        for i, rows_ in zip(self.caches, recent, strict=True):
            carried[i] = rows_

        def step(
            inner: Builder, k: Var, around: Sequence[Var], now: Sequence[Var], row: Sequence[Var]
        ) -> tuple[list[Var], list[Var]]:
            held, (begins, first, *past) = around[: len(kept)], around[len(kept) :]
            values = list(now)
            for i, cache in zip(self.caches, past, strict=True):
                values[i] = cache
            env = dict(zip(self.body.inputs[1:], (*held, *values, *row), strict=True))
            env[self.body.inputs[0]] = inner.add(first, k, out="i")
            carry = self.body.inputs[1 + len(kept) :]
            block = {carry[i]: now[i] for i in self.caches}
            body = _Body(self.work, inner, self.body, self.use, env, block, size, k, begins)
            outs = body.run(inner.copied)
            return outs[: len(state)], outs[len(state) :]

        outs = b.loop(
            f"{self.body.name}.block",
            size,
            step,
            invariants=[*kept, begin, start, *caches],
            carried=carried,
            tables=rows,
        )
        new = list(outs[: len(state)])
        for i, cache in zip(self.caches, caches, strict=True):
            new[i] = b.update_slice(cache, new[i], begin, axis=2, out=cache.value.name)
        return new, list(outs[len(state) :])


def _offset(body: Function, position: Value | None) -> int | None:
    """The row that step 0 writes, where every step writes the one behind the last; else None."""
    index = body.inputs[0]
    if position is index:
        return 0
    literal = {n.outputs[0]: n for n in body.nodes if n.op == "constant"}
    for node in body.nodes:
        if node.op == "add" and node.outputs[0] is position and index in node.inputs:
            other = node.inputs[1] if node.inputs[0] is index else node.inputs[0]
            return int(literal[other].attrs["value"]) if other in literal else None
    return None


__all__ = ["SIZES", "blocks_of", "tile_caches"]
