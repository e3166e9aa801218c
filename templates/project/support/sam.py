"""Sharpness-aware minimisation: the gradient is taken at a nearby point of higher loss."""

import torch
from torch import Tensor


@torch.no_grad()
def climb(parameters: list[Tensor], radius: float) -> list[Tensor]:
    """Moves weights by `radius` along the gradient (SAM); returns the moves, to be taken back.

    Weights that the loss does not reach stay where they are.
    """
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm() + 1e-12
    moves = [gradient * (radius / norm) for gradient in gradients]
    torch._foreach_add_(parameters, moves)
    return moves
