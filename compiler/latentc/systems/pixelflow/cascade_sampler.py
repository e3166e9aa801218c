"""Euler's or Dormand and Prince's method through stages of rising resolution: PixelFlow's sampler.

A program of several tables, one per stage; between them the state doubles its resolution and gets correlated noise.
Symbols: B batch, C channels, K stages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from latentc.components import Closed, Steps
from latentc.components.contract import Network, OutputField, Program
from latentc.components.guidance.guidance import Guidance, Guide, asked_scale, guidance_problems, of_conditions
from latentc.components.kit import Conditions
from latentc.components.parts import Fraction, Problem, Spec, under
from latentc.components.sampler import Sampler
from latentc.components.samplers._adaptive import Tolerances, integrate
from latentc.components.samplers._velocity import At, Course, velocity
from latentc.components.samplers.guided import Request
from latentc.components.samplers.program import denoise
from latentc.components.samplers.table import LINEAR, Table
from latentc.ir.builder import ModuleBuilder, Var
from latentc.ir.types import B, f32
from latentc.systems.pixelflow.cascade_parts import Cascade
from latentc.systems.pixelflow.cascaded_flow import CascadedFlow
from latentc_runtime.sources import RandomSource, Source


class StageGuidance(Closed):
    """Classifier-free guidance whose strength depends on the stage."""

    scale: float = Field(1.0, ge=0, description="scale where the weight is 1; 1 is no guidance. An input of the engine")
    weights: tuple[Fraction, ...] | None = Field(
        None, max_length=16, description="fraction of scale - 1 per stage; null: all of it"
    )


class CascadeSampler(Sampler):
    """Integrates each stage by Euler's method, or with `adaptive` by Dormand and Prince's (PixelFlow, Chen et al. 2025,
    arXiv:2504.07963).

    The times of a stage are t / (shift + (1 - shift) t), with t even from 0 to one whole time before the end.
    """

    kind: Literal["cascade"]
    steps: int = Field(30, gt=0, le=100_000, description="evaluations per stage")
    steps_per_stage: tuple[Steps, ...] | None = Field(
        None, max_length=16, description="evaluations of each stage individually; null: `steps` for all"
    )
    shift: float = Field(1.0, gt=0, le=1_000, description="larger values shorten steps near the noise of a stage")
    guidance: StageGuidance | None = Field(None, description="classifier-free guidance; null: none")
    adaptive: Tolerances | None = Field(
        None,
        description="integrate each stage adaptively with the Dormand–Prince method, as `dopri5`, instead of "
        "`steps`; null: Euler's method",
    )
    NEEDS = "denoise_stages"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "cascade", "steps": 2, "guidance": {"scale": 2.0, "weights": [0, 1]}}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if not isinstance(spec.objective, CascadedFlow):
            message = "`cascade` needs a network trained in stages, but the objective trains none"
            yield Problem(("kind",), message, "use `objective: {kind: cascaded_flow}`")
            return
        for path, values in (
            (("steps_per_stage",), self.steps_per_stage),
            (
                ("guidance", "weights"),
                self.guidance.weights if self.guidance else None,
            ),
        ):
            if values is not None and len(values) != spec.objective.stages:
                yield Problem(path, f"{len(values)} numbers for {spec.objective.stages} stages", "give one per stage")
        for name, value, usual_value in (("steps_per_stage", self.steps_per_stage, None), ("shift", self.shift, 1.0)):
            if self.adaptive is not None and value != usual_value:
                yield Problem((name,), f"`adaptive` chooses the steps, so `{name}` has no effect", "leave it out")
        if self.guidance is not None:
            usual = Guidance(scale=self.guidance.scale)
            yield from under("guidance", problems=guidance_problems(usual, spec))

    def with_steps(self, steps: int) -> CascadeSampler:
        if self.adaptive is not None:
            adaptive = self.adaptive.model_copy(update={"max_steps": steps})
            return self.model_copy(update={"adaptive": adaptive})
        return self if steps == self.steps else self.model_copy(update={"steps": steps, "steps_per_stage": None})

    def table(self, cascade: Cascade, stage: int) -> Table:
        """The coefficients of a stage."""
        count = self.steps if self.steps_per_stage is None else self.steps_per_stage[stage]
        t = np.linspace(0.0, 1.0 - 1.0 / cascade.steps, count)
        t = t / (self.shift + (1.0 - self.shift) * t)
        shift, scale = cascade.network_time(stage)
        zeros, ones = np.zeros(count), np.ones(count)
        columns = {"t": shift + scale * t, "d_x": zeros, "d_output": ones, "x": ones, "d": np.diff(t, append=1.0)}
        return Table("cascade", LINEAR, columns | {"progress": (stage + t) / cascade.count})

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `sample.STEPS`: x f32[B, C, h, w] of the first stage, the conditions, the scale of guidance, and
        `noise_1`, `noise_2`, … f32[B, C, h, w, 4] before the other stages -> x f32[B, C, H, W], and if stages choose
        their steps evaluations f32[B].
        """
        network, conditions = networks["main"], Conditions(spec, networks)
        count = self.steps if self.adaptive is None else self.adaptive.max_steps
        entry = f"sample.{count}"
        cascade: Cascade = spec.objective.cascade  # type: ignore[union-attr]
        methods = [network.methods[f"stage_{k}"] for k in range(cascade.count - 1)] + [network.methods["forward"]]
        b = mb.function(entry)
        x = b.input("x", methods[0].input("state").type)
        inputs = conditions.inputs(b)
        operands = conditions.operands(b, inputs)
        like = next(iter(operands.values())) if operands else b.full(x, shape=(), value=0.0, dtype="f32", out="batch")
        nullable = tuple(name for name, condition in conditions.items() if condition.nullable)
        sources: dict[str, Source] = {"x": RandomSource("normal", "x"), **conditions.sources()}
        scale, settings = asked_scale(b, self.guidance, sources)
        scales = {} if scale is None else {"scale": scale}
        evaluations, made = 0, list[Var]()
        for stage, method in enumerate(methods):
            if stage:
                blocks = b.input(f"noise_{stage}", f32(B, *x.shape[1:], 4))
                sources[f"noise_{stage}"] = RandomSource("normal", f"stage_{stage}")
                x = cascade.enlarged(b, x, blocks, stage)
            at = replace(network, methods={"forward": method})
            side = b.full(like, shape=(), value=float(cascade.side(network, stage)), dtype="f32", out="side")
            request = Request({**operands, "side": side}, conditions.null, nullable, like, scales)
            name, guides = f"{entry}.stage_{stage}", self._guides(stage)
            if self.adaptive is None:
                table = self.table(cascade, stage)
                evaluations += table.rows
                x = denoise(b, name, table, at, request, x, None, guides)
            else:
                guides = [guide for guide in guides if guide.acts(0.0)]
                rates, kept = velocity(mb, at, _course(cascade, stage), guides, request)
                (x,), own = integrate(b, name, rates, [x], kept, (0.0, 1.0), self.adaptive)
                evaluations += self.adaptive.evaluations
                made = [b.add(made[0], own, out="evaluations") if made else own]
        b.output(x, made)
        mb.entries[entry] = b.finish(doc=f"{cascade.count} stages of rising resolution.")
        outputs = (OutputField("samples", "x"), OutputField("evaluations", effort=True)) if made else ()
        return Program(entry, self.kind, count, evaluations, sources, settings, outputs=outputs)

    def _guides(self, stage: int) -> list[Guide]:
        if self.guidance is None:
            return []
        weight = 1.0 if self.guidance.weights is None else self.guidance.weights[stage]

        def weights(progress: Sequence[float]) -> NDArray[np.float64]:
            return np.full(len(progress), weight)

        return [Guide("scale", "guidance", self.guidance.scale, weights, of_conditions())]


def _course(cascade: Cascade, stage: int) -> Course:
    """The local time of a stage, from 0 to 1 at its last whole time."""
    shift, scale = cascade.network_time(stage)
    scale *= (cascade.steps - 1) / cascade.steps
    return Course((0.0, 1.0), lambda b, t, rank: At(b.add(t * scale, shift, out="time")), lambda t: t)
