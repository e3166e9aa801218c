"""Next-scale prediction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from latentc.components.contract import Need, Network, Update
from latentc.components.kit import Conditions, call, per_sample_mean
from latentc.components.objective import Objective
from latentc.components.objectives._common import publish, token_losses
from latentc.ir.builder import ModuleBuilder, i64
from latentc.ir.types import B

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class NextScale(Objective):
    """Cross-entropy of the tokens of every scale given the scales before it (VAR, Tian et al. 2024), in nats.

    The network is told what the true tokens of these stand for, by `quantizer`, which is frozen.
    """

    kind: Literal["next_scale"]
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "next_scale"}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return (Need("main", "next_scale"), Need("quantizer", "quantize_scales"))

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        network, quantizer, conditions = networks["main"], networks["quantizer"], Conditions(spec, networks)
        length = int(network.methods["forward"].output("logits").type.shape[1])  # type: ignore[arg-type]
        b = mb.function("loss.terms")
        tokens = b.input("tokens", i64(B, length))
        told = conditions.dropped(b, conditions.operands(b, conditions.inputs(b, by_field=True)))
        inputs = call(b, quantizer, "scale_inputs", {}, token=tokens, out="inputs")
        logits = call(b, network, "forward", told, state=inputs, out="logits")
        b.output(per_sample_mean(b, token_losses(b, logits, tokens), out="loss"))
        b.finish("The cross-entropy of the tokens in nats per token, one value per sample.")
        return publish(mb, ("loss",), ("tokens", *conditions.fields), conditions.draws(), self.trained(spec))
