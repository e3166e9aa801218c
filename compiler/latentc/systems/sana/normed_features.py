"""Features of a text whose projection is normalised."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.blocks.norms.rms_norm import RmsNorm
from latentc.components.conditions.features import Features
from latentc.ir.builder import Builder, Var


class NormedFeatures(Features):
    """Features f32[B, L, D] whose projection to the network's width is divided by its root mean square (SANA)."""

    kind: Literal["normed_features"]  # type: ignore[assignment]
    projection: Literal["linear", "mlp"] = Field(  # type: ignore[assignment]
        "mlp", description="projection to the network's width; mlp: two linear layers with GELU between them"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "normed_features"}

    def projected(self, b: Builder, prefix: str, x: Var, width: Any, out: str) -> Var:
        x = super().projected(b, prefix, x, width, out)
        return RmsNorm(kind="rms_norm", eps=1e-5).apply(b, f"{prefix}_norm", x)
