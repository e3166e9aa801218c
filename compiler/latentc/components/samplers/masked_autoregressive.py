"""Sets of tokens one after the other in a random order, each token by a diffusion of its own: MAR's sampler.

Symbols: B batch, T tokens of a sample, C channels of a token, S noisy steps of the diffusion.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components import OneOfThese
from latentc.components.contract import Need, Network, OutputField, Program
from latentc.components.guidance.guidance import ScheduledGuidance, token_guidance_problems
from latentc.components.kit import Conditions
from latentc.components.kit.patches import patch_side, patchify, unpatchify
from latentc.components.kit.tokens import Schedule
from latentc.components.parts import Problem, under
from latentc.components.sampler import Sampler
from latentc.components.samplers._masked import inpainting_conditions
from latentc.components.samplers._token_sets import TokenSets, diffusion_problems, hidden_counts
from latentc.components.samplers.base import ArraySampler, parameterization_of
from latentc.components.samplers.ddim import Ddim
from latentc.components.samplers.ddpm import Ddpm
from latentc.components.samplers.euler import Euler
from latentc.components.samplers.program import stochastic_rows
from latentc.components.samplers.table import Table
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.types import B, Named, f32, i64
from latentc_runtime.sources import ConditionSource, RandomSource, Setting, SettingSource, Source

if TYPE_CHECKING:
    from latentc.spec.schema import Spec

Segment = tuple[tuple[int, ...], list[tuple[float, ...]]]
"""Tokens that each step of a set denoises, and a row per set (`MaskedAutoregressive.segments`)."""


class MaskedAutoregressive(Sampler):
    """In each step, `main` sees the tokens so far and `head` denoises the next ones (arXiv:2406.11838)."""

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

    def with_steps(self, steps: int) -> MaskedAutoregressive:
        return self.model_copy(update={"steps": steps})

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
        scale = b.input("scale", f32(B)) if self.guidance else None
        sources |= {"scale": SettingSource("guidance")} if self.guidance else {}
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
        settings = (Setting("guidance", self.guidance.scale),) if self.guidance else ()
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
