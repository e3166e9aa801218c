"""Next-token prediction within blocks of concatenated texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from latentc.components.contract import Need, Network, Update
from latentc.components.kit import call, per_sample_mean
from latentc.components.objective import Objective
from latentc.components.objectives._common import publish, token_losses
from latentc.components.parts import Spec
from latentc.ir.builder import ModuleBuilder, i64
from latentc.ir.types import B, Named


class RowTokens(Objective):
    """Cross-entropy of every token of a block but the first given those before it, in nats, without conditions: for
    concatenated texts that contain their classes (data `text_rows`)."""

    kind: Literal["row_tokens"]
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "row_tokens"}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return Need("main", "next_token"), Need("main", "continue_rows")

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        assert spec.data.tokens is not None
        count = spec.data.tokens.length
        b = mb.function("loss.terms")
        tokens = b.input("tokens", i64(B, Named(count, "T")))
        given = b.slice(tokens, axis=1, start=0, stop=count - 1, out="given")
        logits = call(b, networks["main"], "read", {}, state=given, out="logits")
        losses = token_losses(b, logits, b.slice(tokens, axis=1, start=1, stop=count, out="wanted"))
        b.output(per_sample_mean(b, losses, out="loss"))
        b.finish("The cross-entropy of the tokens but the first in nats per token, one value per sample.")
        return publish(mb, ("loss",), ("tokens",), (), self.trained(spec))
