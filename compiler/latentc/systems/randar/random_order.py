"""Next-token prediction in random orders."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from latentc.components.contract import Draw
from latentc.ir.builder import Builder, Var, i64
from latentc.ir.types import B, Named
from latentc.systems.rar.ordered_tokens import OrderedTokens


class RandomOrder(OrderedTokens):
    """Cross-entropy of each token given those before it in a random order per sample, in nats per token."""

    kind: Literal["random_order"]
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "random_order"}

    def orders(self, b: Builder, count: int) -> tuple[Var, tuple[Draw, ...]]:
        return b.input("order", i64(B, Named(count, "T"))), (Draw("order", "permutation"),)
