"""Orthogonal regularisation: pulls different rows of a matrix towards orthogonality."""

import torch
from torch import Tensor


@torch.no_grad()
def straighten(weights: list[Tensor], strength: float) -> None:
    """Adds the gradient of `strength` / 2 times squared products of different rows (Brock et al. 2019)."""
    for weight in weights:
        if weight.grad is None:
            continue
        whole = weight.full_tensor() if hasattr(weight, "full_tensor") else weight
        rows = whole.flatten(1)
        products = (rows @ rows.T).fill_diagonal_(0)
        slope = (2 * strength * products @ rows).reshape(whole.shape)
        weight.grad.add_(sharded(slope, weight))


def sharded(whole: Tensor, like: Tensor) -> Tensor:
    """The tensor as the weight is: split among processes or not."""
    if not hasattr(like, "full_tensor"):
        return whole
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(whole, like.device_mesh, like.placements)
