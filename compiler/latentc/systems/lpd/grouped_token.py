"""Prediction of groups of tokens in random orders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components import Steps
from latentc.components.contract import Draw, Network, Update
from latentc.components.kit import Conditions, call, per_sample_mean
from latentc.components.objective import Objective
from latentc.components.objectives._common import publish, token_losses
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import ModuleBuilder, i64
from latentc.ir.types import B, Named
from latentc.systems.lpd.orders import group_mask, group_numbers, group_sizes


class GroupedToken(Objective):
    """Cross-entropy of each token given the groups before its own, in nats (LPD, Zhang et al. 2025, arXiv:2507.01957).

    Each sample has a random order and one of several divisions into groups; in the authors' code these are the same for
    a whole batch.
    """

    kind: Literal["grouped_token"]
    steps: tuple[Steps, ...] = Field(
        (256, 128, 64, 32, 24, 20, 16, 12, 8),
        min_length=1,
        max_length=64,
        description="possible numbers of groups, one drawn per sample; group sizes follow a cosine",
    )
    groups: tuple[tuple[Steps, ...], ...] | None = Field(
        None, min_length=1, max_length=64, description="sizes of the groups instead, one list per division"
    )
    NEEDS = "any_order"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "grouped_token", "steps": [4, 2]}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if spec.data.tokens is None:
            return
        length = spec.data.tokens.length
        for i, steps in enumerate(self.steps if self.groups is None else ()):
            if steps > length:
                yield Problem(("steps", i), f"{steps} groups of {length} tokens", f"use {length} or fewer")
        for i, sizes in enumerate(self.groups or ()):
            if sum(sizes) != length:
                yield Problem(("groups", i), f"the groups add up to {sum(sizes)} tokens, but samples have {length}")

    def divisions(self, length: int) -> tuple[tuple[int, ...], ...]:
        """Sizes of the groups of each division of `length` tokens."""
        return self.groups or tuple(group_sizes(steps, length) for steps in self.steps)

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        network, conditions = networks["main"], Conditions(spec, networks)
        count = int(network.methods["forward"].output("logits").type.shape[1])  # type: ignore[arg-type]
        length = Named(count, "T")
        numbers = np.stack([group_numbers(sizes) for sizes in self.divisions(count)])
        b = mb.function("loss.terms")
        tokens = b.input("tokens", i64(B, length))
        cond = conditions.dropped(b, conditions.operands(b, conditions.inputs(b, by_field=True)))
        order = b.input("order", i64(B, length))
        division = b.input("division", i64(B))
        group = b.embedding(b.constant(numbers, out="groups"), division, out="group")
        mask = group_mask(b, group, count)
        logits = call(b, network, "forward", cond, state=tokens, position=order, mask=mask, out="logits")
        target = b.take_along(tokens, order, axis=1, out="target")
        b.output(per_sample_mean(b, token_losses(b, logits, target), out="loss"))
        b.finish("The cross-entropy of the tokens in nats per token, one value per sample.")
        draws = (
            *conditions.draws(),
            Draw("order", "permutation"),
            Draw("division", "integers", {"high": len(numbers)}),
        )
        return publish(mb, ("loss",), ("tokens", *conditions.fields), draws, self.trained(spec))
