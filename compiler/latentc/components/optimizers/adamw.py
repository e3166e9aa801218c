"""AdamW."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.optimizer import Optimizer, Unit


class Adamw(Optimizer):
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101): Adam with decoupled weight decay."""

    kind: Literal["adamw"] = "adamw"
    betas: tuple[Unit, Unit] = Field((0.9, 0.999), description="decay per step of the two moment averages")
    eps: float = Field(1e-8, gt=0, description="added to the root of the second moment")
    TORCH: ClassVar[str] = 'torch.optim.AdamW(groups, betas=tuple(settings["betas"]), eps=settings["eps"], fused=True)'
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "adamw"}
