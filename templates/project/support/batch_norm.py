"""Batch normalisation with statistics over the batches of all processes."""

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Sum(torch.autograd.Function):
    """The sum of a tensor over all processes, whose gradient is that of the sum of their losses."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return Sum.apply(grad)


class Synchronised:
    """A batch norm whose mean and variance in training are those of the batches of all processes.

    Unlike nn.SyncBatchNorm it runs on CPUs and can be differentiated twice. All batches must be of one size.
    """

    @torch.compiler.disable
    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        processes, axes = dist.get_world_size(), (0, *range(2, x.ndim))
        column = (1, -1, *(1 for _ in axes[1:]))
        h = x.float()
        mean = Sum.apply(h.mean(axes)) / processes
        h = h - mean.view(column)
        variance = Sum.apply(h.square().mean(axes)) / processes
        count = processes * x.numel() // x.shape[1]
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        h = h * (variance + self.eps).rsqrt().view(column)
        if self.affine:
            h = h * self.weight.view(column) + self.bias.view(column)
        return h.type_as(x)


class SyncBatchNorm1d(Synchronised, nn.BatchNorm1d):
    pass


class SyncBatchNorm2d(Synchronised, nn.BatchNorm2d):
    pass


def synchronise(network: nn.Module) -> None:
    """Lets the batch norms of a network use the batches of all processes, in place."""
    for module in network.modules():
        if type(module) is nn.BatchNorm1d:
            module.__class__ = SyncBatchNorm1d
        elif type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm2d
