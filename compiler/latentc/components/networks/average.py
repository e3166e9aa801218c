"""A network that is the moving average of another."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.networks.like import Like


class Average(Like):
    """The exponential moving average of another network's weights over training, for losses that read it.

    It starts as a copy and moves after every step; no gradient reaches it.
    """

    kind: Literal["average"]  # type: ignore[assignment]
    decay: float = Field(0.999, ge=0, lt=1, description="share of the old average that stays, per step")
    frozen: Literal[True] = Field(True, description="no optimiser moves it")  # type: ignore[assignment]
    conditions: None = Field(None, description="it is told what the other network is told")
    copy_of: None = Field(None, description="it starts as a copy of the other network")
    pretrained: None = Field(None, description="it starts as a copy of the other network")

    @property
    def average_of(self) -> str:
        return self.network

    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "average"}
