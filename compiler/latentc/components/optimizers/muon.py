"""Muon."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.optimizer import Optimizer, Unit

SOURCE = '''
class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) for matrices; AdamW for all other weights."""

    def __init__(self, groups: list[dict[str, Any]], settings: dict[str, Any]):
        for group in groups:
            if not group["matrices"]:
                group["lr"] *= settings["adam_lr"] / settings["lr"]
        self.momentum, self.betas, self.eps = settings["momentum"], settings["betas"], settings["eps"]
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                change = (self._orthogonal if group["matrices"] else self._adam)(parameter)
                parameter.add_(change, alpha=-group["lr"])

    def _orthogonal(self, parameter: Tensor) -> Tensor:
        """The momentum with all singular values about 1, scaled by the shape of the matrix."""
        state = self.state[parameter]
        average = state.setdefault("average", torch.zeros_like(parameter))
        average.lerp_(parameter.grad, 1 - self.momentum)
        update = parameter.grad.lerp(average, self.momentum)  # Nesterov's
        whole = update.full_tensor() if hasattr(update, "full_tensor") else update
        matrix = newton_schulz(whole.flatten(1))
        matrix *= max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
        made = matrix.view(whole.shape)
        if whole is update:
            return made
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(made, parameter.device_mesh, parameter.placements)

    def _adam(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:
            state |= {"step": 0, "mean": torch.zeros_like(parameter), "square": torch.zeros_like(parameter)}
        state["step"] += 1
        first, second = self.betas
        state["mean"].lerp_(parameter.grad, 1 - first)
        state["square"].lerp_(parameter.grad.square(), 1 - second)
        mean = state["mean"] / (1 - first ** state["step"])
        square = state["square"] / (1 - second ** state["step"])
        return mean / (square.sqrt() + self.eps)


def newton_schulz(matrix: Tensor, steps: int = 5) -> Tensor:
    """About U V^T of the matrix's singular value decomposition, by a quintic iteration in bfloat16."""
    wide = matrix.bfloat16() if matrix.shape[0] <= matrix.shape[1] else matrix.bfloat16().T
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(steps):
        square = wide @ wide.T
        wide = 3.4445 * wide + (-4.7750 * square + 2.0315 * square @ square) @ wide
    return (wide if matrix.shape[0] <= matrix.shape[1] else wide.T).to(matrix.dtype)
'''


class Muon(Optimizer):
    """Muon (Jordan et al. 2024): the momentum of matrices is orthogonalised; all other weights use AdamW.

    Convolution kernels count as matrices [out, in * kernel]; embeddings do not.
    """

    kind: Literal["muon"] = "muon"
    lr: float = Field(0.02, gt=0, description="peak learning rate of matrices, after warm-up")
    momentum: Unit = Field(0.95, description="decay per step of the averaged gradient of matrices")
    adam_lr: float = Field(3e-4, gt=0, description="learning rate of all other weights")
    betas: tuple[Unit, Unit] = Field((0.9, 0.95), description="decay per step of their two moment averages")
    eps: float = Field(1e-8, gt=0, description="added to the root of their second moment")
    TORCH: ClassVar[str] = "Muon(groups, settings)"
    SOURCE: ClassVar[str] = SOURCE
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "muon"}

    def state_bytes(self, matrices: int, others: int) -> int:
        """One average of matrices, two of all other weights."""
        return 4 * matrices + 8 * others
