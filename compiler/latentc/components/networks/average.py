"""A network that is the moving average of another."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.networks.like import Like


class Average(Like):
    """The exponential moving average of another network's weights over training, for use in losses.

    It starts as a copy and is updated after every step; it gets no gradients.
    """

    kind: Literal["average"]  # type: ignore[assignment]
    decay: float = Field(0.999, ge=0, lt=1, description="decay of the average per step")
    frozen: Literal[True] = Field(True, description="not trained by an optimiser")  # type: ignore[assignment]
    conditions: None = Field(None, description="the same conditions as the other network")
    copy_of: None = Field(None, description="starts as a copy of the other network")
    pretrained: None = Field(None, description="starts as a copy of the other network")

    @property
    def average_of(self) -> str:
        return self.network

    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "average"}
