"""Stage after stage of clusters: first where they are, by a flow, then their codes: NVG's sampler.

A program of its own because two networks take turns, and each stage has clusters of its own.

Symbols: B batch, K stages, L = 2^K positions, Z channels of the latents.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.contract import Need, Network, OutputField, Program
from latentc.components.guidance.guidance import ScheduledGuidance, asked_scale, scale_at, token_guidance_problems
from latentc.components.kit import Conditions, Operands, call, guided_call
from latentc.components.kit.tokens import draw, filtered, rows
from latentc.components.parts import Problem, Spec, under
from latentc.components.sampler import Sampler
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.types import B, f32
from latentc.systems.nvg.granules import halves, structure
from latentc_runtime.sources import RandomSource, Source

EPS = 1e-8
"""Added to a probability before its logarithm is taken."""
SHIFTS = (256, 0.5), (4096, 1.15)
"""Numbers of positions, and by what the logits of times are shifted there (FLUX)."""


class NextGranularitySampler(Sampler):
    """Alternately draws clusters and codes (NVG, Wang et al. 2025, arXiv:2508.12811, algorithm 2 and section A.6).

    At stages 1 to K - 1, Euler's method generates a structure embedding from noise, keeping the channels of earlier
    stages; each cluster is split into the half with the largest values in the stage's channel, or a half drawn with
    these as unnormalised probabilities, and the rest. The last split is arbitrary. Then the codes of the clusters are
    drawn. The progress of the guidance is k / K at stage k; a structure's guidance uses that of the previous stage.
    """

    kind: Literal["next_granularity"]
    structure_steps: int = Field(25, gt=0, le=100_000, description="evaluations per structure")
    top_p: float = Field(0.5, gt=0, le=1, description="nucleus of the codes at the last stage; at the first, all codes")
    random_splits: bool = Field(
        False, description="draw halves with Gumbel noise (`use_gumbel_topk` of the authors); false: take the largest"
    )
    guidance: ScheduledGuidance | None = Field(None, description="classifier-free guidance of the codes; null: none")
    structure_guidance: ScheduledGuidance | None = Field(
        None, description="classifier-free guidance of the structure; null: none"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "next_granularity",
        "structure_steps": 2,
        "guidance": {"scale": 2.0, "schedule": "linear"},
    }

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return (
            Need("main", "next_granules"),
            Need("structure", "denoise_structure"),
            Need("quantizer", "quantize_granules"),
        )

    def problems(self, spec: Spec) -> Iterator[Problem]:
        for name in ("guidance", "structure_guidance"):
            yield from under(name, problems=token_guidance_problems(getattr(self, name), spec))

    def nucleus(self, stages: int) -> list[float]:
        """The nucleus of each stage, from 1 down to `top_p`: slowly at first, since by a power of K that grows."""
        fallen = (stages ** (np.arange(stages + 1) / stages) - 1) / (stages - 1)
        return [float(p) for p in 1.0 - (1.0 - self.top_p) * fallen]

    def times(self, positions: int) -> Any:
        """f64[steps + 1]: from 1 to 0, with their logits shifted as FLUX does for so many positions."""
        (low, least), (high, most) = SHIFTS
        shift = np.exp(least + (most - least) * (positions - low) / (high - low))
        times = np.linspace(1.0, 0.0, self.structure_steps + 1)
        return shift * times / (shift * times + 1 - times)

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `sample.K+1`: the conditions, the scales, x f32[B, L, K], u f32[B, 2 L - 1], for random splits
        gumbel f32[B, K - 1, L] -> the tokens i64[B, 3 L - 1]: codes of all stages, labels.
        """
        main, quantizer = networks["main"], networks["quantizer"]
        conditions, stages = Conditions(spec, networks), int(quantizer.sizes["stages"])  # type: ignore[arg-type]
        positions = 2**stages
        entry = f"sample.{stages + 1}"
        b = mb.function(entry)
        cond = conditions.operands(b, conditions.inputs(b))
        sources: dict[str, Source] = conditions.sources()
        scale, settings = asked_scale(b, self.guidance, sources)
        of_structure, further = asked_scale(b, self.structure_guidance, sources, "structure_")
        x, u = b.input("x", f32(B, positions, stages)), b.input("u", f32(B, 2 * positions - 1))
        sources |= {"x": RandomSource("normal", "structure"), "u": RandomSource("uniform", "token")}
        gumbel = b.input("gumbel", f32(B, stages - 1, positions)) if self.random_splits else None
        sources |= {"gumbel": RandomSource("gumbel", "split")} if self.random_splits else {}
        canvas_type = main.methods["forward"].input("state").type
        canvas = b.full(u, shape=canvas_type.shape[1:], value=0.0, dtype="f32", out="canvas")
        labels = b.full(u, shape=(positions,), value=0, dtype="i64", out="labels")
        codes: list[Var] = []
        for k in range(stages + 1):
            if k:
                labels = self._split(b, networks, conditions, cond, k, stages, labels, canvas, x, gumbel, of_structure)
            drawn = b.slice(u, axis=1, start=2**k - 1, stop=2 ** (k + 1) - 1, out="drawn")
            codes.append(self._codes(b, main, conditions, cond, k, stages, labels, canvas, drawn, scale))
            if k < stages:
                canvas = call(
                    b, quantizer, f"add_{k}", {}, state=canvas, token=codes[-1], position=labels, out="canvas"
                )
        b.output(b.concat(*codes, labels, axis=1, out="tokens"))
        mb.entries[entry] = b.finish(doc=f"Draws the clusters and the codes of {stages + 1} stages in turns.")
        count = stages + 1 + (stages - 1) * self.structure_steps
        outputs = (OutputField("samples", "tokens"),)
        return Program(entry, self.kind, stages + 1, count, sources, (*settings, *further), outputs=outputs)

    def _codes(
        self,
        b: Builder,
        main: Network,
        conditions: Conditions,
        cond: Operands,
        k: int,
        stages: int,
        labels: Var,
        canvas: Var,
        u: Var,
        scale: Var | None,
    ) -> Var:
        """i64[B, 2^k]: the codes of the clusters of stage k."""
        positions, count = 2**stages, 2**k
        at = b.full(u, shape=(), value=k, dtype="i64", out="stage")
        # Labels of the last stage that share the bits of this one.
        shown = structure(b, b.op("mul", labels, 2 ** (stages - k)), stages, at)
        operands: dict[str, Any] = {"state": canvas, "position": [shown, at]}
        null: Operands = {}
        if scale is not None and self.guidance is not None:
            scale = scale_at(b, scale, b.constant(self.guidance.weights([k / stages])[0], out="weight"))
            null = conditions.null(b, cond)
        _, logits = guided_call(b, main, "forward", cond, null, scale, out="made logits", **operands)
        first = b.reshape(b.argsort(labels, out="place"), shape=(B, count, positions // count))
        first = b.reshape(b.slice(first, axis=2, start=0, stop=1), shape=(B, count), out="first")
        logits = filtered(b, rows(b, logits, first, "logits"), 0, self.nucleus(stages)[k])
        return draw(b, logits, u, out="code")

    def _split(
        self,
        b: Builder,
        networks: Mapping[str, Network],
        conditions: Conditions,
        cond: Operands,
        k: int,
        stages: int,
        labels: Var,
        canvas: Var,
        x: Var,
        gumbel: Var | None,
        scale: Var | None,
    ) -> Var:
        """i64[B, L]: the clusters of stage k, halves of those of the stage before."""
        positions = 2**stages
        if k == stages:
            noise = b.reshape(b.slice(x, axis=2, start=k - 1, stop=k), shape=(B, positions), out="noise")
            return halves(b, labels, noise, 2 ** (k - 1))
        flow, at = networks["structure"], b.full(x, shape=(), value=k, dtype="i64", out="stage")
        known = structure(b, b.op("mul", labels, 2 ** (stages - k + 1)), stages, at - 1) - 1.0
        null = conditions.null(b, cond) if scale is not None else {}
        names, count = tuple(cond), self.structure_steps
        strength = None
        if scale is not None and self.structure_guidance is not None:
            weight = b.constant(self.structure_guidance.weights([(k - 1) / stages])[0], out="weight")
            strength = scale_at(b, scale, weight)
        invariants = [known, canvas, at, *cond.values(), *null.values(), *([] if strength is None else [strength])]

        def body(b: Builder, i: Var, fixed: tuple[Var, ...], state: tuple[Var, ...], tables: tuple[Var, ...]) -> Any:
            (z,), (time, step) = state, tables
            known, canvas, at, *rest = fixed
            kept = b.constant(np.arange(stages) < k - 1, out="kept")
            z = b.where(kept, known, z, out="z")
            given = dict(zip(names, rest, strict=False))
            t = b.broadcast_to(time, z, shape=(B,), out="t")
            operands: dict[str, Any] = {"state": [z, canvas], "time": t, "position": at}
            without = dict(zip(names, rest[len(names) :], strict=False))
            own = None if strength is None else rest[-1]
            velocity = guided_call(b, flow, "forward", given, without, own, out="velocity", **operands)
            return (b.op("sub", z, velocity * step, out="z"),), ()

        times = self.times(positions)
        tables = [b.constant(times[:-1], "f32", out="times"), b.constant(times[:-1] - times[1:], "f32", out="steps")]
        (z,) = b.loop(
            f"structure_{k}",
            count,
            body,
            invariants=invariants,
            carried=[x],
            tables=tables,
            names=["z", "time", "step"],
        )
        value = b.slice(z, axis=2, start=k - 1, stop=k, out="value")
        if gumbel is None:  # the authors clamp here as well, which leaves the order of values beyond 1 to chance
            return halves(b, labels, b.reshape(value, shape=(B, positions)), 2 ** (k - 1))
        noise = b.reshape(b.slice(gumbel, axis=1, start=k - 1, stop=k), shape=(B, positions), out="noise")
        parents = b.reshape(labels, shape=(B, positions, 1), out="parents")
        same = b.cast(b.equal(parents, b.transpose(parents, perm=(0, 2, 1))), to="f32", out="same")
        share = b.clamp(value, low=-1.0, high=1.0, out="share") + 1.0
        # A cluster from which the flow splits off nothing is split by the noise alone.
        share = b.reshape(share / b.maximum(b.matmul(same, share), EPS), shape=(B, positions), out="share")
        score = b.add(b.log(share + EPS), noise, out="score")
        return halves(b, labels, score, 2 ** (k - 1))
