"""Sharpness-aware minimisation: the gradient is taken at a nearby point of higher loss."""

import torch
from torch import Tensor


@torch.no_grad()
def climb(parameters: list[Tensor], radius: float) -> list[Tensor]:
    """Moves weights by `radius` along the gradient (SAM); returns the moves, to be taken back."""
    norm = torch.stack([p.grad.norm() for p in parameters]).norm() + 1e-12
    moves = [p.grad * (radius / norm) for p in parameters]
    torch._foreach_add_(parameters, moves)
    return moves
