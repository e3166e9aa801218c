"""Optimisers by their settings. Biases and norms never decay, embeddings only with `decay_embeddings`."""

from typing import Any

import torch
from torch import Tensor, nn


def make_optimizer(network: nn.Module, settings: dict[str, Any]) -> torch.optim.Optimizer:
    """The optimiser of one network. Each group keeps its rate without schedule as `base_lr`."""
    matrices, embeddings, vectors = [], [], []
    for module in network.modules():
        for parameter in module.parameters(recurse=False):
            kind = (
                embeddings
                if isinstance(module, nn.Embedding)
                else matrices
                if parameter.ndim >= 2
                else vectors
            )
            kind.append(parameter)
    rate, decay = settings["lr"], settings["weight_decay"]
    of_embeddings = decay if settings["decay_embeddings"] else 0.0
    groups = [
        {"params": matrices, "weight_decay": decay, "lr": rate},
        {"params": embeddings, "weight_decay": of_embeddings, "lr": rate},
        {"params": vectors, "weight_decay": 0.0, "lr": rate},
    ]
    groups = [group for group in groups if group["params"]]
    match settings["kind"]:
        case "adamw":
            made = torch.optim.AdamW(groups, betas=tuple(settings["betas"]), eps=settings["eps"], fused=True)
        case "adam":
            made = torch.optim.Adam(groups, betas=tuple(settings["betas"]), eps=settings["eps"], fused=True)
        case "sgd":
            made = torch.optim.SGD(groups, momentum=settings["momentum"], nesterov=settings["nesterov"])
        case "muon":
            made = Muon(groups, settings)
        case kind:
            raise SystemExit(f"optimizer.kind: {kind} is unknown")
    for group in made.param_groups:
        group["base_lr"] = group["lr"]
    return made


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) for the first of the groups, the matrices; AdamW for the others."""

    def __init__(self, groups: list[dict[str, Any]], settings: dict[str, Any]):
        for group in groups:
            group["orthogonal"] = group["params"][0].ndim >= 2 and group is groups[0]
            group["lr"] = settings["lr"] if group["orthogonal"] else settings["adam_lr"]
        self.momentum, self.betas, self.eps = settings["momentum"], settings["betas"], settings["eps"]
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                change = (self._orthogonal if group["orthogonal"] else self._adam)(parameter)
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


@torch.no_grad()
def climb(parameters: list[Tensor], radius: float) -> list[Tensor]:
    """Moves weights by `radius` along the gradient (SAM); returns the moves, to be taken back."""
    norm = torch.stack([p.grad.norm() for p in parameters]).norm() + 1e-12
    moves = [p.grad * (radius / norm) for p in parameters]
    torch._foreach_add_(parameters, moves)
    return moves
