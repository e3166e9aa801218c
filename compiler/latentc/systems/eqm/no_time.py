"""The time of a network that does not depend on the noise level."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from latentc.components.conditions.timestep import Timestep
from latentc.ir.builder import Builder, Var


class NoTime(Timestep):
    """The embedding of time 0, whatever the time is (EqM, Wang and Du 2025, arXiv:2510.02300)."""

    kind: Literal["no_time"]  # type: ignore[assignment]
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "no_time"}

    def features(self, b: Builder, t: Var, **static: Any) -> Var:
        return super().features(b, b.op("mul", t, 0.0, out="t"), **static)
