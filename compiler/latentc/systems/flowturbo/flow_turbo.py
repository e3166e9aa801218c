"""FlowTurbo: Heun's method on a flow, then steps that reuse a velocity, then steps that refine it by a small network.

It is no table, because its steps hand a velocity on from one kind of step to the next. Symbols: B batch, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.contract import Need, Network, Program
from latentc.components.guidance.guidance import ScheduledGuidance, asked_scale, guidance_problems, scale_at
from latentc.components.kit import Conditions, Operands, both_branches, call
from latentc.components.parts import Problem, Spec, under
from latentc.components.sampler import Sampler
from latentc.components.samplers.base import parameterization_of
from latentc.components.sums import weighted_sum
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.systems.flowturbo.velocity_refinement import carried, carried_problems
from latentc_runtime.sources import RandomSource, Source


class FlowTurbo(Sampler):
    """Heun steps, then pseudo-corrector steps, then refiner steps (Zhao et al. 2024, arXiv:2409.18128).

    A pseudo-corrector step reuses the velocity of the previous step, so it evaluates `main` once instead of twice. A
    refiner step evaluates only the small network `refiner`, twice. All steps have the same length. If only some
    channels are guided, both branches carry a velocity, as in the authors' code.
    """

    kind: Literal["flow_turbo"]
    heun: int = Field(1, ge=0, le=10_000, description="Heun steps with `main`")
    pseudo: int = Field(
        5, ge=0, le=10_000, description="steps with `main` that reuse the velocity of the previous step"
    )
    refined: int = Field(3, ge=0, le=10_000, description="steps with the refiner")
    refiner: str = Field(
        "refiner", description="one of `networks`: the small one, which takes the velocity as an input"
    )
    guidance: ScheduledGuidance | None = Field(
        None, description="classifier-free guidance of both networks; null: none"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "flow_turbo",
        "heun": 1,
        "pseudo": 2,
        "refined": 2,
        "guidance": {"scale": 2.0, "channels": 1},
    }

    @property
    def steps(self) -> int:
        """Updates of the state."""
        return self.heun + self.pseudo + self.refined

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        refining = (Need(self.refiner, "refine"),) if self.refined else ()
        return (Need("main", "denoise"), *refining)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        target = parameterization_of(spec.objective)
        if target is None or target.predicts != "flow_velocity":
            message = "`flow_turbo` integrates a flow's velocity, but the network does not predict it"
            yield Problem(("kind",), message, "use it with the objective `velocity_refinement` or `flow`")
        if self.heun + self.pseudo == 0:
            message = "no step evaluates `main`, so the refiner has no velocity to start from"
            yield Problem(("heun",), message, "set `heun: 1`")
        yield from carried_problems(self.refiner, spec)
        if self.guidance is not None:
            yield from under("guidance", problems=guidance_problems(self.guidance, spec))

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `sample.STEPS`: x f32[B, C, ...] of normals, the conditions, scale f32[B] with guidance -> x."""
        target = parameterization_of(spec.objective)
        assert target is not None  # `problems` has looked
        main, conditions = networks["main"], Conditions(spec, networks)
        entry, process = f"sample.{self.steps}", target.process
        b = mb.function(entry)
        x = b.input("x", main.methods["forward"].input("state").type)
        operands = conditions.operands(b, conditions.inputs(b))
        sources: dict[str, Source] = {"x": RandomSource("normal", "x"), **conditions.sources()}
        scale, settings = asked_scale(b, self.guidance, sources)
        channels = self.guidance.channels if self.guidance else None
        if process.prior_scale(process.first) != 1.0:
            x = b.mul(x, process.prior_scale(process.first), out="x")
        state = (x, *[b.mul(x, 0.0, out="v")] * (1 + _splits(main, channels)))
        times = np.linspace(process.first, process.last, self.steps + 1)
        evaluator = _Evaluator(conditions, channels)
        first = max(self.heun, 1)  # there is no velocity to reuse before the first step
        stages = [
            ("heun", main, "", 0, first),
            ("pseudo", main, "", first, self.heun + self.pseudo),
            ("refined", networks.get(self.refiner, main), carried(spec) if self.refined else "", None, None),
        ]
        for name, network, velocity, start, stop in stages:
            start, stop = (self.heun + self.pseudo, self.steps) if start is None or stop is None else (start, stop)
            if start >= stop:
                continue
            stage = _Stage(evaluator, network, name, velocity, (times[-1] - times[0]) / self.steps)
            state = stage.loop(
                b, entry, times[start : stop + 1], process.progress, self.guidance, operands, scale, state
            )
        b.output(state[0])
        mb.entries[entry] = b.finish(
            doc=f"FlowTurbo, {self.heun} steps of Heun, {self.pseudo} pseudo-corrector steps, {self.refined} refined"
        )
        evaluations = self.heun + self.pseudo + first + 2 * self.refined
        return Program(entry, self.kind, self.steps, evaluations, sources, settings)


