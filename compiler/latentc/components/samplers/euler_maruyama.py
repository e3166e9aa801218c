"""Euler-Maruyama."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from latentc.components.samplers.sde import Stochastic


class EulerMaruyama(Stochastic):
    """The Euler-Maruyama method: one evaluation and one noise draw per step."""

    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "euler_maruyama", "steps": 5, "guidance": {"scale": 2.0}}

    kind: Literal["euler_maruyama"]
