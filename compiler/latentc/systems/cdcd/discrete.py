"""The reverse steps of a diffusion that masks and replaces tokens: VQ-Diffusion's sampler.

Symbols: B batch, T tokens of a sample, V categories (category V is the mask), N evaluations, S steps of the process.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.contract import Network, OutputField, Program
from latentc.components.guidance.guidance import Guidance, asked_scale, guidance_problems
from latentc.components.kit import Conditions, guided_call
from latentc.components.parts import Problem, Spec, under
from latentc.components.sampler import Sampler
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.types import B, Named, f32
from latentc.systems.cdcd.mask_and_replace_objective import MaskAndReplaceLoss
from latentc.systems.cdcd.mask_and_replace_parts import MaskAndReplace
from latentc_runtime.sources import RandomSource, Source


class Discrete(Sampler):
    """Starts from all masks and draws each state from the posterior given the predicted tokens (VQ-Diffusion, Gu et al.
    2022, arXiv:2111.14822), by the Gumbel-max trick. With fewer evaluations than the process has steps, it uses the
    last step and every few before it, and the posterior skips the steps in between.
    """

    kind: Literal["discrete"]
    steps: int = Field(100, gt=0, le=100_000, description="network evaluations, one per step of the process")
    top_p: float = Field(
        1.0, gt=0, le=1, description="nucleus of the predicted distribution: drop categories beyond this probability"
    )
    guidance: Guidance | None = Field(None, description="classifier-free guidance of the logits; null: none")
    NEEDS = "denoise_tokens"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "discrete", "steps": 4}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if not isinstance(spec.objective, MaskAndReplaceLoss):
            message = "`discrete` reverses a diffusion of tokens, but the objective trains no network for that"
            yield Problem(("kind",), message, "use `objective: {kind: mask_and_replace}`")
        if self.guidance is not None:
            yield from under("guidance", problems=guidance_problems(self.guidance, spec))

    def times(self, total: int) -> list[tuple[int, int]]:
        """(time that the network takes, time of the posterior) of every evaluation, of a process of `total` steps."""
        skip = max(0, math.ceil(total / self.steps) - 1)
        cond = list(range(total - 1, -1, -1 - skip))
        cond += [0] if cond[-1] != 0 else []
        return [(t, t - skip if t > skip else t) for t in cond]

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `sample.STEPS`: the conditions, the scale of guidance, u f32[N, B, T, V + 1] -> i64[B, T]."""
        network, conditions, entry = networks["main"], Conditions(spec, networks), f"sample.{self.steps}"
        port = network.methods["forward"].input("state")
        length, vocabulary = int(port.type.shape[1]), int(port.null or 0)  # type: ignore[arg-type]
        process: MaskAndReplace = spec.objective.diffusion(vocabulary)  # type: ignore[union-attr]
        times = self.times(process.steps)
        b = mb.function(entry)
        cond = conditions.operands(b, conditions.inputs(b))
        sources: dict[str, Source] = conditions.sources()
        scale, settings = asked_scale(b, self.guidance, sources)
        u = b.input("u", f32(len(times), B, Named(length, "T"), vocabulary + 1))
        sources["u"] = RandomSource("uniform", "gumbel", len(times))
        first = b.slice(u, axis=0, start=0, stop=1)
        like = b.reshape(b.slice(first, axis=3, start=0, stop=1), shape=(B, length))
        tokens = b.add(b.cast(like * 0.0, to="i64"), vocabulary, out="tokens")
        columns = [
            b.constant(np.array(column), out=name)
            for name, column in zip(("t", "s"), zip(*times, strict=True), strict=True)
        ]

        def body(
            inner: Builder, i: Var, kept: tuple[Var, ...], state: tuple[Var, ...], rows: tuple[Var, ...]
        ) -> tuple[tuple[Var, ...], tuple[()]]:
            (x,), (t, s, noise) = state, rows
            operands = dict(zip(cond, kept, strict=False))
            batch = inner.reshape(inner.slice(x, axis=1, start=0, stop=1), shape=(B,))
            t, s = (inner.broadcast_to(v, batch, shape=(B,), out=name) for v, name in ((t, "t"), (s, "s")))
            time = inner.cast(t, to="f32", out="time")
            own, null = (None, {}) if scale is None else (kept[-1], conditions.null(inner, operands))
            at: dict[str, Any] = {"state": x, "time": time}
            logits = guided_call(inner, network, "forward", operands, null, own, out="logits", **at)
            log_x0 = process.prediction(inner, logits, self.top_p)
            log_p = process.posterior(inner, log_x0, x, s)
            return (process.drawn(inner, log_p, noise),), ()

        invariants = [*cond.values(), *([scale] if scale is not None else [])]
        names = ["tokens", "t", "s", "noise"]
        (tokens,) = b.loop(
            f"{entry}.discrete",
            len(times),
            body,
            invariants=invariants,
            carried=[tokens],
            tables=[*columns, u],
            names=names,
        )
        b.output(tokens)
        mb.entries[entry] = b.finish(doc=f"{len(times)} reverse steps of the tokens' diffusion.")
        outputs = (OutputField("tokens", "tokens"),)
        return Program(entry, self.kind, self.steps, len(times), sources, settings, outputs=outputs)
