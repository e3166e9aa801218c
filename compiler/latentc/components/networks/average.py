"""A network that is the moving average of another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.networks.like import Like
from latentc.components.objective import Objective
from latentc.components.parts import Problem, Spec


class Average(Like):
    """The exponential moving average of another network's weights over training, for use in losses.

    It starts as a copy and is updated after every step; it gets no gradients.
    """

    kind: Literal["average"]  # type: ignore[assignment]
    decay: float = Field(0.999, ge=0, lt=1, description="decay of the average per step")
    by_grids: bool = Field(
        False,
        description="the decay rises with the steps N of the objective's growing time grids: decay^(first / N), where "
        "`first` is that of `objective.growth` (Song et al. 2023, arXiv:2303.01469)",
    )
    frozen: Literal[True] = Field(True, description="not trained by an optimiser")  # type: ignore[assignment]
    conditions: None = Field(None, description="the same conditions as the other network")
    copy_of: None = Field(None, description="starts as a copy of the other network")
    pretrained: None = Field(None, description="starts as a copy of the other network")

    @property
    def average_of(self) -> str:
        return self.network

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if self.by_grids and not (isinstance(spec.objective, Objective) and spec.objective.growing(spec)):
            message = (
                "with `by_grids` the decay follows the growth of the objective's time grids, but these do not grow"
            )
            yield Problem(("by_grids",), message, "set `objective.growth`, or leave it out")

    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "average"}
