"""Adamax."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.optimizer import Optimizer, Unit


class Adamax(Optimizer):
    """Adamax (Kingma and Ba 2015, arXiv:1412.6980): Adam with a decayed maximum of the gradient for its second moment.

    Weight decay is added to the gradient, as L2 regularisation.
    """

    kind: Literal["adamax"] = "adamax"
    betas: tuple[Unit, Unit] = Field((0.9, 0.999), description="decay per step of the mean and of the maximum")
    eps: float = Field(1e-8, gt=0, description="added to the magnitude of the gradient")
    TORCH: ClassVar[str] = 'torch.optim.Adamax(groups, betas=tuple(settings["betas"]), eps=settings["eps"])'
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "adamax"}
