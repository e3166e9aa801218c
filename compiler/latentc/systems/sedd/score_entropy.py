"""Score entropy: the loss of ratios of probabilities under a continuous-time Markov chain of tokens.

Symbols: B batch, T tokens of a sample, S values of a token in the state: V of the vocabulary, and the mask if there is
one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.contract import Draw, Need, Network, Update
from latentc.components.kit import Conditions, call
from latentc.components.objective import Objective
from latentc.components.objectives._common import publish
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, ModuleBuilder, Var, f32, i64
from latentc.ir.types import B, Named

Graph = Literal["absorb", "uniform"]


class ScoreEntropyLoss(Objective):
    """Score entropy at a random time, weighted by the rate of the noise: an upper bound of the negative log-likelihood
    in nats per sample, but for its prior's term (SEDD, Lou et al. 2024, arXiv:2310.16834).

    A token moves with probability 1 - exp(-sigma), to the mask (`absorb`) or to a random value (`uniform`).
    """

    kind: Literal["score_entropy"]
    graph: Graph = Field("absorb", description="where tokens move: to the mask, or to a value drawn uniformly")
    noise: Literal["loglinear", "geometric"] = Field(
        "loglinear",
        description="total noise at time t: loglinear: -log(1 - (1 - eps) t); geometric: sigma_min^(1 - t) sigma_max^t",
    )
    eps: float = Field(1e-3, gt=0, lt=1, description="loglinear: probability that a token has not moved at time 1")
    sigma_min: float = Field(1e-4, gt=0, le=1e3, description="geometric: noise at time 0")
    sigma_max: float = Field(20.0, gt=0, le=1e3, description="geometric: noise at time 1")
    least: float = Field(1e-3, gt=0, lt=1, description="smallest time in training")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "score_entropy"}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return (Need("main", "score_tokens"),)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if self.sigma_min >= self.sigma_max:
            yield Problem(("sigma_min",), f"`sigma_min` is not below `sigma_max` ({self.sigma_max:g})")

    def sigma(self, t: np.ndarray) -> np.ndarray:
        """Total noise at times t."""
        if self.noise == "loglinear":
            return -np.log1p(-(1 - self.eps) * t)
        return np.asarray(self.sigma_min ** (1 - t) * self.sigma_max**t)

    def rate(self, t: np.ndarray) -> np.ndarray:
        """Derivative of the total noise at times t."""
        if self.noise == "loglinear":
            return (1 - self.eps) / (1 - (1 - self.eps) * t)
        return self.sigma(t) * math.log(self.sigma_max / self.sigma_min)

    def _noise(self, b: Builder, t: Var) -> tuple[Var, Var]:
        """sigma and its derivative f32[B] at times t f32[B]."""
        if self.noise == "loglinear":
            left = b.op("sub", 1.0, t * (1 - self.eps), out="left")
            return b.neg(b.log(left), out="sigma"), b.div(b.mul(left, 0.0) + (1 - self.eps), left, out="rate")
        ratio = math.log(self.sigma_max / self.sigma_min)
        sigma = b.exp(t * ratio + math.log(self.sigma_min), out="sigma")
        return sigma, b.mul(sigma, ratio, out="rate")

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        network, conditions = networks["main"], Conditions(spec, networks)
        port = network.methods["forward"].input("state")
        length = Named(int(port.type.shape[1]), "T")  # type: ignore[arg-type]
        states = int(port.values or 0)
        b = mb.function("loss.terms")
        tokens = b.input("tokens", i64(B, length))
        given = conditions.inputs(b, by_field=True)
        u, v = b.input("u", f32(B)), b.input("v", f32(B, length))
        draws = [Draw("u", "uniform"), Draw("v", "uniform")]
        other = b.scalar(port.null, tokens) if port.null is not None else b.input("other", i64(B, length))
        draws += [] if port.null is not None else [Draw("other", "integers", {"high": states})]
        cond = conditions.dropped(b, conditions.operands(b, given))
        t = b.add(u * (1 - self.least), self.least, out="t")
        sigma, rate = self._noise(b, t)
        chance = b.op("sub", 1.0, b.exp(b.neg(sigma)), out="chance")
        moved = b.less(v, b.reshape(chance, shape=(B, 1)), out="moved")
        seen = b.where(moved, other, tokens, out="seen")
        score = call(b, network, "forward", cond, state=seen, time=sigma, out="score")
        growth = b.reshape(b.exp(sigma) - 1.0, shape=(B, 1), out="growth")
        entropy = self._absorbed if port.null is not None else self._uniform
        losses = entropy(b, score, seen, tokens, growth, states)
        losses = b.mul(losses, b.reshape(rate, shape=(B, 1)), out="losses")
        b.output(b.sum(losses, axes=(1,), keepdims=False, out="loss"))
        b.finish("Score entropy times the rate of the noise, in nats per sample.")
        every = (*draws, *conditions.draws())
        return publish(mb, ("loss",), ("tokens", *conditions.fields), every, self.trained(spec))

    @staticmethod
    def _at(b: Builder, score: Var, tokens: Var, out: str) -> Var:
        """f32[B, T]: the entries of score f32[B, T, S] at tokens i64[B, T]."""
        found = b.take_along(score, b.reshape(tokens, shape=(*tokens.shape, 1)), axis=2)
        return b.reshape(found, shape=tokens.shape, out=out)

    def _absorbed(self, b: Builder, score: Var, seen: Var, tokens: Var, growth: Var, states: int) -> Var:
        """f32[B, T]: of a chain that masks; tokens that are not masked have none."""
        masked = b.cast(b.equal(seen, states - 1), to="f32", out="masked")
        ratio = b.div(b.mul(growth, 0.0) + 1.0, growth, out="ratio")
        values = b.slice(b.exp(score), axis=2, start=0, stop=states - 1, out="values")
        positive = b.sum(values, axes=(2,), keepdims=False, out="positive")
        negative = b.mul(self._at(b, score, tokens, "own"), ratio, out="negative")
        constant = b.mul(ratio, b.log(ratio) - 1.0, out="constant")
        return b.mul(positive - negative + constant, masked, out="entropy")

    def _uniform(self, b: Builder, score: Var, seen: Var, tokens: Var, growth: Var, states: int) -> Var:
        """f32[B, T]: of a chain that replaces tokens by random ones."""
        stays = b.equal(seen, tokens, out="stays")
        ratio = b.div(growth, growth + float(states), out="ratio")
        mean = b.mean(score, axes=(2,), keepdims=False, out="mean")  # the value itself has score 0
        moved = b.add(b.div(self._at(b, score, tokens, "own"), growth), mean, out="moved_term")
        negative = b.where(stays, mean * ratio, moved, out="negative")
        log_ratio = b.log(ratio, out="log_ratio")
        still = b.mul(ratio * (log_ratio - 1.0), (states - 1) / states, out="still")
        gone = b.div(b.neg(log_ratio) - 1.0, ratio)
        gone = b.mul(gone - float(states - 2), 1 / states, out="gone")
        constant = b.where(stays, still, gone, out="constant")
        positive = b.mean(b.exp(score), axes=(2,), keepdims=False) - 1.0 / states
        return b.add(positive - negative, constant, out="entropy")
