"""This process and its peers, and networks distributed over them with DDP or FSDP2."""

import os
import signal
import sys
from datetime import timedelta
from functools import partial
from inspect import isfunction
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

# How long processes wait for each other: the first one draws samples alone.
WAIT = timedelta(hours=3)


class Run:
    """This process among its peers."""

    def __init__(self, train: dict[str, Any]):
        self.rank, self.world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        local = int(os.environ.get("LOCAL_RANK", 0))
        cuda = torch.cuda.is_available()
        self.device = torch.device("cuda", local) if cuda else torch.device("cpu")
        if cuda:
            torch.cuda.set_device(self.device)
        if self.world > 1:
            dist.init_process_group("nccl" if cuda else "gloo", timeout=WAIT)
        self.parallel = train["parallel"] if self.world > 1 else "none"
        if self.world > 1 and self.parallel == "none":
            raise SystemExit("parallel: none, but there are several processes: choose ddp or fsdp")
        self.main = self.rank == 0
        self.stopped, self.flag = False, torch.zeros((), device=self.device)
        self.terminals = [stream for stream in (sys.stdout, sys.stderr) if stream.isatty()]
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # ignored under nohup
                signal.signal(number, self._stop)

    def _stop(self, number: int, frame: Any) -> None:
        self.stopped = True
        if number == signal.SIGHUP:  # the terminal is gone, so writing to it would fail
            for stream in self.terminals:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

    def should_stop(self, step: int) -> bool:
        """True if it is time to save and leave. All processes must agree, so they ask each other every few steps."""
        if self.world == 1:
            return self.stopped
        if step % 10:
            return False
        self.flag.fill_(float(self.stopped))
        dist.all_reduce(self.flag)
        return self.flag.item() > 0

    def agreed(self, value: Any) -> Any:
        """The first process's value."""
        found = [value]
        if self.world > 1:
            dist.broadcast_object_list(found)
        return found[0]

    def gathered(self, value: Any) -> list[Any]:
        """The value of each process."""
        found = [value] * self.world
        if self.world > 1:
            dist.all_gather_object(found, value)
        return found

    def close(self) -> None:
        """Leaves when all are done.

        With gloo the process ends here: taking its group apart can wait for ever for gloo's own thread, which
        waits for Python's lock to let go of a last tensor (torch 2.13). Its connections close with it, so it
        waits until no other process is in a collective operation.
        """
        if not dist.is_initialized():
            return
        dist.all_reduce(self.flag)
        if dist.get_backend() == "gloo":
            store, ranks = dist.distributed_c10d._get_default_store(), range(self.world)
            store.set(f"done {self.rank}", "")
            store.wait([f"done {rank}" for rank in ranks])
            if self.main:  # whose process may hold the store
                store.wait([f"left {rank}" for rank in ranks[1:]])
            store.set(f"left {self.rank}", "")
            sys.stdout.flush()
            os._exit(0)
        dist.destroy_process_group()


# region methods
def methods_of(module: nn.Module) -> list[str]:
    """Methods other than forward that read a module's weights, such as a token model's decode."""
    own = [name for name, value in vars(type(module)).items() if isfunction(value) and name[0] != "_"]
    return [name for name in own if name not in ("forward", "reset_parameters")]


# endregion
def blocks_of(network: nn.Module) -> list[nn.Module]:
    """The members of its module lists; one that holds others comes before them."""
    lists = [module for module in network.modules() if isinstance(module, nn.ModuleList)]
    return [b for blocks in lists for b in blocks if not isinstance(b, nn.ModuleList | nn.ModuleDict)]


def recompute(network: nn.Module) -> None:
    """Keeps only the inputs of blocks for the backward pass, which recomputes their forward pass.

    Blocks with buffers are not recomputed: a second pass would update running statistics twice.
    """
    inner: set[nn.Module] = set()
    for block in blocks_of(network):
        if block not in inner and next(block.buffers(), None) is None:
            inner.update(block.modules())
            # region forward_derivatives
            block.forward = partial(recomputed, block.forward)
            # endregion
            # region values
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
            # endregion