def _splits(network: Network, channels: int | None) -> bool:
    """True if the branches of guidance predict different velocities, in the channels that are not guided."""
    return channels is not None and channels < int(network.methods["forward"].input("state").type.shape[1])  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Evaluator:
    """Evaluates a network under guidance of the first `channels` channels (None: of all)."""

    conditions: Conditions
    channels: int | None

    def __call__(
        self,
        b: Builder,
        network: Network,
        operands: Operands,
        scale: Var | None,
        x: Var,
        time: Var,
        out: str,
        **given: Any,
    ) -> tuple[Var, ...]:
        """The prediction, and that of the branch without conditions if it differs. `given`: {condition: v of both}."""
        with_, without = ({key: branches[i] for key, branches in given.items()} for i in (0, -1))
        if scale is None:
            return (call(b, network, "forward", {**operands, **with_}, state=x, time=time, out=out),)
        null = self.conditions.null(b, operands)
        both = {**operands, **with_}, {**null, **without}
        cond, uncond = both_branches(b, network, "forward", *both, state=x, time=time, out=out)
        column = b.reshape(scale, shape=(scale.shape[0], *[1] * (x.type.rank - 1)), out="scale")
        if not _splits(network, self.channels):
            return (b.add(uncond, b.mul(column, cond - uncond), out=out),)
        assert self.channels is not None
        sizes = (self.channels, int(x.shape[1]) - self.channels)
        cond, rest = b.split(cond, axis=1, sizes=sizes, out=f"{out} rest")
        uncond, null_rest = b.split(uncond, axis=1, sizes=sizes, out=f"null_{out} null_rest")
        guided = b.add(uncond, b.mul(column, cond - uncond), out=out)
        return b.concat(guided, rest, axis=1, out=out), b.concat(guided, null_rest, axis=1, out=f"null_{out}")


@dataclass(frozen=True)
class _Stage:
    """Steps of one kind, `h` long each; `velocity` is the condition that the network corrects, if it does."""

    evaluate: _Evaluator
    network: Network
    name: str
    velocity: str
    h: float

    def loop(
        self,
        b: Builder,
        entry: str,
        times: np.ndarray,
        progress: Any,
        guidance: ScheduledGuidance | None,
        operands: Operands,
        scale: Var | None,
        state: Sequence[Var],
    ) -> tuple[Var, ...]:
        """The state (x, v and perhaps v of the null branch) after steps between `times` f64[N + 1]."""
        columns = {"t": times[:-1], "t_next": times[1:]}
        if guidance is not None:
            weights = guidance.weights(progress(times))
            if not np.all(weights == 1.0):
                columns |= {"weight": weights[:-1], "weight_next": weights[1:]}
        kept = {**operands, **({} if scale is None else {"scale": scale})}

        def body(
            inner: Builder, i: Var, invariants: tuple[Var, ...], carry: tuple[Var, ...], rows: tuple[Var, ...]
        ) -> tuple[Sequence[Var], Sequence[Var]]:
            row = dict(zip(columns, rows, strict=True))
            at = dict(zip(kept, invariants, strict=False))
            like = invariants[0] if invariants else carry[0]
            asked = at.pop("scale", None)
            x, *v = carry

            def evaluated(x: Var, which: str, out: str) -> tuple[Var, ...]:
                time = inner.broadcast_to(row[f"t{which}"], like, shape=(like.shape[0],), out="time")
                weight = row.get(f"weight{which}")
                strength = asked if asked is None or weight is None else scale_at(inner, asked, weight)
                given = {self.velocity: tuple(v)} if self.velocity else {}
                return self.evaluate(inner, self.network, at, strength, x, time, out, **given)

            def refined(change: tuple[Var, ...], base: Sequence[Var], out: str) -> tuple[Var, ...]:
                return tuple(inner.add(c, u, out=out) for c, u in zip(change, base, strict=True))

            first: Sequence[Var] = v
            if self.velocity:
                first = refined(evaluated(x, "", "change"), v, "d")
            elif self.name == "heun":
                first = evaluated(x, "", "d")
            ahead = weighted_sum(inner, "p", (1.0, x), (self.h, first[0]))
            second = evaluated(ahead, "_next", "change" if self.velocity else "e")
            if self.velocity:
                second = refined(second, first, "e")
            new = weighted_sum(inner, "x", (1.0, x), (self.h / 2, first[0]), (self.h / 2, second[0]))
            # A refiner gets the velocity at the start of its own step, as in the authors' code.
            return (new, *(first if self.velocity else second)), ()

        tables = [b.constant(column, out=name) for name, column in columns.items()]
        names = ["x", *["v", "null_v"][: len(state) - 1], *columns]
        return b.loop(
            f"{entry}.{self.name}",
            len(times) - 1,
            body,
            invariants=[*kept.values()],
            carried=state,
            tables=tables,
            names=names,
        )
