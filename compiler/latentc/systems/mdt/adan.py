"""Adan."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.optimizer import Optimizer, Unit

SOURCE = '''
class Adan(torch.optim.Optimizer):
    """Adan (Xie et al. 2022): averages of the gradient, its change, and the square of their Nesterov sum."""

    def __init__(self, groups: list[dict[str, Any]], betas: tuple[float, float, float], eps: float):
        super().__init__(groups, {"betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            first, second, third = group["betas"]
            for parameter in group["params"]:
                if (gradient := parameter.grad) is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state |= {name: torch.zeros_like(parameter) for name in ("mean", "change", "square")}
                    state |= {"step": 0, "last": gradient.clone()}
                state["step"] += 1
                change = gradient - state["last"]
                state["last"].copy_(gradient)
                state["mean"].lerp_(gradient, 1 - first)
                state["change"].lerp_(change, 1 - second)
                state["square"].lerp_((gradient + second * change).square(), 1 - third)
                corrections = [1 - beta ** state["step"] for beta in group["betas"]]
                size = state["square"].sqrt() / corrections[2] ** 0.5 + group["eps"]
                direction = state["mean"] / corrections[0] + second * state["change"] / corrections[1]
                parameter.addcdiv_(direction, size, value=-group["lr"])
                parameter.div_(1 + group["lr"] * group["weight_decay"])
'''


class Adan(Optimizer):
    """Adan (Xie et al. 2022, arXiv:2208.06677): adaptive steps with Nesterov momentum, which MDTv2's authors use."""

    kind: Literal["adan"] = "adan"
    lr: float = Field(1e-3, gt=0, description="peak learning rate after warm-up")
    betas: tuple[Unit, Unit, Unit] = Field(
        (0.98, 0.92, 0.99),
        description="decays per step of the averaged gradient, of its averaged change, and of the averaged square",
    )
    eps: float = Field(1e-8, gt=0, description="added to the denominator")
    TORCH: ClassVar[str] = 'Adan(groups, tuple(settings["betas"]), settings["eps"])'
    SOURCE: ClassVar[str] = SOURCE
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "adan"}

    def state_bytes(self, matrices: int, others: int) -> int:
        """Three averages and the last gradient."""
        return 16 * (matrices + others)
