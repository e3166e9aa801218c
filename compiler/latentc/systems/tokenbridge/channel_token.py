"""Prediction of the quantised channels of hidden tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Draw, Need, Network, Update
from latentc.components.kit import Conditions, call
from latentc.components.kit.patches import patch_side, patchify
from latentc.components.objective import Objective, not_frozen
from latentc.components.objectives._common import publish, token_losses
from latentc.components.parts import Spec
from latentc.ir.builder import ModuleBuilder, f32, i64
from latentc.ir.types import B, Named
from latentc.systems.tokenbridge.channel_transformer import levels_of, order_of
from latentc.systems.tokenbridge.levels import nearest_level, value_of


class ChannelToken(Objective):
    """Cross-entropy of the levels of the channels of hidden tokens, in nats per channel, by network `head` from
    features that `main` computes from the quantised other tokens (TokenBridge, Wang et al. 2025, arXiv:2503.16430).

    A fraction r of each sample's tokens is hidden, r normal with mean 1, truncated to [`least_hidden`, 1].
    """

    kind: Literal["channel_token"]
    least_hidden: float = Field(0.7, gt=0, lt=1, description="minimum fraction of hidden tokens")
    deviation: float = Field(0.25, gt=0, description="standard deviation of the hidden fraction")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "channel_token"}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        masked = Need("main", "masked_features", asks={"most_known": self._most_known})
        return (masked, Need("head", "next_channel"))

    def trained(self, spec: Spec) -> tuple[str, ...]:
        return (*super().trained(spec), *not_frozen(spec, "head"))

    def _most_known(self, tokens: int) -> int:
        """How many of a sample's `tokens` are visible at most."""
        return math.ceil((1 - self.least_hidden) * tokens)

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        main, head, conditions = networks["main"], networks["head"], Conditions(spec, networks)
        _, count, channels = main.methods["forward"].input("state").type.shape
        length, size = Named(int(count), "T"), int(channels)  # type: ignore[arg-type]
        assert spec.data.shape is not None
        b = mb.function("loss.terms")
        x = b.input("x", f32(B, *spec.data.shape))
        given = conditions.inputs(b, by_field=True)
        z, order = b.input("fraction", f32(B)), b.input("order", i64(B, length))
        cond = conditions.dropped(b, conditions.operands(b, given))
        values, places = levels_of(head), order_of(head)
        levels = nearest_level(b, patchify(b, x, patch_side(size, spec.data.shape[0])), values)
        tokens = value_of(b, levels, values)
        fraction = b.op("sub", 1.0, b.mul(b.abs(z), self.deviation), out="fraction")
        most = b.reshape(b.mul(fraction, float(length)), shape=(B, 1), out="most")
        hidden = b.cast(b.less(b.cast(b.argsort(order, out="rank"), to="f32"), most), to="f32", out="hidden")
        method = "forward_known" if "forward_known" in main.methods else "forward"
        features = call(b, main, method, cond, state=tokens, mask=hidden, out="features")
        rows = B * int(length)
        target = b.take(levels, b.constant(list(places), "i64", out="channels"), axis=2, out="target")
        target = b.reshape(target, shape=(rows, size), out="target")
        features = b.reshape(features, shape=(rows, features.shape[2]), out="features")
        logits = call(b, head, "forward", {"z": features}, state=target, out="logits")
        losses = b.mean(token_losses(b, logits, target), axes=(1,), keepdims=False, out="losses")
        weight = b.div(hidden, b.sum(hidden, axes=(1,), keepdims=True), out="weight")
        b.output(b.sum(b.reshape(losses, shape=(B, length)) * weight, axes=(1,), keepdims=False, out="loss"))
        b.finish("The cross-entropy of the channels of hidden tokens in nats per channel, one value per sample.")
        bound = {"bound": (1 - self.least_hidden) / self.deviation}
        draws = (
            Draw("fraction", "truncated_normal", bound),
            Draw("order", "permutation"),
            *conditions.drawn(),
            *conditions.draws(),
        )
        return publish(mb, ("loss",), ("x", *conditions.fields), draws, self.trained(spec))
