"""The tokens that the inverse of an autoregressive flow predicts: one by one, or in blocks by Jacobi iterations.

Symbols: B batch, T tokens, N tokens of a block, C channels of a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from latentc.components.kit.stacks import entry
from latentc.components.networks._flow_block import Flow
from latentc.components.networks._flow_solver import Solver
from latentc.components.sampler import FixedPoint
from latentc.ir.builder import BlockBody, Builder, Var
from latentc.ir.types import B
from latentc.ir.var import as_tuple


def _shifted(b: Builder, known: Var, block: Var) -> Var:
    """f32[B, N, C]: the tokens before those of a block f32[B, N, C], the first of which is `known`."""
    size = int(block.shape[1])
    if size == 1:
        return known
    return b.concat(known, b.slice(block, axis=1, start=0, stop=size - 1), axis=1, out="seen")  # type: ignore[no-any-return]


def stacked(b: Builder, x: Var) -> Var:
    return b.reshape(x, shape=(1, *x.shape), out="x")  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Rest:
    """The predicted tokens: latents z f32[T, B, 1, C], in `order`.

    Input i of the network, at cache position i behind the conditions, is a start token or the token before the one that
    it predicts.
    """

    parts: Flow
    solve: Solver
    decode: BlockBody
    order: Var
    z: Var
    scales: Sequence[Var]
    rotary: Sequence[Var]
    branches: Sequence[Sequence[Var]]

    @property
    def invariants(self) -> list[Var]:
        return [*self.rotary, *(x for branch in self.branches for x in branch)]

    def apart(self, kept: Sequence[Var]) -> tuple[Sequence[Var], list[list[Var]]]:
        """The rotary tables and the branches of `invariants`."""
        rotary, flat = kept[: 2 * self.parts.rotary], kept[2 * self.parts.rotary :]
        width = len(self.branches[0])
        return rotary, [list(flat[j : j + width]) for j in range(0, len(flat), width)]

    def one_by_one(self, b: Builder, token: Var, caches: Sequence[Var], done: int) -> Var:
        """Those behind the first `done`, f32[N, B, 1, C], from the last of these and the caches."""
        first, tokens = self.parts.first, self.z.shape[0]
        # In step i the token before it is at `place` of the grid, or is predicted there: both have its position.
        places = b.slice(self.order, axis=0, start=done - first, stop=tokens - first, out="place")
        positions = b.slice(b.arange(tokens), axis=0, start=done - first, stop=tokens - first, out="position")
        if self.parts.prefix:
            positions = b.op("add", positions, self.parts.prefix, out="position")
        rest = b.slice(self.z, axis=0, start=done, stop=tokens, out="z")
        tables = [positions, places, rest]
        tables += [
            b.slice(scale, axis=0, start=done - first, stop=tokens - first, out="scale") for scale in self.scales
        ]

        def step(b: Builder, i: Var, kept: Any, state: Any, rows: Any) -> tuple[Sequence[Var], Sequence[Var]]:
            (token, *caches), (position, place, z, *scale) = state, rows
            rotary, own = self.apart(kept)
            token, *caches = self.solve(b, self.decode, [token, place, *rotary], own, [position, *caches], z, scale)
            return (token, *caches), (token,)

        trip = int(tokens) - done
        *_, found = b.loop("inverse", trip, step, invariants=self.invariants, carried=[token, *caches], tables=tables)
        return found  # type: ignore[no-any-return]

    def behind_given(self, b: Builder, start: Var, caches: Sequence[Var], several: BlockBody) -> Var:
        """All tokens f32[T, B, 1, C], one by one behind those that are given; `several` are decoded at once."""
        given, rows = self.parts.given, self._rows(b)
        inputs = b.concat(start, b.slice(rows, axis=1, start=0, stop=given, out="given"), axis=1, out="inputs")
        caches = replace(self, decode=several)._remembered(b, start, given, given, inputs, caches)
        known = b.slice(self.z, axis=0, start=0, stop=given, out="given")
        return b.concat(known, self.one_by_one(b, entry(b, known, given - 1, "token"), caches, given), axis=0)  # type: ignore[no-any-return]

    def _rows(self, b: Builder) -> Var:
        """z f32[B, T, C]."""
        count, batch, _, features = self.z.shape
        return b.reshape(b.transpose(self.z, perm=(1, 0, 2, 3)), shape=(batch, count, features), out="z")  # type: ignore[no-any-return]

    def by_blocks(self, b: Builder, start: Var, caches: Sequence[Var], by: FixedPoint) -> Var:
        """All of them by Jacobi iterations, from the first input. The last block begins early enough to be whole."""
        first = self.parts.first
        count = int(self.z.shape[0]) - first
        size = min(by.block, count)
        starts = np.minimum(np.arange(0, count, size), count - size) + first
        members = starts[:, None] + np.arange(size)
        before = np.diff(starts, prepend=starts[0] - size) - 1  # of each block's first token, in the block before
        positions = starts - first + self.parts.prefix
        shape = (len(starts), size, *self.z.shape[1:2], self.z.shape[3])
        z = b.reshape(b.take(self.z, b.constant(members.reshape(-1)), axis=0), shape=shape)
        tables = [
            b.constant(positions, out="position"),
            b.constant(before, out="before"),
            b.take(self.order, b.constant(members - first, out="members"), axis=0, out="place"),
            b.transpose(z, perm=(0, 2, 1, 3), out="z"),
            *(b.take(scale, b.constant(starts - first, out="starts"), axis=0, out="scale") for scale in self.scales),
        ]

        def step(b: Builder, i: Var, kept: Any, state: Any, rows: Any) -> tuple[Sequence[Var], Sequence[Var]]:
            (block, *caches), (position, before, place, z, *scale) = state, rows
            known = b.take(block, b.reshape(before, shape=(1,)), axis=1, out="known")

            told = [known, position, place, z, *scale, *kept]
            found = self._found(b, told, _shifted(b, known, z), caches, by)
            return found, found[:1]

        wide = b.broadcast_to(start, shape=(start.shape[0], size, start.shape[2]), out="block")
        *_, found = b.loop(
            "inverse", len(starts), step, invariants=self.invariants, carried=[wide, *caches], tables=tables
        )
        found = b.reshape(b.transpose(found, perm=(0, 2, 1, 3)), shape=(members.size, *self.z.shape[1:]), out="found")
        if members.size > count:
            kept = np.concatenate(
                [np.arange(members.size - size), np.arange(members.size - 1 - before[-1], members.size)]
            )
            found = b.take(found, b.constant(kept), axis=0, out="found")
        return found  # type: ignore[no-any-return]

    def _solved(self, b: Builder, seen: Var, told: Sequence[Var], caches: Sequence[Var]) -> list[Var]:
        """What the network makes of the tokens `seen` before those of a block: these, and the grown caches."""
        position, place, z, *kept = told
        scale, kept = kept[: len(self.scales)], kept[len(self.scales) :]
        rotary, own = self.apart(kept)
        return self.solve(b, self.decode, [seen, place, *rotary], own, [position, *caches], z, scale)

    def by_frames(self, b: Builder, start: Var, caches: Sequence[Var], by: FixedPoint) -> Var:
        """All tokens of a video by Jacobi iterations, `later` at a time behind the first frame.

        There the network first sees what it saw one frame before. Inputs f32[B, T + 1, C] of the network are carried:
        the start token, and the tokens that are given or found, latents in place of those that are not. Behind the
        first `window` of frames, the last `context` frames begin a new one, of which the caches are filled anew.
        """
        count, (batch, _, features) = int(self.z.shape[0]), start.shape
        size, frame = min(by.block, count), self.parts.frame
        first = count if by.window is None else min(by.window * frame, count)
        given, later = self.parts.given, by.later or size
        cut = given if given > frame else min(given + ((frame - given) // size + 1) * size, first)
        inputs = b.concat(start, self._rows(b), axis=1, out="inputs")
        if given:
            caches = self._remembered(b, start, given, given, inputs, caches)
        parts = [(given, cut, size, 0, 0), (cut, first, later, frame, 0)]
        seen = by.frames_seen * frame
        for begin in range(first, count, max(first - seen, 1)):
            parts.append((begin, min(begin + first - seen, count), later, frame, seen - begin))
        for start_at, stop, block, back, offset in parts:
            if offset:
                caches = self._remembered(b, start, start_at, seen, inputs, caches)
            whole = (stop - start_at) // block * block + start_at
            for begin, end, own in ((start_at, whole, block), (whole, stop, stop - whole)):
                if begin < end:
                    inputs, *caches = self._segment(b, begin, end, own, back, offset, inputs, caches, by)
        found = b.slice(inputs, axis=1, start=1, stop=count + 1, out="found")
        found = b.transpose(found, perm=(1, 0, 2), out="found")
        return b.reshape(found, shape=(count, batch, 1, features), out="found")  # type: ignore[no-any-return]

    def _remembered(
        self, b: Builder, start: Var, stop: int, count: int, inputs: Var, caches: Sequence[Var]
    ) -> Sequence[Var]:
        """The caches of a window that begins with the start token and the `count` tokens before `stop`.

        Those of the conditions are as before, and what stands behind the tokens at hand is never seen.
        """
        before = b.slice(inputs, axis=1, start=stop - count + 1, stop=stop, out="before")
        seen = b.concat(start, before, axis=1, out="seen")
        place = b.slice(self.order, axis=0, start=0, stop=count, out="place")
        position = b.constant(np.int64(self.parts.prefix), out="position")
        told = [position, place, seen, *(entry(b, scale, stop, "scale") for scale in self.scales), *self.invariants]
        return self._solved(b, seen, told, caches)[1:]

    def _segment(
        self,
        b: Builder,
        start: int,
        stop: int,
        size: int,
        back: int,
        offset: int,
        inputs: Var,
        caches: Sequence[Var],
        by: FixedPoint,
    ) -> tuple[Var, ...]:
        """`inputs` with tokens `start` to `stop`, in blocks of `size`, and the caches; see `by_frames`.

        The input of token i is at place i + `offset` behind the conditions in the caches.
        """
        starts = np.arange(start, stop, size)
        members = starts[:, None] + np.arange(size)
        shape = (len(starts), size, *self.z.shape[1:2], self.z.shape[3])
        z = b.reshape(b.take(self.z, b.constant(members.reshape(-1)), axis=0), shape=shape)
        tables = [
            b.constant(starts + self.parts.prefix + offset, out="position"),
            b.constant(starts, out="begin"),
            b.take(self.order, b.constant(members, out="members"), axis=0, out="place"),
            b.transpose(z, perm=(0, 2, 1, 3), out="z"),
            *(b.take(scale, b.constant(starts, out="starts"), axis=0, out="scale") for scale in self.scales),
        ]

        def step(b: Builder, i: Var, kept: Any, state: Any, rows: Any) -> tuple[Sequence[Var], Sequence[Var]]:
            (inputs, *caches), (position, begin, place, z, *scale) = state, rows
            known = b.take(inputs, b.reshape(begin, shape=(1,)), axis=1, out="known")
            seen = _shifted(b, known, z)
            if back:
                where = b.add(b.op("sub", begin, back), b.arange(size), out="where")
                seen = b.take(inputs, where, axis=1, out="seen")
            block, *caches = self._found(b, [known, position, place, z, *scale, *kept], seen, caches, by)
            behind = b.add(begin, 1, out="behind")
            return (b.update_slice(inputs, block, behind, axis=1, out="inputs"), *caches), ()

        carried = [inputs, *caches]
        return as_tuple(
            b.loop("inverse", len(starts), step, invariants=self.invariants, carried=carried, tables=tables)
        )

    def _found(
        self, b: Builder, told: Sequence[Var], seen: Var, caches: Sequence[Var], by: FixedPoint
    ) -> tuple[Var, ...]:
        """A block f32[B, N, C] and the caches; the network first sees `seen` before its tokens."""
        return (self._settled if by.threshold else self._improved)(b, told, seen, caches, by)

    def _of_frames(self, b: Builder, x: Var) -> Var:
        """f32[B F]: the mean of each sample's x f32[B F] in place of those of its frames."""
        frames, (rows,) = self.parts.apart, x.shape
        if frames == 1:
            return x
        mean = b.mean(b.reshape(x, shape=(B, frames)), axes=(1,), keepdims=True)
        return b.reshape(b.broadcast_to(mean, shape=(B, frames)), shape=(rows,), out="mean")  # type: ignore[no-any-return]

    def _improved(
        self, b: Builder, told: Sequence[Var], seen: Var, caches: Sequence[Var], by: FixedPoint
    ) -> tuple[Var, ...]:
        """A block f32[B, N, C] after all iterations, and the caches."""

        def improve(b: Builder, i: Var, kept: Any, state: Any, rows: Any) -> tuple[Sequence[Var], Sequence[Var]]:
            (seen, _, *caches), (known, *kept) = state, kept
            block, *caches = self._solved(b, seen, kept, caches)
            return (_shifted(b, known, block), block, *caches), ()

        names, carried = ["seen", "block", *["cache"] * len(caches)], [seen, told[3], *caches]
        _, *found = b.loop("jacobi", by.iterations, improve, invariants=told, carried=carried, names=names)
        return tuple(found)

    def _settled(
        self, b: Builder, told: Sequence[Var], seen: Var, caches: Sequence[Var], by: FixedPoint
    ) -> tuple[Var, ...]:
        """The same, ended once every sample's block is found.

        The network sees no more of what becomes of a block that is found, so that nothing changes it: a sample does not
        depend on the others, nor on whether the loop ends.
        """

        def improve(b: Builder, i: Var, kept: Any, state: Any, rows: Any) -> tuple[Sequence[Var], Sequence[Var]]:
            (_, found, seen, block, *caches), (known, *kept) = state, kept
            new, *caches = self._solved(b, seen, kept, caches)
            change, square = (b.mean(x * x, axes=(1, 2), keepdims=False) for x in (b.op("sub", new, block), new))
            change, square = (self._of_frames(b, x) for x in (change, square))
            near = b.cast(b.less(change, square * by.threshold), to="f32", out="near")
            found = b.maximum(found, near, out="found")
            fixed = b.greater(b.reshape(found, shape=(found.shape[0], 1, 1)), 0.5, out="fixed")
            seen = b.where(fixed, seen, _shifted(b, known, new), out="seen")
            all_found = b.greater(b.neg(b.max(b.neg(found), axes=(0,), keepdims=False)), 0.5)
            over = b.logical_or(all_found, b.greater(i, by.iterations - 2), out="over")
            return (over, found, seen, new, *caches), ()

        z = told[3]
        none = b.full(z, shape=(), value=0.0, dtype="f32", out="found")
        over = b.greater(b.max(none, axes=(0,), keepdims=False), 0.5, out="over")
        carried = [over, none, seen, z, *caches]
        names = ["over", "found", "seen", "block", *["cache"] * len(caches)]
        _, _, _, *found = b.loop(
            "jacobi", by.iterations, improve, invariants=told, carried=carried, names=names, until=0
        )
        return tuple(found)


__all__ = ["Rest", "stacked"]
