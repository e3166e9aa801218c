"""Adam."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.optimizer import Optimizer, Unit


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015, arXiv:1412.6980); weight decay is added to the gradient, as L2 regularisation."""

    kind: Literal["adam"] = "adam"
    betas: tuple[Unit, Unit] = Field((0.9, 0.999), description="decay per step of the two moment averages")
    eps: float = Field(1e-8, gt=0, description="added to the root of the second moment")
    TORCH: ClassVar[str] = 'torch.optim.Adam(groups, betas=tuple(settings["betas"]), eps=settings["eps"], fused=True)'
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "adam"}
