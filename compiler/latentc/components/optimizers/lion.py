"""Lion."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.optimizer import Optimizer, Unit

SOURCE = '''
class Lion(torch.optim.Optimizer):
    """Lion (Chen et al. 2023): every weight moves by its rate, along the sign of its averaged gradient."""

    def __init__(self, groups: list[dict[str, Any]], betas: tuple[float, float]):
        super().__init__(groups, {"betas": betas})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            update, kept = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["average"] = torch.zeros_like(parameter)
                direction = parameter.grad.lerp(state["average"], update).sign()
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(direction, alpha=-group["lr"])
                state["average"].lerp_(parameter.grad, 1 - kept)
'''


class Lion(Optimizer):
    """Lion (Chen et al. 2023, arXiv:2302.06675): steps of constant size along the sign of an average; decoupled weight
    decay. Its authors recommend a learning rate 3 to 10 times lower than AdamW's, and a weight decay higher by the
    same factor.
    """

    kind: Literal["lion"] = "lion"
    lr: float = Field(3e-5, gt=0, description="peak learning rate after warm-up, which is the step size")
    betas: tuple[Unit, Unit] = Field((0.9, 0.99), description="weight of the average in a step, and its decay per step")
    TORCH: ClassVar[str] = 'Lion(groups, tuple(settings["betas"]))'
    SOURCE: ClassVar[str] = SOURCE
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "lion"}

    def state_bytes(self, matrices: int, others: int) -> int:
        """One average."""
        return 4 * (matrices + others)
