"""Token after token, with guidance that grows linearly from the first token to the last.

Symbols: B batch, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from latentc.components.guidance.guidance import Guidance, scale_at
from latentc.components.parts import Problem, Spec
from latentc.components.samplers.autoregressive import Autoregressive
from latentc.ir.builder import Builder, Var


class RisingGuidance(Guidance):
    """Guidance whose scale grows linearly from `first` at the first token to `scale` at the last."""

    first: float = Field(
        1.0,
        ge=0,
        description="scale of the first token; at another scale than the default it is as far from 1 in proportion",
    )


class RisingAutoregressive(Autoregressive):
    """`autoregressive` with a guidance scale that grows linearly with the token (D-AR, Gao and Shou 2025,
    arXiv:2505.23660).
    """

    kind: Literal["rising_autoregressive"]  # type: ignore[assignment]
    guidance: RisingGuidance | None = Field(None, description="classifier-free guidance of the logits; null: none")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "rising_autoregressive",
        "guidance": {"scale": 4.0, "first": 1.5},
    }

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if self.guidance is not None and self.guidance.scale == 1 != self.guidance.first:
            message = f"guidance from {self.guidance.first:g} to 1 has no proportion to the default scale"
            yield Problem(("guidance", "first"), message, "set `scale` to another number than 1, or leave out `first`")

    def strengths(self, length: int) -> NDArray[np.float64]:
        guidance = self.guidance
        assert guidance is not None
        from_first = 1.0 if guidance.scale == 1 else (guidance.first - 1) / (guidance.scale - 1)
        return super().strengths(length) * np.linspace(from_first, 1.0, length)

    def scale_of(self, b: Builder, scale: Var | None, position: Var | int, length: int) -> Var | None:
        if scale is None:
            return None
        weights = self.strengths(length).astype(np.float32)
        if isinstance(position, int):
            return scale_at(b, scale, b.constant(weights[position : position + 1], out="weight"))
        return scale_at(b, scale, b.take(b.constant(weights, out="weights"), position, axis=0, out="weight"))
