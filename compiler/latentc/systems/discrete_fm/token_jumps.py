"""Sampling of discrete flow matching: jumps of a continuous-time Markov chain of tokens.

Symbols: B batch, T tokens of a sample, S values of a token in the state, N steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components import Closed
from latentc.components.contract import Network, OutputField, Program
from latentc.components.guidance.guidance import Guidance, asked_scale, token_guidance_problems
from latentc.components.kit import Conditions, guided_call
from latentc.components.kit.tokens import draw
from latentc.components.parts import Problem, Spec, under
from latentc.components.sampler import Sampler
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.types import B, Named, f32, i64
from latentc.systems.discrete_fm.discrete_flow_matching import DiscreteFlowMatching
from latentc.systems.mdlm.masked_diffusion_tokens import possible
from latentc_runtime.sources import RandomSource, Source


class Corrector(Closed):
    """Jumps back to the source and as many more to the data, which leave the distribution of every time as it is:
    `scale` t^`rise` (1 - t)^`fall` times the rate at which the path reversed in time jumps."""

    scale: float = Field(1.0, gt=0, le=1e4, description="factor of the rate")
    rise: float = Field(0.0, ge=0, le=100, description="exponent of t")
    fall: float = Field(0.0, ge=0, le=100, description="exponent of 1 - t")

    def at(self, t: np.ndarray) -> np.ndarray:
        """The factor at times t."""
        return np.asarray(self.scale * t**self.rise * (1 - t) ** self.fall)


class TokenJumps(Sampler):
    """Euler steps of the Markov chain of discrete flow matching (Gat et al. 2024, arXiv:2407.15595).

    In each of N steps of equal length h from time 0 to 1, a value of every token is drawn from the prediction; the
    token jumps there with probability 1 - exp(-h kappa' / (1 - kappa)), in the last step always.
    """

    kind: Literal["token_jumps"]
    steps: int = Field(1024, gt=0, le=100_000, description="steps (N), with one evaluation each")
    corrector: Corrector | None = Field(
        None, description="further jumps in both directions, which correct tokens of earlier steps; null: none"
    )
    guidance: Guidance | None = Field(None, description="classifier-free guidance of the logits; null: none")
    NEEDS = "denoise_tokens"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "token_jumps", "steps": 3}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if not isinstance(spec.objective, DiscreteFlowMatching):
            message = f"`{self.kind}` follows a path of tokens, but the objective trains no network for that"
            yield Problem(("kind",), message, "use `objective: {kind: discrete_flow_matching}`")
        yield from under("guidance", problems=token_guidance_problems(self.guidance, spec))

    def with_steps(self, steps: int) -> TokenJumps:
        return self.model_copy(update={"steps": steps})

    def columns(self, objective: DiscreteFlowMatching) -> dict[str, np.ndarray]:
        """f64[N] each: the times, whether more steps follow, and the expected jumps to the prediction and the source.

        At a time with kappa 0 all tokens are the source's, and nothing is corrected.
        """
        t = np.arange(self.steps) / self.steps
        kappa, step = objective.kappa(t), objective.rate(t) / self.steps
        forward, back = step / (1 - kappa), np.zeros(self.steps)
        if self.corrector is not None:
            factor = np.where(kappa > 0, self.corrector.at(t), 0.0)
            back = factor * step / np.where(kappa > 0, kappa, 1.0)
            forward = forward * (1 + factor)
        goes_on = np.append(np.ones(self.steps - 1), 0.0)
        columns = {"t": t, "goes_on": goes_on, "forward": forward}
        return columns if self.corrector is None else {**columns, "back": back * goes_on}

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `sample.N`: the conditions, the scale of guidance, `first` i64[B, T] if the source is random
        tokens, u, v and with a corrector w f32[N, B, T] -> i64[B, T]."""
        network, conditions, entry = networks["main"], Conditions(spec, networks), f"sample.{self.steps}"
        port, objective = network.methods["forward"].input("state"), spec.objective
        assert isinstance(objective, DiscreteFlowMatching)
        length, states = int(port.type.shape[1]), int(port.values or 0)  # type: ignore[arg-type]
        columns = self.columns(objective)
        b = mb.function(entry)
        operands = conditions.operands(b, conditions.inputs(b))
        sources: dict[str, Source] = conditions.sources()
        scale, settings = asked_scale(b, self.guidance, sources)
        drawn = {"u": "token", "v": "jump"} | ({} if self.corrector is None else {"w": "target"})
        random = {name: b.input(name, f32(self.steps, B, Named(length, "T"))) for name in drawn}
        sources |= {name: RandomSource("uniform", stream, self.steps) for name, stream in drawn.items()}
        if port.null is None:
            tokens = b.input("first", i64(B, Named(length, "T")))
            sources["first"] = RandomSource("integers", "first", parameters={"high": states})
        else:
            like = b.reshape(b.slice(random["u"], axis=0, start=0, stop=1), shape=(B, length), out="u_0")
            tokens = b.full(like, shape=(length,), value=port.null, dtype="i64", out="tokens")

        def body(
            b: Builder, i: Var, given: tuple[Var, ...], state: tuple[Var, ...], row: tuple[Var, ...]
        ) -> tuple[tuple[Var, ...], tuple[()]]:
            (x,), at = state, dict(zip((*columns, *drawn), row, strict=True))
            cond = dict(zip(operands, given, strict=False))
            own, null = (None, {}) if scale is None else (given[-1], conditions.null(b, cond))
            like = b.reshape(b.slice(x, axis=1, start=0, stop=1), shape=(B,))
            roles: dict[str, Any] = {"state": x, "time": b.broadcast_to(at["t"], like, shape=(B,), out="t")}
            logits = guided_call(b, network, "forward", cond, null, own, out="logits", **roles)
            predicted = draw(b, possible(b, network, logits), at["u"], out="predicted")
            rate = b.mul(_differs(b, predicted, x), at["forward"], out="rate")
            if self.corrector is None:
                target = predicted
            else:
                target, rate = _corrected(b, x, predicted, rate, at["back"], at["w"], states, port.null)
            stays = b.mul(b.exp(b.neg(rate)), at["goes_on"], out="stays")
            jumps = b.less_equal(stays, at["v"], out="jumps")
            return (b.where(jumps, target, x, out="tokens"),), ()

        invariants = [*operands.values(), *([scale] if scale is not None else [])]
        tables = [*(b.constant(c.astype(np.float32), out=name) for name, c in columns.items()), *random.values()]
        names = ["tokens", *columns, *drawn]
        loop = f"{entry}.steps"
        (tokens,) = b.loop(loop, self.steps, body, invariants=invariants, carried=[tokens], tables=tables, names=names)
        b.output(tokens)
        mb.entries[entry] = b.finish(doc=f"Draws {length} tokens by the jumps of {self.steps} steps.")
        outputs = (OutputField("samples", "tokens"),)
        return Program(entry, self.kind, self.steps, self.steps, sources, settings, outputs=outputs)


def _corrected(
    b: Builder, x: Var, predicted: Var, rate: Var, back: Var, w: Var, states: int, mask: int | None
) -> tuple[Var, Var]:
    """The token that a jump of x i64[B, T] leads to, by w f32[B, T], and the total rate f32[B, T].

    `rate` leads to `predicted`, and `back` f32[] to the source: the mask, or any value with equal probability. A jump
    to the token itself is none.
    """
    if mask is None:
        back = b.mul(back, (states - 1) / states, out="back")
    else:
        back = b.mul(_differs(b, x, mask), back, out="back")
    total = b.add(rate, back, out="total")
    place = b.op("sub", w * total, rate, out="place")  # at most 0: to the prediction
    if mask is None:
        share = b.div(place, b.maximum(back, 1e-30), out="share")
        other = b.cast(b.floor(b.minimum(b.maximum(share, 0.0) * (states - 1), states - 2.0)), to="i64", out="other")
        other = b.add(other, b.cast(b.less_equal(x, other), to="i64"), out="other")
    else:
        other = b.scalar(mask, x)
    return b.where(b.less_equal(place, 0.0), predicted, other, out="target"), total


def _differs(b: Builder, x: Var, y: Var | int) -> Var:
    """f32[B, T]: 1 where tokens x i64[B, T] are not y, else 0."""
    return b.op("sub", 1.0, b.cast(b.equal(x, y), to="f32"), out="differs")
