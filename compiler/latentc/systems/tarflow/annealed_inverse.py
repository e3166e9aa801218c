"""The inverse of a flow with guidance that grows from token to token.

Symbols: B batch, N predicted tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from latentc.components.parts import Problem
from latentc.components.samplers.flow_inverse import FlowInverse
from latentc.ir.builder import Builder, Var

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class AnnealedInverse(FlowInverse):
    """`flow_inverse` with TarFlow's annealed guidance, from none at the first token to its scale at the last."""

    kind: Literal["annealed_inverse"]  # type: ignore[assignment]
    EXAMPLE: ClassVar[dict[str, Any]] = {**FlowInverse.EXAMPLE, "kind": "annealed_inverse"}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if self.guidance is None:
            yield Problem(("guidance",), "nothing grows without guidance", "add `guidance: {scale: 2}`")

    def scales(self, b: Builder, scale: Var, count: int) -> Var:
        ramp = b.constant(np.arange(1, count + 1)[:, None] / count, out="ramp")
        return b.add((scale - 1.0) * ramp, 1.0, out="weight")  # type: ignore[no-any-return]


__all__ = ["AnnealedInverse"]
