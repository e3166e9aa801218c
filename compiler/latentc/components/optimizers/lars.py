"""LARS."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.optimizer import Optimizer, Unit

SOURCE = '''
class Lars(torch.optim.Optimizer):
    """LARS (You et al. 2017): SGD whose gradients, decay included, are as long as a fraction of the weight.

    Vectors have neither decay nor a length to take.
    """

    def __init__(self, groups: list[dict[str, Any]], settings: dict[str, Any]):
        self.momentum, self.trust = settings["momentum"], settings["trust"]
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                change = parameter.grad
                if parameter.ndim > 1:
                    change = change + group["weight_decay"] * parameter
                    change = change * scale(parameter.norm(), change.norm(), self.trust)
                state = self.state[parameter]
                if not state:
                    state["speed"] = torch.zeros_like(parameter)
                state["speed"].mul_(self.momentum).add_(change)
                parameter.add_(state["speed"], alpha=-group["lr"])


def scale(weight: Tensor, change: Tensor, trust: float) -> Tensor:
    """Length of a weight over that of its change, times `trust`; 1 if either is 0."""
    return torch.where((weight > 0) & (change > 0), trust * weight / change, torch.ones_like(weight))
'''


class Lars(Optimizer):
    """LARS (You et al. 2017, arXiv:1708.03888): SGD whose steps are as long as a fraction of the weight, times `lr`."""

    kind: Literal["lars"] = "lars"
    lr: float = Field(0.1, gt=0, description="peak learning rate, after warm-up")
    momentum: Unit = Field(0.9, description="decay of the sum of gradients")
    trust: float = Field(1e-3, gt=0, description="length of a matrix's gradient over that of the matrix")
    TORCH: ClassVar[str] = "Lars(groups, settings)"
    SOURCE: ClassVar[str] = SOURCE
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "lars"}

    def state_bytes(self, matrices: int, others: int) -> int:
        """The sum of gradients."""
        return 4 * (matrices + others)
