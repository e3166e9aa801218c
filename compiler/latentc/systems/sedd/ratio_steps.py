"""The reverse chain of tokens, by estimated ratios of probabilities.

Symbols: B batch, T tokens of a sample, S values of a token in the state, N steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.contract import Network, OutputField, Program
from latentc.components.guidance.guidance import Guidance, asked_scale, token_guidance_problems
from latentc.components.kit import Conditions, guided_call
from latentc.components.parts import Problem, Spec, under
from latentc.components.sampler import Sampler
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.types import B, Named, f32, i64
from latentc.systems.sedd.score_entropy import ScoreEntropyLoss
from latentc_runtime.sources import RandomSource, Source


class RatioSteps(Sampler):
    """Draws the tokens of every step from their reverse transition, given the ratios (SEDD, Lou et al. 2024,
    arXiv:2310.16834), and those of the data at the end. Guidance is of the log ratios.
    """

    kind: Literal["ratio_steps"]
    steps: int = Field(128, gt=0, le=100_000, description="steps (N); one evaluation each, and one at the end")
    predictor: Literal["analytic", "euler"] = Field(
        "analytic",
        description="analytic: ratios of the step's end as those of its begin propagated back (Tweedie tau-leaping); "
        "euler: one step of the reverse rate",
    )
    last_time: float = Field(1e-5, gt=0, lt=1, description="time after the last step")
    guidance: Guidance | None = Field(None, description="classifier-free guidance of the log ratios; null: none")
    NEEDS = "score_tokens"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "ratio_steps", "steps": 3}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if not isinstance(spec.objective, ScoreEntropyLoss):
            message = f"`{self.kind}` reverses a chain of tokens, but the objective trains no network for that"
            yield Problem(("kind",), message, "use `objective: {kind: score_entropy}`")
        yield from under("guidance", problems=token_guidance_problems(self.guidance, spec))

    def with_steps(self, steps: int) -> RatioSteps:
        return self.model_copy(update={"steps": steps})

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `sample.N`: the conditions, the scale of guidance, u f32[N + 1, B, T] -> i64[B, T]."""
        network, conditions, entry = networks["main"], Conditions(spec, networks), f"sample.{self.steps}"
        port, objective = network.methods["forward"].input("state"), spec.objective
        assert isinstance(objective, ScoreEntropyLoss)
        length, states = int(port.type.shape[1]), int(port.values or 0)  # type: ignore[arg-type]
        times = np.linspace(1.0, self.last_time, self.steps + 1)
        sigma = objective.sigma(times)
        # The step of Euler's method has the noise's rate at its begin; the last draw removes all noise.
        change = np.append(sigma[:-1] - sigma[1:], sigma[-1])
        if self.predictor == "euler":
            change[:-1] = (1 - self.last_time) / self.steps * objective.rate(times[:-1])
        b = mb.function(entry)
        operands = conditions.operands(b, conditions.inputs(b))
        sources: dict[str, Source] = conditions.sources()
        scale, settings = asked_scale(b, self.guidance, sources)
        u = b.input("u", f32(self.steps + 1, B, Named(length, "T")))
        sources["u"] = RandomSource("uniform", "token", self.steps + 1)
        if port.null is None:
            tokens = b.input("first", i64(B, Named(length, "T")))
            sources["first"] = RandomSource("integers", "first", parameters={"high": states})
        else:
            like = b.reshape(b.slice(u, axis=0, start=0, stop=1), shape=(B, length), out="u_0")
            tokens = b.full(like, shape=(length,), value=port.null, dtype="i64", out="tokens")
        last = np.append(np.zeros(self.steps), 1.0)
        columns = {"sigma": sigma, "change": change, "last": last}

        def body(
            b: Builder, i: Var, given: tuple[Var, ...], state: tuple[Var, ...], row: tuple[Var, ...]
        ) -> tuple[tuple[Var, ...], tuple[()]]:
            (x,), at = state, dict(zip((*columns, "u"), row, strict=True))
            cond = dict(zip(operands, given, strict=False))
            own, null = (None, {}) if scale is None else (given[-1], conditions.null(b, cond))
            like = b.reshape(b.slice(x, axis=1, start=0, stop=1), shape=(B,))
            time = b.broadcast_to(at["sigma"], like, shape=(B,), out="sigma")
            roles: dict[str, Any] = {"state": x, "time": time}
            score = b.exp(guided_call(b, network, "forward", cond, null, own, out="log_score", **roles), out="score")
            here = b.cast(b.equal(b.reshape(x, shape=(B, length, 1)), b.arange(states)), to="f32", out="here")
            p = self._analytic(b, score, here, x, at["change"], states, port.null)
            if self.predictor == "euler":
                euler = self._euler(b, score, here, x, at["change"], states, port.null)
                p = b.add(euler * (1.0 - at["last"]), p * at["last"], out="p")
            if port.null is not None:  # no token is masked in the end
                data = b.cast(b.less(b.arange(states), states - 1), to="f32", out="data")
                p = p * b.op("sub", 1.0, b.op("sub", 1.0, data) * at["last"])
            p = b.maximum(p, 0.0, out="p")
            return (_drawn(b, p, at["u"], states),), ()

        invariants = [*operands.values(), *([scale] if scale is not None else [])]
        tables = [*(b.constant(c.astype(np.float32), out=name) for name, c in columns.items()), u]
        names, loop = ["tokens", *columns, "u"], f"{entry}.steps"
        (tokens,) = b.loop(
            loop, self.steps + 1, body, invariants=invariants, carried=[tokens], tables=tables, names=names
        )
        b.output(tokens)
        mb.entries[entry] = b.finish(doc=f"Draws {length} tokens in {self.steps} steps of the reverse chain.")
        outputs = (OutputField("samples", "tokens"),)
        return Program(entry, self.kind, self.steps, self.steps + 1, sources, settings, outputs=outputs)

    @staticmethod
    def _analytic(b: Builder, score: Var, here: Var, x: Var, change: Var, states: int, mask: int | None) -> Var:
        """f32[B, T, S]: ratios at the end of a step times the probabilities of its forward transition."""
        grown = b.exp(change, out="grown")
        total = b.sum(score, axes=(2,), keepdims=True, out="total")
        stays = b.exp(b.neg(change), out="stays")
        left = b.op("sub", 1.0, stays, out="left")
        if mask is None:
            back = b.add(score * grown, total * (b.op("sub", 1.0, grown) * (1 / states)), out="back")
            forward = b.add(here * stays, left * (1 / states), out="forward")
        else:
            at_mask = b.cast(b.equal(b.arange(states), mask), to="f32", out="at_mask")
            back = b.add(score * grown, at_mask * (total * b.op("sub", 1.0, grown)), out="back")
            masked = b.cast(b.equal(b.reshape(x, shape=(*x.shape, 1)), mask), to="f32", out="masked")
            forward = b.add(here * stays, masked * left, out="forward")
        return b.mul(back, forward, out="p")

    @staticmethod
    def _euler(b: Builder, score: Var, here: Var, x: Var, change: Var, states: int, mask: int | None) -> Var:
        """f32[B, T, S]: the token itself, and the reverse rates times the step."""
        other = b.op("sub", 1.0, here, out="other")
        if mask is None:
            rates = b.mul(score * other, 1 / states, out="rates")
        else:
            masked = b.cast(b.equal(b.reshape(x, shape=(*x.shape, 1)), mask), to="f32", out="masked")
            rates = b.mul(score * other, masked, out="rates")
        rates = b.mul(rates, change, out="rates")
        leaving = b.sum(rates, axes=(2,), keepdims=True, out="leaving")
        return b.add(rates, here * b.op("sub", 1.0, leaving), out="p")


def _drawn(b: Builder, p: Var, u: Var, states: int) -> Var:
    """i64[B, T]: values drawn in proportion to p f32[B, T, S], by the inverse CDF of u f32[B, T]."""
    cdf = b.cumsum(p, axis=2, out="cdf")
    total = b.slice(cdf, axis=2, start=states - 1, stop=states, out="total")
    below = b.less(cdf, b.reshape(u, shape=(*u.shape, 1)) * total, out="below")
    return b.sum(b.cast(below, to="i64"), axes=(2,), keepdims=False, out="tokens")
