"""Jacobi iterations: the inverse of an autoregressive flow, several tokens at a time.

Symbols: B batch, F frames (1 of images), T tokens, N tokens of a block, C channels of a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from pydantic import Field

from latentc.components import Closed
from latentc.components.kit.stacks import entry
from latentc.ir.builder import BlockBody, Builder, Var, as_tuple
from latentc.ir.types import B
from latentc.systems.tarflow.flow_block import Flow
from latentc.systems.tarflow.flow_methods import Inversion, Rest, decoding


class FixedPoint(Closed):
    """Jacobi iterations (STARFlow, Gu et al. 2025): all tokens of a block are evaluated at once, repeatedly.

    Each iteration makes at least one more token equal to its value in sequential decoding.
    """

    block: int = Field(16, gt=1, le=65_536, description="number of tokens solved jointly")
    iterations: int = Field(
        8,
        gt=0,
        le=65_536,
        description="evaluations per block; exact with as many as the block has tokens, and one more after the first "
        "frame of a video, whose blocks start from the tokens of the previous frame",
    )
    threshold: float = Field(
        0.0,
        ge=0,
        description="a sample's block is found once an iteration changes it by less than this, in mean squares "
        "relative to its own, and the next begins once those of all samples are; 0: after all `iterations`",
    )
    later: int | None = Field(
        None, gt=1, le=65_536, description="block size after the first frame of a video; null: as `block`"
    )
    window: int | None = Field(
        None,
        gt=1,
        le=65_536,
        description="frames of a video that the flow over all frames attends to at once, those of training if videos "
        "are longer; null: all",
    )
    context: int | None = Field(
        None,
        gt=0,
        le=65_536,
        description="frames that begin each later `window`, encoded anew; null: all but one of it",
    )

    @property
    def frames_seen(self) -> int:
        """Frames that begin each later window; 0: there is one window."""
        return 0 if self.window is None else self.context or self.window - 1

    def most(self, video: bool) -> int:
        """The iterations that always find all tokens of a block, of a `video` or an image."""
        return max(self.block, (self.later or self.block) + 1) if video else self.block


def _shifted(b: Builder, known: Var, block: Var) -> Var:
    """f32[B, N, C]: the tokens before those of a block f32[B, N, C], the first of which is `known`."""
    size = int(block.shape[1])
    if size == 1:
        return known
    return b.concat(known, b.slice(block, axis=1, start=0, stop=size - 1), axis=1, out="seen")


class Blocks(Rest):
    """The predicted tokens, found block by block."""

    def after_given(self, b: Builder, start: Var, caches: Sequence[Var], given: int) -> Var:
        """All tokens f32[T, B, 1, C], of which the first are given, the others found one by one."""
        rows = self._rows(b)
        inputs = b.concat(start, b.slice(rows, axis=1, start=0, stop=given, out="given"), axis=1, out="inputs")
        caches = replace(self, decode=decode_block(self.parts))._remembered(b, start, given, given, inputs, caches)
        known = b.slice(self.z, axis=0, start=0, stop=given, out="given")
        return b.concat(known, self.one_by_one(b, entry(b, known, given - 1, "token"), caches, given), axis=0)

    def _rows(self, b: Builder) -> Var:
        """z f32[B, T, C]."""
        count, batch, _, features = self.z.shape
        return b.reshape(b.transpose(self.z, perm=(1, 0, 2, 3)), shape=(batch, count, features), out="z")

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
            operands = [known, position, place, z, *scale, *kept]
            found = self._found(b, operands, _shifted(b, known, z), caches, by)
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
        return found

    def _solved(self, b: Builder, seen: Var, operands: Sequence[Var], caches: Sequence[Var]) -> list[Var]:
        """The tokens of a block that follow from inputs `seen`, and the grown caches."""
        position, place, z, *kept = operands
        scale, kept = kept[: len(self.scales)], kept[len(self.scales) :]
        rotary, own = self.apart(kept)
        return self.solve(b, self.decode, [seen, place, *rotary], own, [position, *caches], z, scale)

    def by_frames(self, b: Builder, start: Var, caches: Sequence[Var], by: FixedPoint, given: int) -> Var:
        """All tokens of a video by Jacobi iterations, `later` at a time after the first frame.

        There, iterations start from the tokens of the previous frame. The loop carries the network's inputs f32[B,
        T + 1, C]: the start token, the tokens given or found so far, and latents in place of the others. After the
        first `window` of frames, each window begins with the last `context` frames, and its caches are filled anew.
        The first `given` tokens are known.
        """
        count, (batch, _, features) = int(self.z.shape[0]), start.shape
        size, frame = min(by.block, count), self.parts.frame
        first = count if by.window is None else min(by.window * frame, count)
        later = by.later or size
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
        return b.reshape(found, shape=(count, batch, 1, features), out="found")

    def _remembered(
        self, b: Builder, start: Var, stop: int, count: int, inputs: Var, caches: Sequence[Var]
    ) -> Sequence[Var]:
        """The caches of a window that begins with the start token and the `count` tokens before `stop`.

        Entries of the conditions stay; entries after these tokens are masked.
        """
        before = b.slice(inputs, axis=1, start=stop - count + 1, stop=stop, out="before")
        seen = b.concat(start, before, axis=1, out="seen")
        place = b.slice(self.order, axis=0, start=0, stop=count, out="place")
        position = b.constant(np.int64(self.parts.prefix), out="position")
        operands = [position, place, seen, *(entry(b, scale, stop, "scale") for scale in self.scales), *self.invariants]
        return self._solved(b, seen, operands, caches)[1:]

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

        The input of token i is at place i + `offset` after the conditions in the caches.
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
            after = b.add(begin, 1, out="after")
            return (b.update_slice(inputs, block, after, axis=1, out="inputs"), *caches), ()

        carried = [inputs, *caches]
        return as_tuple(
            b.loop("inverse", len(starts), step, invariants=self.invariants, carried=carried, tables=tables)
        )

    def _found(
        self, b: Builder, operands: Sequence[Var], seen: Var, caches: Sequence[Var], by: FixedPoint
    ) -> tuple[Var, ...]:
        """A block f32[B, N, C] and the caches; iterations start from inputs `seen`."""
        return (self._settled if by.threshold else self._improved)(b, operands, seen, caches, by)

    def _of_frames(self, b: Builder, x: Var) -> Var:
        """f32[B F]: x f32[B F] replaced by its mean over the frames of each sample."""
        frames, (rows,) = self.parts.apart, x.shape
        if frames == 1:
            return x
        mean = b.mean(b.reshape(x, shape=(B, frames)), axes=(1,), keepdims=True)
        return b.reshape(b.broadcast_to(mean, shape=(B, frames)), shape=(rows,), out="mean")

    def _improved(
        self, b: Builder, operands: Sequence[Var], seen: Var, caches: Sequence[Var], by: FixedPoint
    ) -> tuple[Var, ...]:
        """A block f32[B, N, C] after all iterations, and the caches."""

        def improve(b: Builder, i: Var, kept: Any, state: Any, rows: Any) -> tuple[Sequence[Var], Sequence[Var]]:
            (seen, _, *caches), (known, *kept) = state, kept
            block, *caches = self._solved(b, seen, kept, caches)
            return (_shifted(b, known, block), block, *caches), ()

        names, carried = ["seen", "block", *["cache"] * len(caches)], [seen, operands[3], *caches]
        _, *found = b.loop("jacobi", by.iterations, improve, invariants=operands, carried=carried, names=names)
        return tuple(found)

    def _settled(
        self, b: Builder, operands: Sequence[Var], seen: Var, caches: Sequence[Var], by: FixedPoint
    ) -> tuple[Var, ...]:
        """The same, ended once every sample's block is found.

        The inputs of a block that is found are frozen, so that a sample does not depend on the others.
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

        z = operands[3]
        none = b.full(z, shape=(), value=0.0, dtype="f32", out="found")
        over = b.greater(b.max(none, axes=(0,), keepdims=False), 0.5, out="over")
        carried = [over, none, seen, z, *caches]
        names = ["over", "found", "seen", "block", *["cache"] * len(caches)]
        _, _, _, *found = b.loop(
            "jacobi", by.iterations, improve, invariants=operands, carried=carried, names=names, until=0
        )
        return tuple(found)


