"""The scale of guidance of drifting models, a condition of the generator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from latentc.components.conditions.setting import SettingCondition
from latentc.ir.builder import Builder, Var, f32

WEIGHT, EPS = 0.02, 1e-6
"""The factor of the normalised embedding, and what is added to its mean square."""


class DriftScale(SettingCondition):
    """A setting whose embedding is normalised and scaled down (Deng et al. 2026, arXiv:2602.04770)."""

    kind: Literal["drift_scale"]  # type: ignore[assignment]
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "drift_scale"}

    def vector(
        self, b: Builder, prefix: str, name: str, operands: tuple[Var, ...], width: Any, sizes: Mapping[str, Any]
    ) -> Var:
        embedded = super().vector(b, prefix, name, operands, width, sizes)
        weight = b.param(f"{prefix}_norm.weight", f32(width), "ones")
        return b.mul(b.rms_norm(embedded, weight, eps=EPS), WEIGHT, out=name)
