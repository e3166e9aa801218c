"""Data-dependent initialisation of weight normalisation (Salimans and Kingma 2016, arXiv:1602.07868)."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


@torch.no_grad()
def start_from_data(networks: Iterable[nn.Module], loss: Callable[[], Any], device: torch.device) -> None:
    """Gives layers their gain and bias in one evaluation of the loss, each by what reaches it.

    Processes average over all their samples; they exchange numbers on `device`.
    """

    def averaged(x: Tensor) -> Tensor:
        if not dist.is_initialized():
            return x
        mean = x.to(device)
        dist.all_reduce(mean)
        return (mean / dist.get_world_size()).to(x.device)

    def set_from(layer: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor:
        waiting.pop(layer).remove()  # a layer that is called twice is initialised from the first call
        channel = out.ndim - 1 if isinstance(layer, nn.Linear) else 1
        axes = [axis for axis in range(out.ndim) if axis != channel]
        column = [-1 if axis == channel else 1 for axis in range(out.ndim)]
        mean = averaged(out.mean(axes))
        centred = out - mean.view(column)
        scale = layer.output_std / (averaged(centred.square().mean(axes)) + 1e-10).sqrt()
        layer.g.mul_(scale)
        layer.bias.sub_(mean).mul_(scale)
        return centred * scale.view(column)

    layers = [layer for network in networks for layer in network.modules() if getattr(layer, "output_std", 0)]
    waiting: dict[nn.Module, RemovableHandle] = {x: x.register_forward_hook(set_from) for x in layers}
    loss()
    for handle in waiting.values():  # of layers that this loss does not call
        handle.remove()
