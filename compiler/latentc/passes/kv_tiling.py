"""Grows key-value caches by a block of tokens at a time instead of one token at a time.

An engine copies what a loop carries, so a loop over tokens copies every cache once per token. This pass turns it into a
loop over blocks of n tokens with an inner loop over the tokens of a block. The inner loop carries only the block's own
rows; after it they are written into the caches at once. Attention sees the rows before the block and the block's own
rows under one softmax, so the result differs only in the order of sums.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.core import Function, Module, Node, Value, in_order, makers
from latentc.passes.kv_block import BodyInBlock, Variants
from latentc.passes.kv_use import CacheUse, cache_use
from latentc.passes.rewrite import loop_over_blocks, rewrite_function

SIZES = range(8, 33)
"""Block sizes that are tried by default; loops of at most as many steps as the largest are left unchanged."""


def tile_caches(module: Module, size: int | None = None) -> Module:
    """Grows the caches of the sampling programs' loops `size` tokens at a time; 1 leaves them unchanged.

    The default size is about the square root of the loop's steps, because a token copies the n rows of the block, and a
    block copies the whole cache. Returns the module unchanged if no loop carries caches to which each step only adds a
    row and attends.
    """
    if size == 1:
        return module
    variants = Variants(ModuleBuilder(module))
    names = [fn for entry, fn in module.entries.items() if entry.split(".")[0] == "sample"]
    changed = {name: _program(variants, module.functions[name], size) for name in names}
    if all(changed[name] is module.functions[name] for name in names):
        return module
    return in_order(Module({**variants.owner.functions, **changed}, module.entries))


def blocks_of(trip: int, size: int | None = None) -> list[tuple[int, int, int]]:
    """(first step, number of blocks, steps per block) of the loops that replace one over `trip` steps.

    The default size is the divisor nearest to the square root, because an engine may hold the weights once per loop.
    If there is none, or a given size does not divide the steps, a shorter block comes first.
    """
    if size is None:
        if trip <= SIZES[-1]:
            return []
        exact = [n for n in SIZES if trip % n == 0]
        size = min(exact, key=lambda n: abs(n - math.sqrt(trip))) if exact else SIZES[len(SIZES) // 3]
    rest, blocks = trip % size, trip // size
    return [(0, 1, rest)] * (rest > 0) + [(rest, blocks, size)] * (blocks > 0)


def _program(variants: Variants, fn: Function, size: int | None) -> Function:
    def replaced(b: Builder, node: Node, operands: list[Var]) -> Sequence[Var] | None:
        if node.op != "loop":
            return None
        loop = _Loop.of(variants, node)
        pieces = blocks_of(int(node.attrs["trip"]), size)
        return loop.write(b, operands, pieces) if loop is not None and pieces else None

    return rewrite_function(variants.owner, fn, replaced)


@dataclass
class _Loop:
    """A loop over tokens; `caches` are their numbers among its carried values, `offset` the row that step 0 writes."""

    variants: Variants
    node: Node
    body: Function
    caches: tuple[int, ...]
    use: CacheUse
    offset: int

    @classmethod
    def of(cls, variants: Variants, node: Node) -> _Loop | None:
        """The loop `node`; None if it carries no caches that can be tiled."""
        functions = variants.owner.functions
        body, keep = functions[node.attrs["body"]], 1 + node.attrs["invariants"]
        carried = body.inputs[keep : keep + node.attrs["carried"]]
        caches = tuple(i for i, v in enumerate(carried) if v.type.rank == 4)
        use = cache_use(functions, body, [carried[i] for i in caches]) if caches else None
        if use is None or any(use.grown.get(body.outputs[i]) is not carried[i] for i in caches):
            return None
        if any(v in use.grown for i, v in enumerate(body.outputs) if i not in caches):
            return None
        if not use.masks.isdisjoint(body.inputs):
            return None
        offset, rows = _offset(body, use.position), min(int(carried[i].type.shape[2]) for i in caches)  # type: ignore
        if offset is None or not 0 <= offset <= rows - int(node.attrs["trip"]):
            return None
        return cls(variants, node, body, caches, use, offset)

    def write(self, b: Builder, operands: Sequence[Var], pieces: Sequence[tuple[int, int, int]]) -> list[Var]:
        """Appends a loop over blocks for each of `pieces` (see `blocks_of`); returns the outputs of the whole loop."""
        keep, carry = self.node.attrs["invariants"], self.node.attrs["carried"]
        kept, state, tables = operands[:keep], operands[keep : keep + carry], operands[keep + carry :]
        stacks: list[list[Var]] = []
        for first, count, size in pieces:
            stop = first + count * size
            rows = [b.slice(t, axis=0, start=first, stop=stop, out=t.value.name) for t in tables]
            if count == 1:
                start = b.constant(np.int64(first), out="first")
                state, stacked = self._block(b, start, kept, state, rows, size)
            else:
                name = f"{self.body.name}.blocks"
                step = functools.partial(self._step, first, size)
                state, stacked = loop_over_blocks(b, name, count, size, step, kept, state, rows)
            stacks.append(list(stacked))
        columns = zip(*stacks, strict=True)
        joined = [c[0] if len(c) == 1 else b.concat(*c, axis=0) for c in columns]
        return [*state, *joined]

    def _step(
        self, first: int, size: int, b: Builder, i: Var, kept: Sequence[Var], state: Sequence[Var], rows: Sequence[Var]
    ) -> tuple[list[Var], list[Var]]:
        """Block i of a loop over blocks that begins with step `first`."""
        return self._block(b, b.add(b.mul(i, size), first, out="first"), kept, state, rows, size)

    def _block(
        self, b: Builder, start: Var, kept: Sequence[Var], state: Sequence[Var], rows: Sequence[Var], size: int
    ) -> tuple[list[Var], list[Var]]:
        """Appends a block of steps from step `start` on; returns (carried values, stacked values)."""
        begin = b.add(start, self.offset, out="begin")
        caches = [state[i] for i in self.caches]
        # Initial values do not matter: a row is masked until it is written.
        recent = [b.slice(c, axis=2, start=0, stop=size, out=f"{c.value.name}_recent") for c in caches]
        carried = list(state)
        for i, own in zip(self.caches, recent, strict=True):
            carried[i] = own

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
            body = BodyInBlock(self.variants, inner, self.body, self.use, env, block, size, k, begins)
            outs = body.run(inner.copied)
            return outs[: len(state)], outs[len(state) :]

        invariants = [*kept, begin, start, *caches]
        outs = b.loop(f"{self.body.name}.block", size, step, invariants=invariants, carried=carried, tables=rows)
        new = list(outs[: len(state)])
        for i, cache in zip(self.caches, caches, strict=True):
            new[i] = b.update_slice(cache, new[i], begin, axis=2, out=cache.value.name)
        return new, list(outs[len(state) :])


def _offset(body: Function, position: Value | None) -> int | None:
    """The row that step 0 writes if step i writes the i-th row after it; else None."""
    index, made_by = body.inputs[0], makers(body.nodes)
    if position is index:
        return 0
    node = made_by.get(position) if position is not None else None
    if node is None or node.op != "add" or index not in node.inputs:
        return None
    other = made_by.get(node.inputs[1] if node.inputs[0] is index else node.inputs[0])
    return int(other.attrs["value"]) if other is not None and other.op == "constant" else None
