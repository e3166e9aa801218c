"""Next-token prediction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from latentc.components.contract import Need, Network, Update
from latentc.components.kit import Conditions, call, per_sample_mean
from latentc.components.objective import Objective
from latentc.components.objectives._common import publish
from latentc.ir.builder import ModuleBuilder, i64
from latentc.ir.types import B, Named

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class NextToken(Objective):
    """Cross-entropy of every token given the class and the tokens before it, in nats."""

    kind: Literal["next_token"]
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "next_token"}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return (Need("main", "next_token"),)

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        network, conditions = networks["main"], Conditions(spec, networks)
        forward = network.methods["forward"]
        count = int(forward.output("logits").type.shape[1])  # type: ignore[arg-type]
        length = Named(count, "T")
        b = mb.function("loss.terms")
        tokens = b.input("tokens", i64(B, length))
        told = conditions.dropped(b, conditions.operands(b, conditions.inputs(b, by_field=True)))
        prefix = b.slice(tokens, axis=1, start=0, stop=count - 1, out="given")
        logits = call(b, network, "forward", told, state=prefix, out="logits")
        rows = B * length
        flat = b.reshape(logits, shape=(rows, logits.shape[2]))
        losses = b.cross_entropy(flat, b.reshape(tokens, shape=(rows,)))
        b.output(per_sample_mean(b, b.reshape(losses, shape=(B, length)), out="loss"))
        b.finish("The cross-entropy of the tokens in nats per token, one value per sample.")
        return publish(mb, ("loss",), ("tokens", *conditions.fields), conditions.draws(), self.trained(spec))
