"""Stochastic gradient descent."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.optimizer import Optimizer, Unit


class Sgd(Optimizer):
    """Stochastic gradient descent with momentum; weight decay is added to the gradient."""

    kind: Literal["sgd"] = "sgd"
    momentum: Unit = Field(0.9, description="decay per step of the averaged gradient; 0: none")
    nesterov: bool = Field(False, description="use Nesterov momentum")
    TORCH: ClassVar[str] = 'torch.optim.SGD(groups, momentum=settings["momentum"], nesterov=settings["nesterov"])'
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "sgd"}

    def state_bytes(self, matrices: int, others: int) -> int:
        """The averaged gradient, if there is momentum."""
        return 4 * (matrices + others) if self.momentum else 0