# region forward_derivatives
def recomputed(forward: Any, *args: Any) -> Any:
    if forward_ad._current_level >= 0:
        raise SystemExit("recompute: a loss with torch.func.jvp cannot recompute its blocks")
    return checkpoint(forward, *args, use_reentrant=False)


# endregion
def shard(network: nn.Module, run: Run, trained: bool) -> None:
    """FSDP2: each block of a module list, then the rest, is gathered only while in use.

    After a forward pass the rest stays gathered for the backward pass, if the network is trained.
    # region scalars
    Scalars have no dimension to shard: they stay whole on every process, which averages their gradients itself.
    # endregion
    """
    from torch.distributed import fsdp
    from torch.distributed.device_mesh import init_device_mesh

    # region scalars
    scalars = {weight for weight in network.parameters() if weight.ndim == 0}
    for weight in scalars:
        weight.data = weight.data.to(run.device)
        if trained:
            weight.register_post_accumulate_grad_hook(average_gradient)
    # endregion
    mesh = init_device_mesh(run.device.type, (run.world,))
    for module in [*reversed(blocks_of(network)), network]:  # blocks inside a block come first
        # region methods
        methods = methods_of(module)  # before sharding, which changes the module's class
        # endregion
        # region scalars
        fsdp.fully_shard(module, mesh=mesh, reshard_after_forward=None if trained else True, ignored_params=scalars)
        # endregion
        # region dimensions
        fsdp.fully_shard(module, mesh=mesh, reshard_after_forward=None if trained else True)
        # endregion
        # region methods
        for name in methods:
            fsdp.register_fsdp_forward_method(module, name)
        # endregion


# region scalars
def average_gradient(weight: Tensor) -> None:
    """Averages a gradient over all processes; what was averaged before stays as it is."""
    dist.all_reduce(weight.grad)
    weight.grad /= dist.get_world_size()


# endregion
def reshard(network: nn.Module) -> None:
    """Frees the weights that FSDP has gathered."""
    for module in network.modules():
        if hasattr(module, "reshard"):
            module.reshard()


# region methods
class Ddp(DistributedDataParallel):
    """DDP for networks that a loss calls by other methods than forward, such as an encoder's encode."""

    def __getattr__(self, name: str) -> Any:
        if name != "module" and name in methods_of(self.module):
            return partial(self._run, name)
        return super().__getattr__(name)

    def _run(self, name: str, *args: Any) -> Any:
        network = self.module
        network.forward = getattr(network, name)  # DDP averages only gradients of its own forward
        try:
            return self(*args)
        finally:
            del network.forward


# endregion
def wrap(network: nn.Module, run: Run, train: dict[str, Any]) -> nn.Module:
    """The network as the loss calls it."""
    if train["recompute"]:
        recompute(network)
    if train["compile"]:
        # region methods
        methods = methods_of(network)
        # endregion
        network.compile()  # in place, so that the names of the weights stay the same
        # region methods
        for name in methods:
            setattr(network, name, torch.compile(getattr(network, name)))
        # endregion
    if run.parallel == "ddp":
        devices = [run.device.index] if run.device.type == "cuda" else None
        # Tables that are not in checkpoints are equal everywhere: forward passes need not send them.
        tables = {name for name, _ in network.named_buffers()} - set(network.state_dict())
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(network, tables)
        # region methods
        return Ddp(network, device_ids=devices)
        # endregion
        # region forward
        return DistributedDataParallel(network, device_ids=devices)
        # endregion
    return network


def averaged(values: list[Tensor], run: Run) -> list[float]:
    """Metrics over all processes."""
    stacked = torch.stack([v.float() for v in values])
    if run.world > 1:
        dist.all_reduce(stacked)
        stacked /= run.world
    return stacked.tolist()
