"""Adafactor."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.optimizer import Optimizer, Unit

SOURCE = '''
class Adafactor(torch.optim.Optimizer):
    """Adafactor (Shazeer and Stern 2018): averages squared gradients per row and column of a weight.

    Rows and columns run along its two largest axes. Weights with fewer than two axes of `least_side` keep the
    average of each element.
    """

    def __init__(self, groups: list[dict[str, Any]], settings: dict[str, Any]):
        self.settings = settings
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self) -> None:
        own = self.settings
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state, rate = self.state[parameter], group["lr"]
                state["step"] = state.get("step", 0) + 1
                update = whole(parameter.grad) * self._inverse_root(state, whole(parameter.grad))
                if own["clip"] is not None:
                    update /= (size(update) / own["clip"]).clamp(min=1.0)
                update = split_like(update, parameter)
                if own["momentum"]:
                    average = state.setdefault("average", torch.zeros_like(parameter))
                    update = average.lerp_(update, 1 - own["momentum"])
                step = min(rate, state["step"] ** -0.5) if own["slows"] else rate
                if own["relative"] is not None:
                    step *= size(whole(parameter)).clamp(min=own["relative"])
                parameter.mul_(1 - rate * group["weight_decay"])
                parameter.sub_(update * step)

    def _inverse_root(self, state: dict[str, Any], gradient: Tensor) -> Tensor:
        """One over the root of the averaged square of each element."""
        square = gradient.square() + self.settings["eps"]
        decay = 1 - state["step"] ** self.settings["beta2_decay"]
        if self.settings["most_beta2"] is not None:
            decay = min(decay, self.settings["most_beta2"])

        def averaged(name: str, new: Tensor) -> Tensor:
            return state.setdefault(name, torch.zeros_like(new)).lerp_(new, 1 - decay)

        axes = sorted(range(gradient.ndim), key=lambda axis: gradient.shape[axis])[-2:]
        if len(axes) < 2 or gradient.shape[axes[0]] < self.settings["least_side"]:
            return averaged("square", square).rsqrt()
        rows = averaged("rows", square.mean(axes[1], keepdim=True))
        columns = averaged("columns", square.mean(axes[0], keepdim=True))
        return (rows / rows.mean(axes[0], keepdim=True)).rsqrt() * columns.rsqrt()


def size(values: Tensor) -> Tensor:
    """The root of their mean square."""
    return values.square().mean().sqrt()


def whole(values: Tensor) -> Tensor:
    """All of a tensor whose parts are on several devices."""
    return values.full_tensor() if hasattr(values, "full_tensor") else values


def split_like(values: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, split as another is."""
    if not hasattr(like, "full_tensor"):
        return values
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(values, like.device_mesh, like.placements)
'''


class Adafactor(Optimizer):
    """Adafactor (Shazeer and Stern 2018, arXiv:1804.04235): averages of squared gradients per row and column.

    The defaults are the paper's. With `least_side: 32`, `most_beta2: 0.999`, `momentum: 0.9`, `clip: null`,
    `relative: null` and `slows: false` it is that of Scaling Vision Transformers (Zhai et al. 2022, arXiv:2106.04560),
    whose momentum is kept in bfloat16, and here in float32.
    """

    kind: Literal["adafactor"] = "adafactor"
    lr: float = Field(0.01, gt=0, description="peak learning rate, after warm-up")
    relative: float | None = Field(
        1e-3, gt=0, description="steps are relative to the weight's root mean square, or to this at least; null: not"
    )
    slows: bool = Field(True, description="the rate of step n is at most 1 / sqrt(n)")
    beta2_decay: float = Field(-0.8, lt=0, description="averages of squares decay by 1 - n^beta2_decay in step n")
    most_beta2: Unit | None = Field(None, description="bound of that decay; null: none")
    momentum: Unit = Field(0.0, description="decay per step of the averaged update; 0: none")
    clip: float | None = Field(1.0, gt=0, description="bound of the update's root mean square; null: none")
    least_side: int = Field(
        1, gt=0, le=65_536, description="least size of both axes of rows and columns; smaller weights keep all squares"
    )
    eps: float = Field(1e-30, gt=0, description="added to squares")
    TORCH: ClassVar[str] = "Adafactor(groups, settings)"
    SOURCE: ClassVar[str] = SOURCE
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "adafactor"}

    def state_of(self, shapes: Iterable[tuple[int, ...]]) -> int:
        total = 0
        for shape in shapes:
            *_, smaller, larger = [0, 0, *sorted(shape)]
            count = math.prod(shape)
            factored = smaller >= self.least_side
            total += count // larger + count // smaller if factored else count
            total += count if self.momentum else 0
        return 4 * total
