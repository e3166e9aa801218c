"""Prediction of masked tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from statistics import NormalDist
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Closed
from latentc.components.contract import Draw, Need, Network, Update
from latentc.components.kit import Conditions, call
from latentc.components.kit.tokens import split_digits
from latentc.components.objective import Objective
from latentc.components.objectives._common import (
    Concentration,
    ShareSchedule,
    hidden_share,
    mean_of_counted,
    publish,
    smoothed,
    token_losses,
)
from latentc.components.parts import Fraction, Problem, Spec
from latentc.ir.builder import Builder, ModuleBuilder, Var, f32, i64
from latentc.ir.types import B, Named

MaskSchedule = Literal[ShareSchedule, "truncated_normal", "beta"]


class TruncatedNormal(Closed):
    """The distribution of the masked fraction in MAGE: normal, truncated to [least, most]."""

    mean: float = Field(0.55, ge=0, le=1, description="mean before truncation")
    deviation: float = Field(0.25, gt=0, le=10, description="standard deviation before truncation")
    least: float = Field(0.5, ge=0, lt=1, description="minimum fraction; an encoder never sees these tokens")
    most: float = Field(1.0, gt=0, le=1, description="maximum fraction")


class MaskedToken(Objective):
    """Cross-entropy of masked tokens given the others (MaskGIT, Chang et al. 2022, arXiv:2202.04200).

    A fraction `schedule`(u) of each sample's tokens is masked, with u uniform in (0, 1): arccos: 2/pi arccos(u)
    (Halton-MaskGIT), cosine: cos(pi u / 2), linear: 1 - u, root: 1 - sqrt(u), square: 1 - u^2, power_2.5: 1 - u^2.5,
    cubic: 1 - u^3; or a truncated normal (MAGE, Li et al. 2022, arXiv:2211.09117) or beta-distributed fraction, rounded
    to the nearest number of tokens (AutoNAT, Ni et al. 2024, arXiv:2406.05478). At least one token is masked. All
    masked tokens of a batch have equal weight.
    """

    kind: Literal["masked_token"]
    schedule: MaskSchedule = Field("cosine", description="distribution of the masked fraction")
    beta: tuple[Concentration, Concentration] = Field((12.0, 3.0), description="parameters of the `beta` distribution")
    fraction: TruncatedNormal = Field(
        TruncatedNormal(), description="mean and standard deviation of `truncated_normal`"
    )
    independent: bool = Field(
        False,
        description="mask each token independently with that probability (Halton-MaskGIT, MaskBit) instead of an "
        "exact fraction",
    )
    smoothing: Fraction = Field(
        0.0, description="label smoothing: weight of the uniform distribution in the target (MaskGIT's paper: 0.1)"
    )
    visible: bool = Field(False, description="include the loss of visible tokens (Halton-MaskGIT)")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "masked_token", "smoothing": 0.1}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return (Need("main", "masked_tokens", asks={"most_known": self._most_known}),)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if self.fraction.least >= self.fraction.most:
            message = f"`least` ({self.fraction.least}) is not below `most` ({self.fraction.most})"
            yield Problem(("fraction",), message)
        if self.independent and not self.visible:
            message = "if each token is masked independently, all may stay visible, which leaves nothing to predict"
            yield Problem(("independent",), message, "set `visible: true`")

    def most(self, b: Builder, count: Var) -> Var:
        """f32[B]: the bound of the ranks of masked tokens, from a fraction of their number."""
        return b.floor(count + 0.5, out="most") if self.schedule == "beta" else count

    def reduced(self, b: Builder, losses: Var, masked: Var) -> Var:
        """f32[B]: the loss from those of all tokens f32[B, T], of which `masked` bool[B, T] were."""
        if self.visible:
            return b.mean(losses, axes=(1,), keepdims=False, out="loss")
        return mean_of_counted(b, losses, b.cast(masked, to="f32", out="weight"))

    def _most_known(self, tokens: int) -> int:
        """How many of a sample's `tokens` are visible at most."""
        if self.schedule != "truncated_normal" or self.independent:
            return tokens
        return tokens - math.ceil(self.fraction.least * tokens)

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        network, conditions = networks["main"], Conditions(spec, networks)
        port = network.methods["forward"].input("state")
        assert spec.data.tokens is not None and port.null is not None
        count, length = spec.data.tokens.length, Named(int(port.type.shape[1]), "T")  # type: ignore[arg-type]
        b = mb.function("loss.terms")
        tokens = b.input("tokens", i64(B, Named(count, "T")))
        given = conditions.inputs(b, by_field=True)
        u = b.input("u", f32(B))
        rank = b.input("v", f32(B, length)) if self.independent else b.input("rank", i64(B, length))
        cond = conditions.dropped(b, conditions.operands(b, given))
        tokens = split_digits(b, tokens, port.null, length // count)
        drawn = self.schedule == "truncated_normal" or self.schedule == "beta"
        fraction = u if drawn else hidden_share(b, self.schedule, u)  # type: ignore[arg-type]
        if self.independent:
            masked = b.less(rank, b.reshape(fraction, shape=(B, 1)), out="masked")
        else:
            most = b.mul(fraction, float(length), out="most")
            most = b.maximum(self.most(b, most), 1.0, out="count")
            masked = b.less(b.cast(rank, to="f32"), b.reshape(most, shape=(B, 1)), out="masked")
        seen = b.where(masked, b.scalar(port.null, tokens), tokens, out="seen")
        if "forward_kept" in network.methods:
            logits = call(b, network, "forward_kept", cond, state=seen, position=rank, out="logits")
        else:
            logits = call(b, network, "forward", cond, state=seen, out="logits")
        values = network.methods["forward"].output("logits").values
        if values is not None and values < int(logits.shape[2]):
            logits = b.slice(logits, axis=2, start=0, stop=values, out="logits")
        losses = token_losses(b, logits, tokens)
        if self.smoothing:
            losses = smoothed(b, losses, logits, self.smoothing)
        b.output(self.reduced(b, losses, masked))
        tokens_of_loss = "all" if self.visible else "masked"
        b.finish(f"The cross-entropy of {tokens_of_loss} tokens in nats per token, one value per sample.")
        draws = (
            self._draw(),
            Draw("v", "uniform") if self.independent else Draw("rank", "permutation"),
            *conditions.draws(),
        )
        return publish(mb, ("loss",), ("tokens", *conditions.fields), draws, self.trained(spec))

    def _draw(self) -> Draw:
        if self.schedule == "beta":
            return Draw("u", "beta", dict(zip("ab", self.beta, strict=True)))
        if self.schedule != "truncated_normal":
            return Draw("u", "uniform")
        given, curve = self.fraction, NormalDist(self.fraction.mean, self.fraction.deviation)
        bounds = {"low": curve.cdf(given.least), "high": curve.cdf(given.most)}
        return Draw("u", "normal_between", {"mean": given.mean, "std": given.deviation, **bounds})
