"""Heun's method for flows with noise."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from latentc.components.samplers.sde import Stochastic


class HeunSde(Stochastic):
    """SiT's stochastic Heun: first the noise, then the trapezoid rule for the drift; two evaluations per step."""

    HEUN: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "heun_sde", "steps": 4, "last": "tweedie"}

    kind: Literal["heun_sde"]