@dataclass(frozen=True)
class AfterGiven(Inversion):
    """One after the other, after the first `given` tokens, which are known."""

    given: int

    @property
    def suffix(self) -> str:
        return "_after_given"

    @property
    def words(self) -> str:
        return f", after those that are given{super().words}"

    def found(self, b: Builder, rest: Rest, start: Var, token: Var, caches: Sequence[Var]) -> list[Var]:
        return [_blocks(rest).after_given(b, start, caches, self.given)]


@dataclass(frozen=True)
class Jacobi(Inversion):
    """Block by block, by Jacobi iterations, after the first `given` tokens of a video, which are known."""

    by: FixedPoint
    given: int = 0

    @property
    def suffix(self) -> str:
        return "_after_given" if self.given else ""

    @property
    def words(self) -> str:
        return ", after those that are given" * bool(self.given) + ", block by block, by Jacobi iterations"

    def decoding(self, parts: Flow) -> BlockBody:
        return decode_block(parts)

    def found(self, b: Builder, rest: Rest, start: Var, token: Var, caches: Sequence[Var]) -> list[Var]:
        blocks = _blocks(rest)
        if rest.parts.frame:
            return [blocks.by_frames(b, start, caches, self.by, self.given)]
        return [blocks.by_blocks(b, start, caches, self.by)]


def _blocks(rest: Rest) -> Blocks:
    return Blocks(**vars(rest))


def _of_several(
    b: Builder, parts: Flow, h: Var, position: Var, length: Any, rotary: Sequence[Var]
) -> tuple[Var, list[Var]]:
    """Cache positions seen by each of several inputs, the first at `position`, and rows of rotary tables."""
    count = h.shape[1]
    own = b.op("add", position, b.arange(count), out="own")
    seen = b.less_equal(b.arange(length), b.reshape(own, shape=(count, 1)))
    return seen, [b.take(table, own, axis=0, out="row") for table in rotary]


@cache
def decode_block(parts: Flow) -> BlockBody:
    """The method of a flow that predicts several tokens at once."""
    decode = decoding(parts, "decode_block", "B K features", _of_several, last=False)
    decode.body.__doc__ = "Predicted scales and shifts of the next tokens, and the extended KV caches."
    return decode
