"""Token after token, with guidance that grows along the way."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from latentc.components.guidance.guidance import ScheduledGuidance, scale_at
from latentc.components.samplers.autoregressive import Autoregressive
from latentc.ir.builder import Builder, Var


class ScheduledAutoregressive(Autoregressive):
    """`autoregressive` with a guidance scale that depends on the token: token i of T is at progress i / T."""

    kind: Literal["scheduled_autoregressive"]  # type: ignore[assignment]
    guidance: ScheduledGuidance | None = Field(None, description="classifier-free guidance of the logits; null: none")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "scheduled_autoregressive",
        "guidance": {"scale": 2.0, "schedule": "cosine", "power": 2.0},
    }

    def guided_tokens(self, length: int) -> int:
        if self.guidance is None:
            return length
        return sum(self.guidance.acts(i / length) for i in range(length))

    def strengths(self, length: int) -> NDArray[np.float64]:
        assert self.guidance is not None
        return self.guidance.weights([i / length for i in range(length)])

    def scale_of(self, b: Builder, scale: Var | None, position: Var | int, length: int) -> Var | None:
        if scale is None or self.guidance is None:
            return None
        weights = self.strengths(length).astype(np.float32)
        if isinstance(position, int):
            return scale_at(b, scale, b.constant(weights[position : position + 1], out="weight"))
        return scale_at(b, scale, b.take(b.constant(weights, out="weights"), position, axis=0, out="weight"))
