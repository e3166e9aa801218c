"""Next-token prediction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from latentc.components.contract import Draw, Network, Update
from latentc.components.objectives._common import drop_labels, per_sample_mean, publish
from latentc.components.parts import Objective
from latentc.ir.builder import ModuleBuilder, f32, i64
from latentc.ir.types import B, Named

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class NextToken(Objective):
    """Cross-entropy of every token given the class and the tokens before it, in nats."""

    kind: Literal["next_token"]
    family: ClassVar[str] = "tokens"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "next_token"}

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        network = networks["main"]
        length = Named(network.length, "T")
        b = mb.function("loss.terms")
        tokens = b.input("tokens", i64(B, length))
        y = b.input("y", i64(B))
        drop = b.input("drop", f32(B))
        y = drop_labels(b, y, drop, network, spec)
        given = b.slice(tokens, axis=1, start=0, stop=network.length - 1, out="given")
        logits = b.call(network.methods["forward"], "main", given, y, out="logits")
        rows = B * network.length
        flat = b.reshape(logits, shape=(rows, network.vocabulary))
        losses = b.cross_entropy(flat, b.reshape(tokens, shape=(rows,)))
        b.output(per_sample_mean(b, b.reshape(losses, shape=(B, length)), out="loss"))
        b.finish("The cross-entropy of the tokens in nats a token, a value a sample.")
        return publish(mb, ("loss",), ("tokens", "y"), (Draw("drop", "uniform"),))
