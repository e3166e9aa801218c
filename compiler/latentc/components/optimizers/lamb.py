"""LAMB."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.optimizer import Optimizer, Unit

SOURCE = '''
class Lamb(torch.optim.Optimizer):
    """LAMB (You et al. 2019): AdamW's steps, each scaled to the length of the weight that it changes.

    Without `always_adapt`, those of weights that do not decay are Adam's.
    """

    def __init__(self, groups: list[dict[str, Any]], settings: dict[str, Any]):
        self.betas, self.eps, self.always = settings["betas"], settings["eps"], settings["always_adapt"]
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self) -> None:
        first, second = self.betas
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    empty = torch.zeros_like(parameter)
                    state |= {"step": 0, "mean": empty, "square": empty.clone()}
                state["step"] += 1
                state["mean"].lerp_(parameter.grad, 1 - first)
                state["square"].lerp_(parameter.grad.square(), 1 - second)
                mean = state["mean"] / (1 - first ** state["step"])
                square = state["square"] / (1 - second ** state["step"])
                change = mean / (square.sqrt() + self.eps) + group["weight_decay"] * parameter
                if self.always or group["weight_decay"]:
                    change = change * ratio(parameter.norm(), change.norm())
                parameter.add_(change, alpha=-group["lr"])


def ratio(weight: Tensor, change: Tensor) -> Tensor:
    """Length of a weight over that of its change; 1 if either is 0."""
    return torch.where((weight > 0) & (change > 0), weight / change, torch.ones_like(weight))
'''


class Lamb(Optimizer):
    """LAMB (You et al. 2019, arXiv:1904.00962): AdamW, with each step scaled to the norm of its weight, times `lr`."""

    kind: Literal["lamb"] = "lamb"
    lr: float = Field(1e-3, gt=0, description="peak learning rate after warm-up, relative to the weights")
    betas: tuple[Unit, Unit] = Field(
        (0.9, 0.999), description="decay rates of the averaged gradients and their squares"
    )
    eps: float = Field(1e-8, gt=0, description="added to the root of the averaged square")
    always_adapt: bool = Field(False, description="also scale the steps of weights without weight decay")
    TORCH: ClassVar[str] = "Lamb(groups, settings)"
    SOURCE: ClassVar[str] = SOURCE
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "lamb"}
