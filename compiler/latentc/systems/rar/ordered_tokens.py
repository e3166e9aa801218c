"""Next-token prediction in an order per sample, whichever it is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

from latentc.components.contract import Draw, Network, Update
from latentc.components.kit import Conditions, call, per_sample_mean
from latentc.components.objective import Objective
from latentc.components.objectives._common import publish, token_losses
from latentc.components.parts import Spec
from latentc.ir.builder import Builder, ModuleBuilder, Var, i64
from latentc.ir.types import B, Named


class OrderedTokens(Objective):
    """Cross-entropy of each token given those before it in an order per sample, in nats per token."""

    NEEDS = "permuted_tokens"

    @abstractmethod
    def orders(self, b: Builder, count: int) -> tuple[Var, tuple[Draw, ...]]:
        """The order i64[B, T] of each sample, and what is drawn for it; adds the inputs of these."""

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        network, conditions = networks["main"], Conditions(spec, networks)
        assert spec.data.tokens is not None
        count = spec.data.tokens.length
        b = mb.function("loss.terms")
        tokens = b.input("tokens", i64(B, Named(count, "T")))
        cond = conditions.dropped(b, conditions.operands(b, conditions.inputs(b, by_field=True)))
        order, drawn = self.orders(b, count)
        ordered = b.take_along(tokens, order, axis=1, out="ordered")
        known = b.slice(ordered, axis=1, start=0, stop=count - 1, out="known")
        logits = call(b, network, "permuted", cond, state=known, position=order, out="logits")
        b.output(per_sample_mean(b, token_losses(b, logits, ordered), out="loss"))
        b.finish("The cross-entropy of the tokens in nats per token, one value per sample.")
        draws = (*conditions.draws(), *drawn)
        return publish(mb, ("loss",), ("tokens", *conditions.fields), draws, self.trained(spec))
