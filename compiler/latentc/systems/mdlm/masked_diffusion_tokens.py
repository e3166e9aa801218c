"""Masked diffusion in continuous time.

Symbols: B batch, T tokens of a sample, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Draw, Need, Network, Update
from latentc.components.kit import Conditions, Operands, call
from latentc.components.objective import Objective
from latentc.components.objectives._common import mean_of_counted, publish, token_losses
from latentc.components.parts import Fraction, Problem, Spec
from latentc.ir.builder import Builder, ModuleBuilder, Var, f32, i64
from latentc.ir.types import B, Named, TensorType

MASK_FIELD = "tokens_mask"
"""The data field of the tokens that count, as opposed to padding."""


class MaskedDiffusionLoss(Objective):
    """Cross-entropy of masked tokens over the time, an upper bound of the negative log-likelihood in nats per token
    (Sahoo et al. 2024, arXiv:2406.07524).

    Each token is masked with probability `most` t at a time t uniform in [`least`, 1]; the sum over masked tokens of
    -log p / t is divided by the number of tokens. The mask is never predicted. If the data has a field `tokens_mask`,
    only tokens where it is true count.
    """

    kind: Literal["masked_diffusion_tokens"]
    least: float = Field(1e-3, gt=0, lt=1, description="smallest time")
    most: Fraction = Field(0.999, description="probability that a token is masked at time 1")
    stratified: bool = Field(
        True,
        description="the times of a batch of B are spread evenly, one in each Bth of the interval, with one offset; "
        "false: independent",
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "masked_diffusion_tokens"}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return (Need("main", "unmask_tokens"),)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if not self.most:
            yield Problem(("most",), "no token is ever masked", "set `most: 0.999`")
        if self.most == 1 and getattr(spec.networks.get("main"), "time", "none") == "noise":
            message = "the network's time is -log of the probability that a token is not masked: infinite at time 1"
            yield Problem(("most",), message, "set `most: 0.999`, or `time: none` of the network")
        mask = spec.data.fields.get(MASK_FIELD)
        tokens = spec.data.tokens
        if mask is not None and tokens and (mask.shape != (tokens.length,) or mask.dtype != "bool"):
            message = f"`{MASK_FIELD}` is {mask.dtype}{list(mask.shape)}, but samples have {tokens.length} tokens"
            yield Problem((), message, f"declare it as `{{shape: [{tokens.length}], dtype: bool}}`")

    def masked_probability(self, t: Any) -> Any:
        """Probability that a token is masked at time t."""
        return t * self.most

    def draws(self, length: int) -> dict[str, tuple[TensorType, Draw]]:
        """The random inputs by name, for samples of `length` tokens."""
        count = Named(length, "T")
        return {"u": (f32(B), Draw("u", "uniform")), "v": (f32(B, count), Draw("v", "uniform"))}

    def masked(self, b: Builder, drawn: Mapping[str, Var]) -> tuple[Var, Var]:
        """bool[B, T]: the masked tokens; f32[B, 1] or f32[B, T]: their times."""
        t = b.add(self.spread(b, drawn["u"]) * (1 - self.least), self.least, out="t")
        t = b.reshape(t, shape=(B, 1), out="t")
        return b.less(drawn["v"], b.mul(t, self.most, out="chance"), out="masked"), t

    def evaluated(self, b: Builder, network: Network, cond: Operands, seen: Var, tokens: Var, t: Var) -> Var:
        """Logits f32[B, T, V or more] of tokens i64[B, T], of which `seen` has masks in place of some."""
        time = {}
        if network.methods["forward"].inputs_of("time"):
            chance = b.reshape(b.mul(t, self.most), shape=(B,), out="chance")
            time["time"] = b.neg(b.log(b.op("sub", 1.0, chance)), out="sigma")
        logits: Var = call(b, network, "forward", cond, state=seen, out="logits", **time)
        return logits

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        network, conditions = networks["main"], Conditions(spec, networks)
        port = network.methods["forward"].input("state")
        assert spec.data.tokens is not None and port.null is not None
        length = Named(spec.data.tokens.length, "T")
        b = mb.function("loss.terms")
        tokens = b.input("tokens", i64(B, length))
        fields = (MASK_FIELD,) if MASK_FIELD in spec.data.fields else ()
        counts = [b.cast(b.input(field, TensorType("bool", (B, length))), to="f32", out="counts") for field in fields]
        given = conditions.inputs(b, by_field=True)
        random = self.draws(spec.data.tokens.length)
        drawn = {name: b.input(name, type) for name, (type, _) in random.items()}
        cond = conditions.dropped(b, conditions.operands(b, given))
        masked, t = self.masked(b, drawn)
        seen = b.where(masked, b.scalar(port.null, tokens), tokens, out="seen")
        logits = possible(b, network, self.evaluated(b, network, cond, seen, tokens, t))
        weight = b.div(b.cast(masked, to="f32"), t, out="weight")
        losses = b.mul(token_losses(b, logits, tokens), weight, out="losses")
        loss = mean_of_counted(b, losses, counts[0]) if counts else b.mean(losses, axes=(1,), keepdims=False)
        b.output(loss)
        b.finish("The bound of the negative log-likelihood in nats per token, one value per sample.")
        draws = (*(draw for _, draw in random.values()), *conditions.draws())
        return publish(mb, ("loss",), ("tokens", *fields, *conditions.fields), draws, self.trained(spec))

    def spread(self, b: Builder, u: Var) -> Var:
        """Uniform numbers f32[B] from independent ones u f32[B], spread evenly over the batch if `stratified`."""
        if not self.stratified:
            return u
        one = b.add(u * 0.0, 1.0, out="one")
        count = b.sum(one, axes=(0,), keepdims=True, out="count")
        place = b.add(b.cumsum(one, axis=0) - 1.0, u)
        place = b.div(place, count, out="place")
        return b.op("sub", place, b.floor(place), out="u")


def possible(b: Builder, network: Network, logits: Var) -> Var:
    """The logits of tokens of the data, without those of the mask."""
    values = network.methods["forward"].output("logits").values
    if values is None or values == int(logits.shape[2]):
        return logits
    return b.slice(logits, axis=2, start=0, stop=values, out="logits")
