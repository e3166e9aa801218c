"""Sets of tokens one after the other in a random order, each token by a diffusion of its own: MAR's sampler.

Symbols: B batch, T tokens of a sample, C channels of a token, D channels of its features, K tokens denoised at once,
S noisy steps of the diffusion.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components import OneOfThese
from latentc.components.contract import Need, Network, OutputField, Program
from latentc.components.guidance.guidance import (
    Contrast,
    Guide,
    ScheduledGuidance,
    guidance_problems,
    scale_at,
)
from latentc.components.kit import Conditions, Operands, both_branches, call
from latentc.components.kit.patches import patch_side, patchify, unpatchify
from latentc.components.kit.tokens import Schedule, hidden_fraction
from latentc.components.parts import Problem, under
from latentc.components.sampler import Sampler
from latentc.components.samplers._masked import inpainting_conditions
from latentc.components.samplers.base import ArraySampler, inner_problems, parameterization_of
from latentc.components.samplers.ddim import Ddim
from latentc.components.samplers.ddpm import Ddpm
from latentc.components.samplers.guided import Request
from latentc.components.samplers.program import denoise, stochastic_rows
from latentc.components.samplers.table import Table
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.types import B, Named, f32, i64
from latentc_runtime.sources import ConditionSource, RandomSource, Setting, SettingSource, Source

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class MaskedAutoregressive(Sampler):
    """In each step network `main` sees the tokens made so far, and `head` denoises the next ones (arXiv:2406.11838)."""

    kind: Literal["masked_autoregressive"]
    steps: int = Field(64, gt=0, le=100_000, description="sets of tokens, one evaluation of `main` each")
    schedule: Schedule = Field("cosine", description="how the number of hidden tokens falls over the steps")
    diffusion: Annotated[ArraySampler, OneOfThese("samplers", classes=(Ddim, Ddpm))] = Field(
        Ddpm(kind="ddpm", steps=100, respacing="100"), description="how `head` denoises a token"
    )
    temperature: float = Field(1.0, ge=0, description="factor of the noise in the steps of `diffusion`")
    guidance: ScheduledGuidance | None = Field(
        None, description="classifier-free guidance of `head`; its progress is the known fraction of the tokens"
    )
    inpaint: bool = Field(True, description="a second program `inpaint` keeps given tokens and draws the others")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "masked_autoregressive",
        "steps": 3,
        "diffusion": {"kind": "ddpm", "steps": 4},
        "guidance": {"scale": 2.0, "schedule": "linear"},
    }

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return (Need("main", "masked_features"), Need("head", "denoise"))

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if self.diffusion.guidance is not None:
            message = "the sampler guides the diffusion, with one scale for all of its steps"
            yield Problem(("diffusion", "guidance"), message, "leave it out, and set `sampler.guidance`")
        yield from under("diffusion", problems=inner_problems(self.diffusion, "this one denoises tokens"))
        if self.guidance is not None:
            yield from under("guidance", problems=guidance_problems(self.guidance, spec))
            if self.guidance.channels is not None:
                message = "all channels of a token are guided"
                yield Problem(("guidance", "channels"), message, "leave it out")

    def with_steps(self, steps: int) -> MaskedAutoregressive:
        return self.model_copy(update={"steps": steps})

    def hidden_counts(self, length: int) -> list[int]:
        """Hidden tokens before the first step, and after each: at least one fewer, and none after the last."""
        fractions = hidden_fraction(self.schedule, np.arange(1, self.steps + 1) / self.steps)
        left = [length]
        for fraction in fractions[:-1]:
            left.append(max(1, min(left[-1] - 1, int(np.floor(length * fraction)))))
        return [*left, 0]

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        return self._program(mb, networks, spec, "sample")

    def programs(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Program, ...]:
        names = ("sample", "inpaint")[: 1 + self.inpaint]
        return tuple(self._program(mb, networks, spec, name) for name in names)

    def _table(self, spec: Spec) -> Table:
        target = parameterization_of(spec.objective)
        if target is None:
            raise ValueError(f"`{self.kind}` needs an objective that trains a denoiser")
        return self.diffusion.table(target).with_noise(self.temperature)

    def _program(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec, name: str) -> Program:
        """Adds entry `NAME.STEPS`: the conditions, scale f32[B] with guidance, order i64[B, T], x f32[B, T, C] and, if
        the diffusion takes noise, noise f32[B, S, T, C] -> f32[B, C, H, W].

        `inpaint` takes `given` f32[B, C, H, W] and `keep` f32[B, T] too: tokens above 0.5 stay as given.
        """
        main, head, conditions = networks["main"], networks["head"], Conditions(spec, networks)
        entry, table, shape = f"{name}.{self.steps}", self._table(spec), spec.data.shape
        _, count, channels = main.methods["forward"].input("state").type.shape
        length, size = int(count), int(channels)  # type: ignore[arg-type]
        assert shape is not None and len(shape) == 3
        tokens_type = f32(B, Named(length, "T"), size)
        b = mb.function(entry)
        inputs = conditions.inputs(b)
        told = conditions.operands(b, inputs)
        sources: dict[str, Source] = conditions.sources()
        own = inpainting_conditions(shape, length) if name == "inpaint" else ()
        given, keep = (b.input("given", f32(B, *shape)), b.input("keep", f32(B, length))) if own else (None, None)
        sources |= {c.name: ConditionSource(c.name) for c in own}
        scale = b.input("scale", f32(B)) if self.guidance else None
        sources |= {"scale": SettingSource("guidance")} if self.guidance else {}
        order, x = b.input("order", i64(B, length)), b.input("x", tokens_type)
        sources |= {"order": RandomSource("permutation", "order"), "x": RandomSource("normal", "x")}
        noise = b.input("noise", f32(B, noisy, length, size)) if (noisy := stochastic_rows(table)) else None
        sources |= {"noise": RandomSource("normal", "step")} if noise else {}

        ranks = b.argsort(order, out="ranks")
        free = None
        if given is not None and keep is not None:
            kept = b.greater(keep, 0.5, out="kept")
            # Tokens that stay come last in the order, and are never hidden.
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
        evaluations = 0
        for block, rows in self._segments(length):
            before, after, weight = (np.array(column) for column in zip(*rows, strict=True))
            tables = [b.constant(before, out="before"), b.constant(after, out="after")]
            if self.guidance:
                tables.append(b.constant(weight, out="weight"))
            body = partial(self._step, main, head, conditions, told, fixed, table, block, entry)
            (tokens,) = b.loop(
                f"{entry}.set",
                len(rows),
                body,
                invariants=[*told.values(), *fixed.values()],
                carried=[tokens],
                tables=tables,
                names=["tokens", "before", "after", "weight"][: 1 + len(tables)],
            )
            evaluations += len(rows) * (1 + table.all_progress.size)
        b.output(unpatchify(b, tokens, shape))
        what = f"Draws {length} tokens" if name == "sample" else "Keeps some of the given tokens and draws the others"
        mb.entries[entry] = b.finish(doc=f"{what} in {self.steps} steps, each token by {table.steps} of diffusion.")
        settings = (Setting("guidance", self.guidance.scale),) if self.guidance else ()
        outputs = (OutputField("samples", "x"),)
        return Program(entry, self.kind, self.steps, evaluations, sources, settings, name, outputs, own)

    def _segments(self, length: int) -> list[tuple[int, list[tuple[int, int, float]]]]:
        """Runs of steps that denoise K tokens at once: (K, [(hidden before, hidden after, weight of the guidance)]).

        K is a power of two and never falls, so that there are few loops; what a step does not need is left out.
        """
        left = self.hidden_counts(length)
        # Published code counts one token as hidden after the last step too.
        known = [(length - max(after, 1)) / length for after in left[1:]]
        weights = self.guidance.weights(known) if self.guidance else np.ones(self.steps)
        most, segments = 1, list[tuple[int, tuple[int, int, float]]]()
        largest = max(before - after for before, after in pairwise(left))
        for before, after, weight in zip(left, left[1:], weights, strict=False):
            if before > after:
                most = max(most, 1 << (before - after - 1).bit_length())
                segments.append((min(most, largest), (before, after, float(weight))))
        return [(block, [row for _, row in run]) for block, run in groupby(segments, key=lambda segment: segment[0])]

    def _step(
        self,
        main: Network,
        head: Network,
        conditions: Conditions,
        told: Operands,
        fixed: Mapping[str, Var],
        table: Table,
        count: int,
        entry: str,
        b: Builder,
        i: Var,
        invariants: tuple[Var, ...],
        state: tuple[Var, ...],
        rows: tuple[Var, ...],
    ) -> Any:
        """One set: `count` tokens from place `after` of the order on, of which those before `before` are hidden."""
        (tokens,), (before, after, *weight) = state, rows
        told = dict(zip(told, invariants, strict=False))
        at = dict(zip(fixed, invariants[len(told) :], strict=True))
        length, size = int(tokens.shape[1]), int(tokens.shape[2])
        if "free" in at:  # the same fraction of the tokens that may change, rounded up
            before, after = (
                b.div(at["free"] * column + (length - 1), length, out=label)
                for column, label in ((before, "before"), (after, "after"))
            )
        waiting = b.less(at["ranks"], before, out="waiting")
        hidden = b.cast(waiting, to="f32", out="hidden")
        places = b.minimum(b.add(after, b.arange(count)), length - 1, out="places")
        chosen = _picked(b, at["order"], places, "chosen")
        scale = scale_at(b, at["scale"], weight[0]) if "scale" in at else None
        if scale is None:
            z, null_z = call(b, main, "forward", told, state=tokens, mask=hidden, out="z"), None
        else:
            null = conditions.null(b, told)
            z, null_z = both_branches(b, main, "forward", told, null, state=tokens, mask=hidden, out="z")
            spread = b.broadcast_to(b.reshape(scale, shape=(B, 1)), tokens, shape=(B, count))
            scale = b.reshape(spread, shape=(B * count,), out="scale")
        width = int(z.shape[2])
        features = {
            key: b.reshape(_along(b, v, chosen), shape=(B * count, width), out=key)
            for key, v in (("z", z), ("null_z", null_z))
            if v is not None
        }
        start = b.reshape(_picked(b, at["x"], places), shape=(B * count, size), out="start")
        kicks = None
        if "noise" in at:
            kicks = b.transpose(at["noise"], perm=(0, 2, 1, 3))  # [B, T, S, C]
            kicks = b.transpose(_picked(b, kicks, places), perm=(2, 0, 1, 3))
            kicks = b.reshape(kicks, shape=(kicks.shape[0], B * count, size), out="kicks")
        scales = {} if scale is None else {"scale": scale}
        request = Request(features, lambda b, told, names: {"z": told["null_z"]}, ("z",), features["z"], scales)
        guides = [Guide(key, "guidance", 1.0, np.ones_like, Contrast()) for key in scales]
        made = denoise(b, f"{entry}.token", table, head, request, start, kicks, guides)
        made = b.reshape(made, shape=(B, count, size), out="made")
        # A token of the set is at its rank's place in it.
        place = b.op("sub", at["ranks"], after, out="place")
        mine = b.logical_and(waiting, b.less_equal(after, at["ranks"]), out="mine")
        index = b.clamp(place, low=0, high=count - 1, out="index")
        put = b.where(b.reshape(mine, shape=(B, length, 1)), _along(b, made, index), tokens, out="tokens")
        return (put,), ()


def _picked(b: Builder, v: Var, places: Var, out: str = "picked") -> Var:
    """Elements of v [B, T, …] at places [K], the same for all samples, or [B, K]."""
    if places.type.rank == 1:
        return b.take(v, places, axis=1, out=out)  # type: ignore[no-any-return]
    return _along(b, v, places, out)


def _along(b: Builder, v: Var, index: Var, out: str = "along") -> Var:
    """Elements of v [B, T, …] at index [B, K]."""
    rest = v.shape[2:]
    wide = b.reshape(index, shape=(*index.shape, *[1] * len(rest))) if rest else index
    if rest:
        wide = b.broadcast_to(wide, v, shape=(*index.shape, *rest))
    return b.take_along(v, wide, axis=1, out=out)  # type: ignore[no-any-return]
