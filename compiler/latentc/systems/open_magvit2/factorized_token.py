"""Next-token prediction of the parts of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from latentc.components.contract import Network, Update
from latentc.components.kit import Conditions, call, per_sample_mean
from latentc.components.objective import Objective
from latentc.components.objectives._common import publish, token_losses
from latentc.components.parts import Spec
from latentc.ir.builder import ModuleBuilder, Var, as_tuple, i64
from latentc.ir.types import B, Named
from latentc.systems.open_magvit2.factorized_transformer import bits_of_network
from latentc.systems.open_magvit2.parts import parts_of


class FactorizedToken(Objective):
    """Cross-entropies of the parts of every token given the tokens before it and the parts before, added up, in nats
    (Open-MAGVIT2, Luo et al. 2024, arXiv:2409.04410).
    """

    kind: Literal["factorized_token"]
    NEEDS = "next_parts"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "factorized_token"}

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        network, conditions = networks["main"], Conditions(spec, networks)
        assert spec.data.tokens is not None
        b = mb.function("loss.terms")
        tokens = b.input("tokens", i64(B, Named(spec.data.tokens.length, "T")))
        cond = conditions.dropped(b, conditions.operands(b, conditions.inputs(b, by_field=True)))
        bits = bits_of_network(network)
        names = " ".join(f"logits_{k}" for k in range(len(bits)))
        every = as_tuple(call(b, network, "forward", cond, state=tokens, out=names))
        loss: Var | None = None
        for logits, part in zip(every, parts_of(b, tokens, bits), strict=True):
            own = per_sample_mean(b, token_losses(b, logits, part), out="loss")
            loss = own if loss is None else b.add(loss, own, out="loss")
        assert loss is not None
        b.output(loss)
        b.finish("The cross-entropies of the parts of tokens in nats per token, one value per sample.")
        draws = (*conditions.drawn(), *conditions.draws())
        return publish(mb, ("loss",), ("tokens", *conditions.fields), draws, self.trained(spec))
