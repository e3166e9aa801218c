"""Low-resolution pivots token by token, then all dense tokens given them: Hi-MAR's sampler.

Symbols: B batch, N pivots, T dense tokens, C channels of a token, M steps of the dense phase, S noisy steps of the
diffusion of a pivot, R of the dense tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
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
from latentc.components.kit.patches import unpatchify
from latentc.components.kit.tokens import Schedule
from latentc.components.parts import Problem, Spec, under
from latentc.components.sampler import Sampler
from latentc.components.samplers.base import ArraySampler, parameterization_of
from latentc.components.samplers.ddim import Ddim
from latentc.components.samplers.ddpm import Ddpm
from latentc.components.samplers.guided import Request
from latentc.components.samplers.masked_autoregressive import (
    MaskedAutoregressive,
    Segment,
    TokenSets,
    diffusion_problems,
    hidden_counts,
)
from latentc.components.samplers.program import Known, denoise, stochastic_rows
from latentc.components.samplers.table import Table
from latentc.components.sums import Coefficient, weighted_sum
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.types import B, Named, f32, i64
from latentc.systems.himar.hierarchical_autoencoder import PHASES
from latentc_runtime.sources import RandomSource, Source


class Pivoted(Sampler):
    """Draws pivots as in MAR, then dense tokens in a few steps (Hi-MAR, Zheng et al. 2025, ICML).

    Each dense step denoises all tokens jointly and replaces those that are still hidden. Before every step of that
    diffusion the known tokens are put back, noised to its time by the noise that the diffusion started from.
    """

    kind: Literal["pivoted"]
    pivots: Annotated[Sampler, OneOfThese("samplers", classes=(MaskedAutoregressive,))] = Field(
        MaskedAutoregressive(kind="masked_autoregressive", steps=32), description="sampler of the pivots"
    )
    steps: int = Field(4, gt=0, le=100_000, description="evaluations of `main` for the dense tokens (M)")
    schedule: Schedule = Field("cosine", description="schedule of the number of hidden dense tokens over the steps")
    diffusion: Annotated[ArraySampler, OneOfThese("samplers", classes=(Ddim, Ddpm))] = Field(
        Ddpm(kind="ddpm", steps=250, respacing="250", variance="fixed_large"),
        description="sampler with which `head` denoises the dense tokens",
    )
    temperature: float = Field(1.0, ge=0, description="factor of the noise in the steps of `diffusion`")
    guidance: ScheduledGuidance | None = Field(
        None, description="classifier-free guidance of `head`; its progress is the fraction of known dense tokens"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "pivoted",
        "pivots": {
            "kind": "masked_autoregressive",
            "steps": 2,
            "diffusion": {"kind": "ddpm", "steps": 2},
            "guidance": {"scale": 2.0, "schedule": "linear"},
        },
        "steps": 2,
        "diffusion": {"kind": "ddpm", "steps": 2, "variance": "fixed_large"},
        "guidance": {"scale": 2.0, "schedule": "linear"},
    }

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return PHASES

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from under("diffusion", problems=diffusion_problems(self.diffusion))
        learned = spec.objective is not None and spec.objective.out_channels(1) != 1
        if learned and isinstance(self.diffusion, Ddpm) and self.diffusion.variance in (None, "learned_range"):
            message = "network `head` learns no variance"
            yield Problem(("diffusion", "variance"), message, "use fixed_large or fixed_small")
        yield from under("guidance", problems=token_guidance_problems(self.guidance, spec))

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `sample.M`: the conditions, with guidance pivot_scale and scale f32[B]; of the pivots pivot_order
        i64[B, N], pivot_x f32[B, N, C], pivot_noise f32[B, S, N, C]; of the dense tokens order i64[B, T], x
        f32[B, M, T, C], noise f32[B, M R, T, C] -> f32[B, C, H, W] and the pivots f32[B, N, C].
        """
        main, conditions, pivots = networks["main"], Conditions(spec, networks), self.pivots
        assert isinstance(pivots, MaskedAutoregressive) and spec.data.shape is not None
        target = parameterization_of(spec.objective)
        assert target is not None
        entry, first = f"sample.{self.steps}", pivots.table(spec, pivots.diffusion)
        levels = self.diffusion.grid(target).point
        known = {
            "known_alpha": levels.alpha[1:],
            "known_sigma": levels.sigma[1:],
            "known": np.ones(levels.alpha.size - 1),
        }
        table = self.diffusion.table(target).with_noise(self.temperature)
        table = replace(table, columns={**table.columns, **known})
        enters = float(levels.alpha[0]), float(levels.sigma[0])
        state = main.methods["forward"].input("state").type
        length, size = int(state.shape[1]), int(state.shape[2])  # type: ignore[arg-type]
        count = int(main.methods["pivots"].input("state").type.shape[1])  # type: ignore[arg-type]
        width = int(main.methods["forward"].output().type.shape[2])  # type: ignore[arg-type]
        tokens_type = f32(B, Named(length, "T"), size)
        b = mb.function(entry)
        operands = conditions.operands(b, conditions.inputs(b))
        sources: dict[str, Source] = conditions.sources()
        of_pivots, settings = asked_scale(b, pivots.guidance, sources, "pivot_")
        fixed = {} if of_pivots is None else {"scale": of_pivots}
        scale, own = asked_scale(b, self.guidance, sources)
        order, x = b.input("pivot_order", i64(B, count)), b.input("pivot_x", f32(B, count, size))
        sources |= {
            "pivot_order": RandomSource("permutation", "pivot_order"),
            "pivot_x": RandomSource("normal", "pivot_x"),
        }
        if noisy := stochastic_rows(first):
            fixed["noise"] = b.input("pivot_noise", f32(B, noisy, count, size))
            sources["pivot_noise"] = RandomSource("normal", "pivot_step")
        dense_order = b.input("order", i64(B, length))
        sources["order"] = RandomSource("permutation", "order")
        # Samples first, as for pivots: the host draws all of it at once, and a step is one call.
        starts = b.input("x", f32(B, self.steps, *tokens_type.shape[1:]))
        drawn = [b.transpose(starts, perm=(1, 0, 2, 3), out="starts")]
        sources["x"] = RandomSource("normal", "x")
        rows = stochastic_rows(table)
        if rows:
            noise = b.input("noise", f32(B, self.steps * rows, *tokens_type.shape[1:]))
            noise = b.reshape(noise, shape=(B, self.steps, rows, *tokens_type.shape[1:]))
            drawn.append(b.transpose(noise, perm=(1, 2, 0, 3, 4), out="kicks"))
            sources["noise"] = RandomSource("normal", "step")

        fixed |= {"ranks": b.argsort(order, out="ranks"), "order": order, "x": x}
        given = (tuple(operands), tuple(fixed), (first,), entry, "pivots")
        sets = TokenSets(main, networks["pivot_head"], conditions, *given)
        start = [b.mul(x, 0.0, out="pivots"), b.full(x, shape=(count, width), value=0.0, dtype="f32", out="features")]
        (made, features), evaluations = pivots.run(b, sets, operands, fixed, start, _as_one(pivots.segments(count)))
        tokens = self._dense(
            b, networks, conditions, operands, entry, table, enters, dense_order, features, scale, drawn, rows
        )
        b.output(unpatchify(b, tokens, spec.data.shape), made)  # type: ignore[arg-type]
        mb.entries[entry] = b.finish(doc=f"Draws {count} pivots, then {length} tokens in {self.steps} steps.")
        evaluations += self.steps * (1 + table.all_progress.size)
        outputs = (OutputField("samples", "x"), OutputField("pivots"))
        return Program(entry, self.kind, self.steps, evaluations, sources, (*settings, *own), outputs=outputs)

    def _dense(
        self,
        b: Builder,
        networks: Mapping[str, Network],
        conditions: Conditions,
        operands: Mapping[str, Var],
        entry: str,
        table: Table,
        enters: tuple[float, float],
        order: Var,
        features: Var,
        scale: Var | None,
        drawn: list[Var],
        noisy: int,
    ) -> Var:
        """f32[B, T, C]: the loop over the steps of the dense tokens, each with its own noise.

        `enters`: alpha and sigma at the first time of the diffusion.
        """
        main, head = networks["main"], networks["head"]
        count, length = int(features.shape[1]), int(order.shape[1])
        left = hidden_counts(self.schedule, self.steps, length)
        known = [(length - max(after, 1)) / length for after in left[1:]]
        columns = {"before": np.array(left[:-1])}
        if self.guidance is not None:
            columns["weight"] = np.asarray(self.guidance.weights(known), np.float64)
        ranks = b.argsort(order, out="ranks")
        fixed = [*operands.values(), features, ranks, *([] if scale is None else [scale])]
        tables = [*(b.constant(column, out=name) for name, column in columns.items()), *drawn]

        def body(b: Builder, i: Var, kept: tuple[Var, ...], state: tuple[Var, ...], rows: tuple[Var, ...]) -> Any:
            named = dict(zip(operands, kept, strict=False))
            features, ranks, *scales = kept[len(operands) :]
            (tokens,), row = state, dict(zip([*columns, "x", "noise"], rows, strict=False))
            waiting = b.less(ranks, row["before"], out="waiting")
            hidden = b.cast(waiting, to="f32", out="hidden")
            none = b.full(features, shape=(count,), value=0.0, dtype="f32", out="left_out")
            given: dict[str, Any] = {"state": tokens, "mask": [hidden, none], "features": features, "out": "z"}
            found, used, guides = {}, {}, []
            if scales:
                null = conditions.null(b, named)
                # The masks and features belong to both branches.
                cond, other = both_branches(b, main, "forward", named, null, **given)
                found["null_z"] = b.slice(other, axis=1, start=count, stop=count + length, out="null_z")
                used["scale"] = scale_at(b, scales[0], row["weight"])
                guides.append(Guide("scale", "guidance", 1.0, np.ones_like, of_conditions()))
            else:
                cond = call(b, main, "forward", named, **given)
            found = {"z": b.slice(cond, axis=1, start=count, stop=count + length, out="z"), **found}
            request = Request(found, lambda b, operands, names: {"z": operands["null_z"]}, ("z",), found["z"], used)
            column = b.reshape(waiting, shape=(B, length, 1), out="column")
            at_first = weighted_sum(b, "target", (enters[0], tokens), (enters[1], row["x"]))
            put_back = Known(
                tokens,
                row["x"],
                _put_back,
                lambda b, x: _put_back(b, x, at_first, (column,)),
                operands=(column,),
                same_noise=True,
            )
            name, noise = f"{entry}.dense", row.get("noise")
            made = denoise(b, name, table, head, request, row["x"], noise, guides, known=put_back)
            return (b.where(column, made, tokens, out="tokens"),), ()

        size = int(drawn[0].shape[3])
        start = b.full(features, shape=(length, size), value=0.0, dtype="f32", out="tokens")
        names = ["tokens", *columns, "x", *["noise"] * bool(noisy)]
        (tokens,) = b.loop(
            f"{entry}.dense_step", self.steps, body, invariants=fixed, carried=[start], tables=tables, names=names
        )
        return tokens


def _as_one(segments: Sequence[Segment]) -> list[Segment]:
    """One loop over all sets of pivots: `pivot_head` is small, so tokens that a step discards cost little."""
    blocks = tuple(max(counts) for counts in zip(*(blocks for blocks, _ in segments), strict=True))
    return [(blocks, [row for _, rows in segments for row in rows])]


def _put_back(b: Builder, x: Var, target: Var, waiting: tuple[Var, ...], share: Coefficient = 1.0) -> Var:
    """x where tokens are still hidden, else the known tokens at the noise of x."""
    return b.where(waiting[0], x, target, out="x")
