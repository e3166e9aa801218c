"""Sets of tokens one after the other in a random order, each token by a diffusion of its own: MAR's sampler.

Symbols: B batch, T tokens of a sample, C channels of a token, D channels of its features, K tokens denoised at once, S
noisy steps of the diffusion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, pairwise
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components import OneOfThese
from latentc.components.contract import Need, Network, OutputField, Program
from latentc.components.guidance.guidance import (
    Guide,
    ScheduledGuidance,
    asked_scale,
    of_conditions,
    scale_at,
    token_guidance_problems,
)
from latentc.components.kit import Conditions, both_branches, call
from latentc.components.kit.patches import patch_side, patchify, unpatchify
from latentc.components.kit.tokens import Schedule, hidden_fraction
from latentc.components.parts import Problem, Spec, under
from latentc.components.sampler import Sampler
from latentc.components.samplers._masked import inpainting_conditions
from latentc.components.samplers.base import ArraySampler, inner_problems, parameterization_of
from latentc.components.samplers.ddim import Ddim
from latentc.components.samplers.ddpm import Ddpm
from latentc.components.samplers.euler import Euler
from latentc.components.samplers.guided import Request
from latentc.components.samplers.program import denoise, stochastic_rows
from latentc.components.samplers.table import Table
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.types import B, Named, f32, i64
from latentc_runtime.sources import ConditionSource, RandomSource, Source

Row = tuple[Var, ...]


def diffusion_problems(diffusion: ArraySampler) -> Iterator[Problem]:
    """Settings of a sampler of whole arrays that do not apply to tokens; paths relative to it."""
    if diffusion.guidance is not None:
        message = "the sampler sets the guidance of this diffusion, with one scale for all its steps"
        yield Problem(("guidance",), message, "leave it out, and set `sampler.guidance` instead")
    yield from inner_problems(diffusion, "this one denoises tokens")


def hidden_counts(schedule: Schedule, steps: int, length: int) -> list[int]:
    """Hidden tokens of `length` before the first step, and after each: at least one fewer, and none after the last."""
    left = [length]
    for fraction in hidden_fraction(schedule, np.arange(1, steps) / steps):
        left.append(max(1, min(left[-1] - 1, int(np.floor(length * fraction)))))
    return [*left, 0]


@dataclass(frozen=True)
class TokenSets:
    """Bodies of the loops over sets of tokens: invariants are `operands` of conditions, then `fixed` (`ranks` and
    `order` i64[B, T], `x` f32[B, T, C], perhaps `scale` f32[B], `noise` f32[B, S, T, C] and `free` i64[B, 1]).

    State is tokens f32[B, T, C], and perhaps the features f32[B, T, D] that each was drawn with. `method`: that of
    `main`, which may return features of more tokens after those. A row has the tokens hidden before a set, after each
    of its steps, then with guidance its weight in each. `tables` of the diffusion: in the first step, in the others.
    """

    main: Network
    head: Network
    conditions: Conditions
    operands: tuple[str, ...]
    fixed: tuple[str, ...]
    tables: tuple[Table, ...]
    entry: str
    method: str = "forward"

    def body(self, steps: int) -> Callable[..., Any]:
        """The body of a loop over sets of `steps` steps."""
        return self.step

    def step(self, blocks: tuple[int, ...], b: Builder, i: Var, invariants: Row, state: Row, rows: Row) -> Any:
        """One set: K tokens from place `after` of the order on, of which those before `before` are hidden."""
        (tokens, *features), (before, after, *weight) = state, rows
        operands, at = self.given(invariants)
        (count,) = blocks
        length = int(tokens.shape[1])
        before, after = self.among_free(b, at, length, (before, after), ("before", "after"))
        waiting = b.less(at["ranks"], before, out="waiting")
        hidden = b.cast(waiting, to="f32", out="hidden")
        places = b.minimum(b.add(after, b.arange(count)), length - 1, out="places")
        chosen = picked(b, at["order"], places, "chosen")
        scale = scale_at(b, at["scale"], weight[0]) if "scale" in at else None
        if scale is None:
            z, null_z = call(b, self.main, self.method, operands, state=tokens, mask=hidden, out="z"), None
        else:
            null = self.conditions.null(b, operands)
            z, null_z = both_branches(b, self.main, self.method, operands, null, state=tokens, mask=hidden, out="z")
        made = self.made(b, at, z, null_z, chosen, places, scale)
        # The rank of a token of the set is its place in it.
        place = b.op("sub", at["ranks"], after, out="place")
        mine = b.logical_and(waiting, b.less_equal(after, at["ranks"]), out="mine")
        index = b.clamp(place, low=0, high=count - 1, out="index")
        column = b.reshape(mine, shape=(B, length, 1))
        put = b.where(column, along(b, made, index), tokens, out="tokens")
        own = [b.where(column, b.slice(z, axis=1, start=0, stop=length), v, out="features") for v in features]
        return (put, *own), ()

    def made(
        self,
        b: Builder,
        at: Mapping[str, Var],
        z: Var,
        null_z: Var | None,
        chosen: Var,
        places: Var,
        scale: Var | None,
    ) -> Var:
        """Tokens f32[B, K, C] of a set in one step, given the features at `chosen` of z [B, T, D]; see `drawn`."""
        return self.drawn(b, at, self.tables[0], z, null_z, chosen, places, scale)

    def given(self, invariants: Row) -> tuple[dict[str, Var], dict[str, Var]]:
        operands = dict(zip(self.operands, invariants, strict=False))
        return operands, dict(zip(self.fixed, invariants[len(operands) :], strict=True))

    @staticmethod
    def among_free(b: Builder, at: Mapping[str, Var], length: int, columns: Row, names: Any) -> Row:
        """Numbers of tokens as the same fraction of those that may change, rounded up."""
        if "free" not in at:
            return columns
        return tuple(
            b.div(at["free"] * column + (length - 1), length, out=label)
            for column, label in zip(columns, names, strict=True)
        )

    def drawn(
        self,
        b: Builder,
        at: Mapping[str, Var],
        table: Table,
        z: Var,
        null_z: Var | None,
        chosen: Var,
        places: Var,
        scale: Var | None,
        step: int = 0,
    ) -> Var:
        """Tokens f32[B, K, C] denoised by `table`, given the features at `chosen` of z [B, T, D], or with guidance of z
        and of null_z with `scale` f32[B]. Starts and noise are those of `at` at `places`; `step` numbers the loop."""
        count, size = int(places.shape[-1]), int(at["x"].shape[2])
        width = int(z.shape[2])
        if scale is not None:
            spread = b.broadcast_to(b.reshape(scale, shape=(B, 1)), at["x"], shape=(B, count))
            scale = b.reshape(spread, shape=(B * count,), out="scale")
        features = {
            key: b.reshape(picked(b, v, chosen, "along"), shape=(B * count, width), out=key)
            for key, v in (("z", z), ("null_z", null_z))
            if v is not None
        }
        start = b.reshape(picked(b, at["x"], places), shape=(B * count, size), out="start")
        kicks = None
        if noisy := stochastic_rows(table):
            kicks = b.transpose(at["noise"], perm=(0, 2, 1, 3))  # [B, T, S, C]
            kicks = b.transpose(picked(b, kicks, places), perm=(2, 0, 1, 3))
            if int(kicks.shape[0]) > noisy:
                kicks = b.slice(kicks, axis=0, start=0, stop=noisy)
            kicks = b.reshape(kicks, shape=(kicks.shape[0], B * count, size), out="kicks")
        scales = {} if scale is None else {"scale": scale}
        request = Request(features, lambda b, operands, names: {"z": operands["null_z"]}, ("z",), features["z"], scales)
        guides = [Guide(key, "guidance", 1.0, np.ones_like, of_conditions()) for key in scales]
        name = f"{self.entry}.token" + (f"_{step}" if step else "")
        made = denoise(b, name, table, self.head, request, start, kicks, guides)
        return b.reshape(made, shape=(B, count, size), out="made")


def picked(b: Builder, v: Var, places: Var, out: str = "picked") -> Var:
    """Elements of v [B, T, …] at places [K], the same for all samples, or [B, K]."""
    if places.type.rank == 1:
        return b.take(v, places, axis=1, out=out)
    return along(b, v, places, out)


def along(b: Builder, v: Var, index: Var, out: str = "along") -> Var:
    """Elements of v [B, T, …] at index [B, K]."""
    rest = v.shape[2:]
    wide = b.reshape(index, shape=(*index.shape, *[1] * len(rest))) if rest else index
    if rest:
        wide = b.broadcast_to(wide, v, shape=(*index.shape, *rest))
    return b.take_along(v, wide, axis=1, out=out)


Segment = tuple[tuple[int, ...], list[tuple[float, ...]]]
"""Tokens that each step of a set denoises, and a row per set (`MaskedAutoregressive.segments`)."""


class MaskedAutoregressive(Sampler):
    """In each step `main` encodes the tokens so far and `head` denoises the next ones (arXiv:2406.11838)."""

    SETS: ClassVar[type[TokenSets]] = TokenSets

    kind: Literal["masked_autoregressive"]
    steps: int = Field(64, gt=0, le=100_000, description="sets of tokens, with one evaluation of `main` each")
    schedule: Schedule = Field("cosine", description="schedule of the number of hidden tokens over the steps")
    diffusion: Annotated[ArraySampler, OneOfThese("samplers", classes=(Ddim, Ddpm, Euler))] = Field(
        Ddpm(kind="ddpm", steps=100, respacing="100"), description="sampler with which `head` denoises a token"
    )
    temperature: float = Field(1.0, ge=0, description="factor of the noise in the steps of `diffusion`")
    guidance: ScheduledGuidance | None = Field(
        None, description="classifier-free guidance of `head`; its progress is the fraction of known tokens"
    )
    inpaint: bool = Field(True, description="add a program `inpaint`, which keeps given tokens and draws the others")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "masked_autoregressive",
        "steps": 3,
        "diffusion": {"kind": "ddpm", "steps": 4},
        "guidance": {"scale": 2.0, "schedule": "linear"},
    }

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return (Need("main", "masked_features"), Need("head", "denoise"))

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from under("diffusion", problems=diffusion_problems(self.diffusion))
        yield from under("guidance", problems=token_guidance_problems(self.guidance, spec))

    def hidden_counts(self, length: int) -> list[int]:
        """Hidden tokens before the first step, and after each: at least one fewer, and none after the last."""
        return hidden_counts(self.schedule, self.steps, length)

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        return self._program(mb, networks, spec, "sample")

    def programs(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Program, ...]:
        names = ("sample", "inpaint")[: 1 + self.inpaint]
        return tuple(self._program(mb, networks, spec, name) for name in names)

    def tables(self, spec: Spec) -> tuple[Table, ...]:
        """The tables of the diffusion: in the first step of a set, and in its others if they differ."""
        return (self.table(spec, self.diffusion),)

    def sets(self, left: Sequence[int]) -> list[tuple[int, int]]:
        """[start, stop) of the steps of each set, of `left` hidden tokens before the first step and after each."""
        return [(i, i + 1) for i in range(self.steps)]

    def known(self, left: Sequence[int]) -> list[float]:
        """The fraction of tokens known after each step, which guidance follows."""
        # Published code counts one token as hidden even after the last step.
        return [(left[0] - max(after, 1)) / left[0] for after in left[1:]]

    def table(self, spec: Spec, diffusion: ArraySampler) -> Table:
        target = parameterization_of(spec.objective)
        if target is None:
            raise ValueError(f"`{self.kind}` needs an objective that trains a denoiser")
        return diffusion.table(target).with_noise(self.temperature)

    def _program(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec, name: str) -> Program:
        """Adds entry `NAME.STEPS`: the conditions, scale f32[B] with guidance, order i64[B, T], x f32[B, T, C] and, if
        the diffusion takes noise, noise f32[B, S, T, C] -> f32[B, C, H, W].

        `inpaint` takes `given` f32[B, C, H, W] and `keep` f32[B, T] too: tokens above 0.5 stay as given.
        """
        main, head, conditions = networks["main"], networks["head"], Conditions(spec, networks)
        entry, shape = f"{name}.{self.steps}", spec.data.shape
        tables = self.tables(spec)
        _, count, channels = main.methods["forward"].input("state").type.shape
        length, size = int(count), int(channels)  # type: ignore[arg-type]
        assert shape is not None and len(shape) == 3
        tokens_type = f32(B, Named(length, "T"), size)
        b = mb.function(entry)
        inputs = conditions.inputs(b)
        operands = conditions.operands(b, inputs)
        sources: dict[str, Source] = conditions.sources()
        own = inpainting_conditions(shape, length) if name == "inpaint" else ()
        given, keep = (b.input("given", f32(B, *shape)), b.input("keep", f32(B, length))) if own else (None, None)
        sources |= {c.name: ConditionSource(c.name) for c in own}
        scale, settings = asked_scale(b, self.guidance, sources)
        order, x = b.input("order", i64(B, length)), b.input("x", tokens_type)
        sources |= {"order": RandomSource("permutation", "order"), "x": RandomSource("normal", "x")}
        noisy = max(map(stochastic_rows, tables))
        noise = b.input("noise", f32(B, noisy, length, size)) if noisy else None
        sources |= {"noise": RandomSource("normal", "step")} if noise else {}

        ranks = b.argsort(order, out="ranks")
        free = None
        if given is not None and keep is not None:
            kept = b.greater(keep, 0.5, out="kept")
            # Tokens that stay come last in the order, so they are never hidden.
            key = b.add(b.cast(kept, to="i64") * length, ranks, out="key")
            order = b.argsort(key, out="order")
            ranks = b.argsort(order, out="ranks")
            free = b.sum(b.cast(b.less(keep, 0.5), to="i64"), axes=(1,), keepdims=True, out="free")
            patches = patchify(b, given, patch_side(size, shape[0]))
            column = b.reshape(kept, shape=(B, length, 1))
            tokens = b.where(column, patches, b.scalar(0.0, patches), out="tokens")
        else:
            tokens = b.mul(x, 0.0, out="tokens")
        fixed = {"ranks": ranks, "order": order, "x": x}
        fixed |= {k: v for k, v in (("scale", scale), ("noise", noise), ("free", free)) if v is not None}
        sets = self.SETS(main, head, conditions, tuple(operands), tuple(fixed), tables, entry)
        (tokens,), evaluations = self.run(b, sets, operands, fixed, [tokens], self.segments(length))
        b.output(unpatchify(b, tokens, shape))
        what = f"Draws {length} tokens" if name == "sample" else "Keeps some of the given tokens and draws the others"
        mb.entries[entry] = b.finish(doc=f"{what} in {self.steps} steps, each token by {tables[0].steps} of diffusion.")
        outputs = (OutputField("samples", "x"),)
        return Program(entry, self.kind, self.steps, evaluations, sources, settings, name, outputs, own)

    def run(
        self,
        b: Builder,
        sets: TokenSets,
        operands: Mapping[str, Var],
        fixed: Mapping[str, Var],
        state: Sequence[Var],
        segments: Sequence[Segment],
    ) -> tuple[tuple[Var, ...], int]:
        """The loops over all sets: the state after them, and the evaluations of networks."""
        evaluations, state = 0, tuple(state)
        for blocks, rows in segments:
            names = ["before", *_numbered("after", blocks), *(_numbered("weight", blocks) if self.guidance else ())]
            columns = [np.array(column) for column in zip(*rows, strict=True)]
            tables = [b.constant(column, out=name) for name, column in zip(names, columns, strict=False)]
            state = b.loop(
                f"{sets.entry}.set",
                len(rows),
                partial(sets.body(len(blocks)), blocks),
                invariants=[*operands.values(), *fixed.values()],
                carried=list(state),
                tables=tables,
                names=["tokens", *["features"] * (len(state) - 1), *names],
            )
            of_tokens = sets.tables[0].all_progress.size + (len(blocks) - 1) * sets.tables[-1].all_progress.size
            evaluations += len(rows) * (len(blocks) + of_tokens)
        return state, evaluations

    def segments(self, length: int) -> list[Segment]:
        """Runs of sets of `length` tokens whose steps denoise equally many: (those numbers, the rows of their tables).

        A row has the tokens hidden before the set and after each of its steps, and the weights of the guidance in them.
        Each number is a power of two and never falls, so that there are few loops; what a step does not need is left
        out.
        """
        left = self.hidden_counts(length)
        weights = self.guidance.weights(self.known(left)) if self.guidance else np.ones(self.steps)
        block, segments = 1, list[tuple[tuple[int, ...], tuple[float, ...]]]()
        largest = max(before - after for before, after in pairwise(left))
        for first, stop in self.sets(left):
            blocks = []
            for i in range(first, stop):
                block = max(block, 1 << max(left[i] - left[i + 1] - 1, 0).bit_length())
                blocks.append(min(block, largest))
            if left[first] > left[stop]:
                segments.append((tuple(blocks), (*left[first : stop + 1], *map(float, weights[first:stop]))))
        return [(blocks, [row for _, row in run]) for blocks, run in groupby(segments, key=lambda segment: segment[0])]


def _numbered(name: str, blocks: tuple[int, ...]) -> list[str]:
    """A name for each step of a set."""
    return [f"{name}_{i}" if i else name for i in range(len(blocks))]
