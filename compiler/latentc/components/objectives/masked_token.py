"""Prediction of masked tokens."""

from __future__ import annotations

from collections.abc import Mapping
from math import pi
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Draw, Need, Network, Update
from latentc.components.kit import Conditions, call
from latentc.components.objective import Objective
from latentc.components.objectives._common import publish
from latentc.components.parts import Fraction
from latentc.ir.builder import Builder, ModuleBuilder, Var, f32, i64
from latentc.ir.types import B, Named

if TYPE_CHECKING:
    from latentc.spec.schema import Spec

# arccos(u) / sqrt(1 - u) for u in [0, 1], error 2e-8 (Abramowitz and Stegun 4.4.46).
_ARCCOS: tuple[float, ...] = (
    1.570796305,
    -0.2145988016,
    0.0889789874,
    -0.0501743046,
    0.030891881,
    -0.0170881256,
    0.0066700901,
)
_ARCCOS += (-0.0012624911,)
MaskSchedule = Literal["arccos", "cosine", "linear", "square"]


class MaskedToken(Objective):
    """Cross-entropy of masked tokens given the others (MaskGIT, Chang et al. 2022, arXiv:2202.04200).

    A fraction `schedule`(u) of each sample's tokens is masked, u uniform in (0, 1): arccos: 2/pi arccos(u)
    (Halton-MaskGIT), cosine: cos(pi u / 2), linear: 1 - u, square: 1 - u^2. At least one token is.
    """

    kind: Literal["masked_token"]
    schedule: MaskSchedule = Field("cosine", description="distribution of the masked fraction")
    smoothing: Fraction = Field(
        0.0, description="label smoothing: weight of the uniform distribution in the target (MaskGIT's paper: 0.1)"
    )
    visible: bool = Field(False, description="count the loss of tokens that the network sees as well (Halton-MaskGIT)")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "masked_token", "smoothing": 0.1}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return (Need("main", "masked_tokens"),)

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        network, conditions = networks["main"], Conditions(spec, networks)
        port = network.methods["forward"].input("state")
        length = Named(int(port.type.shape[1]), "T")  # type: ignore[arg-type]
        vocabulary = int(port.values)  # type: ignore[arg-type]
        b = mb.function("loss.terms")
        tokens = b.input("tokens", i64(B, length))
        given = conditions.inputs(b, by_field=True)
        u, rank = b.input("u", f32(B)), b.input("rank", i64(B, length))
        told = conditions.dropped(b, conditions.operands(b, given))
        count = b.maximum(self._masked(b, u) * float(length), 1.0, out="count")
        masked = b.less(b.cast(rank, to="f32"), b.reshape(count, shape=(B, 1)), out="masked")
        seen = b.where(masked, b.scalar(port.null, tokens), tokens, out="seen")  # type: ignore[arg-type]
        logits = call(b, network, "forward", told, state=seen, out="logits")
        rows = B * length
        losses = b.cross_entropy(b.reshape(logits, shape=(rows, vocabulary)), b.reshape(tokens, shape=(rows,)))
        losses = b.reshape(losses, shape=(B, length), out="losses")
        if self.smoothing:
            # Cross-entropy with the uniform distribution over the vocabulary.
            uniform = b.neg(b.mean(b.log_softmax(logits, axis=2), axes=(2,), keepdims=False), out="uniform")
            losses = b.add(losses * (1 - self.smoothing), uniform * self.smoothing, out="losses")
        if self.visible:
            b.output(b.mean(losses, axes=(1,), keepdims=False, out="loss"))
        else:
            weight = b.cast(masked, to="f32", out="weight")
            total = b.sum(losses * weight, axes=(1,), keepdims=False, out="total")
            b.output(b.div(total, b.sum(weight, axes=(1,), keepdims=False), out="loss"))
        tokens_of_loss = "all" if self.visible else "masked"
        b.finish(f"The cross-entropy of {tokens_of_loss} tokens in nats per token, one value per sample.")
        draws = (Draw("u", "uniform"), Draw("rank", "permutation"), *conditions.draws())
        return publish(mb, ("loss",), ("tokens", *conditions.fields), draws, self.trained(spec))

    def _masked(self, b: Builder, u: Var) -> Var:
        """f32[B]: the masked fraction at u."""
        if self.schedule == "cosine":
            return b.cos(u * (pi / 2), out="fraction")  # type: ignore[no-any-return]
        if self.schedule == "square":
            return b.op("sub", 1.0, u * u, out="fraction")  # type: ignore[no-any-return]
        if self.schedule == "linear":
            return b.op("sub", 1.0, u, out="fraction")  # type: ignore[no-any-return]
        series = b.constant(_ARCCOS[-1], "f32")
        for coefficient in reversed(_ARCCOS[:-1]):
            series = b.add(series * u, coefficient, out="series")
        root = b.sqrt(b.maximum(1.0 - u, 0.0), out="root")
        return b.mul(root * series, 2 / pi, out="fraction")  # type: ignore[no-any-return]
