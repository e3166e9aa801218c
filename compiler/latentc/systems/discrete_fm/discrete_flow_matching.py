"""Discrete flow matching: the mixture path of tokens, and its losses.

Symbols: B batch, T tokens of a sample, S values of a token in the state: V of the vocabulary, and the mask if there is
one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.contract import Draw, Need, Network, Update
from latentc.components.kit import Conditions, call
from latentc.components.objective import Objective
from latentc.components.objectives._common import publish, token_losses
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, ModuleBuilder, Var, f32, i64
from latentc.ir.types import B, Named


class DiscreteFlowMatching(Objective):
    """Prediction of the data's tokens from a mixture of them and a source (Gat et al. 2024, arXiv:2407.15595).

    At time t in [0, `most`), each token is the data's with probability kappa = t^`exponent`, else the source's: the
    mask, or a random token. The loss is a mean over all tokens.
    """

    kind: Literal["discrete_flow_matching"]
    source: Literal["mask", "uniform"] = Field("mask", description="tokens at time 0: masks, or random tokens")
    exponent: float = Field(1.0, gt=0, le=100, description="exponent of kappa, the share of the data's tokens")
    loss: Literal["cross_entropy", "generalized_kl"] = Field(
        "cross_entropy",
        description="cross_entropy: of every token; generalized_kl: divergence of the predicted jumps from those of "
        "the path, an upper bound of the negative log-likelihood in nats per token",
    )
    most: float = Field(
        1.0, gt=0, le=1, description="end of the training times; the weight of generalized_kl is infinite at time 1"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "discrete_flow_matching"}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return (Need("main", "denoise_tokens"),)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if self.loss == "generalized_kl" and self.most == 1:
            message = "the weight of `generalized_kl` is infinite at time 1"
            yield Problem(("most",), message, "set `most: 0.999`")

    def kappa(self, t: np.ndarray) -> np.ndarray:
        """Probability that a token at times t is the data's."""
        return np.asarray(t**self.exponent)

    def rate(self, t: np.ndarray) -> np.ndarray:
        """Derivative of kappa at times t."""
        return np.asarray(self.exponent * t ** (self.exponent - 1))

    def _kappa(self, b: Builder, t: Var) -> Var:
        return t if self.exponent == 1 else b.pow(t, b.scalar(self.exponent, t), out="kappa")

    def _rate(self, b: Builder, t: Var) -> Var:
        if self.exponent == 1:
            return b.add(t * 0.0, 1.0, out="rate")
        return b.mul(b.pow(t, b.scalar(self.exponent - 1, t)), self.exponent, out="rate")

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        network, conditions = networks["main"], Conditions(spec, networks)
        port = network.methods["forward"].input("state")
        length = Named(int(port.type.shape[1]), "T")  # type: ignore[arg-type]
        b = mb.function("loss.terms")
        tokens = b.input("tokens", i64(B, length))
        given = conditions.inputs(b, by_field=True)
        u, v = b.input("u", f32(B)), b.input("v", f32(B, length))
        draws = [Draw("u", "uniform"), Draw("v", "uniform")]
        if port.null is not None:
            source = b.scalar(port.null, tokens)
        else:
            source = b.input("source", i64(B, length))
            draws.append(Draw("source", "integers", {"high": port.values}))
        cond = conditions.dropped(b, conditions.operands(b, given))
        t = u if self.most == 1 else b.mul(u, self.most, out="t")
        kappa = b.reshape(self._kappa(b, t), shape=(B, 1), out="kappa")
        at_source = b.less(v, b.op("sub", 1.0, kappa), out="at_source")
        seen = b.where(at_source, source, tokens, out="seen")
        logits = call(b, network, "forward", cond, state=seen, time=t, out="logits")
        losses = token_losses(b, logits, tokens)
        if self.loss == "generalized_kl":
            coefficient = b.div(b.reshape(self._rate(b, t), shape=(B, 1)), b.op("sub", 1.0, kappa), out="coefficient")
            losses = self._divergence(b, logits, losses, seen, tokens, coefficient)
        b.output(b.mean(losses, axes=(1,), keepdims=False, out="loss"))
        b.finish("The loss of the predicted tokens, one value per sample.")
        every = (*draws, *conditions.draws())
        return publish(mb, ("loss",), ("tokens", *conditions.fields), every, self.trained(spec))

    @staticmethod
    def _divergence(b: Builder, logits: Var, losses: Var, seen: Var, tokens: Var, coefficient: Var) -> Var:
        """f32[B, T]: the divergence of tokens whose cross-entropies are `losses` f32[B, T]."""
        p = b.take_along(b.softmax(logits, axis=2, out="p"), b.reshape(seen, shape=(*seen.shape, 1)), axis=2)
        stays = b.cast(b.equal(seen, tokens), to="f32", out="stays")
        moves = b.mul(b.op("sub", 1.0, stays), losses, out="moves")
        return b.mul(stays - b.reshape(p, shape=seen.shape) + moves, coefficient, out="losses")
