"""Muon."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.optimizer import Optimizer, Unit


class Muon(Optimizer):
    """Muon (Jordan et al. 2024): the momentum of matrices is orthogonalised; all other weights move by AdamW.

    Kernels of convolutions count as matrices [out, in * kernel]; embeddings do not.
    """

    kind: Literal["muon"] = "muon"
    lr: float = Field(0.02, gt=0, description="learning rate of matrices once warmed up")
    momentum: Unit = Field(0.95, description="decay per step of the averaged gradient of matrices")
    adam_lr: float = Field(3e-4, gt=0, description="learning rate of all other weights")
    betas: tuple[Unit, Unit] = Field((0.9, 0.95), description="decay per step of their two moment averages")
    eps: float = Field(1e-8, gt=0, description="added to the root of their second moment")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "muon"}
