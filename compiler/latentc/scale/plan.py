"""The plan of a training run: memory per accelerator, traffic, time, and what limits it.

The arithmetic is that of the emitted project (templates/project): float32 weights, gradients and moments, autocast to
bfloat16, DDP with buckets beside the gradients, FSDP2 with each block gathered in float32 while it works. docs/scale.md
goes through it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from latentc.components.contract import Lowered
from latentc.scale.counts import Counts, count
from latentc.scale.request import Request
from latentc.spec import Spec

USABLE = 0.92  # fraction of the memory; the rest is for the CUDA context, workspaces and fragmentation
REACHED = 0.8  # fraction of the bandwidth of links and networks
READING = 2e9  # bytes per second that a node reads from its disk or a shared file system

Limit = Literal["memory", "compute", "network", "reading"]


@dataclass(frozen=True)
class Layout:
    """One way to spread training over the accelerators (`ddp` or `fsdp`). Bytes are per accelerator, times in seconds.

    `memory` has the parts that do not depend on the batch. `largest` are the largest batches per accelerator: eager,
    with `recompute`, and compiled at best. `recompute` says that the spec's batch fits only, or by its own setting,
    with `recompute`; `fits` is False if it does not even then.
    """

    parallel: str
    memory: dict[str, float]
    activations: float
    largest: dict[str, int]
    recompute: bool
    fits: bool
    traffic: float
    compute_time: float
    network_time: float
    optimizer_time: float
    step_time: float
    images_per_second: float
    reading: float  # bytes per second per node
    limit: Limit
    hours: float
    gpu_hours: float

    @property
    def fixed(self) -> float:
        return sum(self.memory.values())


@dataclass(frozen=True)
class Plan:
    """Plans of a spec for a request, one per layout."""

    name: str
    request: Request
    counts: Counts
    batch: int
    accumulate: int
    steps: int
    precision: str
    parallel: str
    layouts: Mapping[str, Layout]

    @property
    def per_pass(self) -> float:
        """Samples per accelerator and forward pass."""
        return self.batch / (self.request.gpus * self.accumulate)

    def text(self) -> str:
        """As a table for a terminal."""
        from latentc.scale.text import text_of

        return text_of(self)

    def data(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        found = asdict(self)
        for name, layout in self.layouts.items():
            found["layouts"][name]["fixed"] = layout.fixed
        return {**found, "samples_per_pass": self.per_pass, "nodes": self.request.nodes}


def plan(spec: Spec, lowered: Lowered, request: Request) -> Plan:
    """Plans for DDP and FSDP, or for one accelerator. DiagnosticError E0708 if the spec has no objective."""
    counts = count(spec, lowered)
    kinds = ("ddp", "fsdp") if request.gpus > 1 else ("none",)
    return Plan(
        spec.name,
        request,
        counts,
        spec.train.batch_size,
        spec.train.accumulate,
        spec.train.steps,
        spec.train.precision,
        spec.train.parallel if request.gpus > 1 else "none",
        {kind: _layout(spec, counts, request, kind) for kind in kinds},
    )


def _layout(spec: Spec, counts: Counts, request: Request, parallel: str) -> Layout:
    train, device, gpus, weights = spec.train, request.accelerator, request.gpus, counts.weights
    per_pass = train.batch_size / (gpus * train.accumulate)
    whole = math.ceil(per_pass)
    memory = _memory(counts, train.precision, train.accumulate, gpus, parallel)
    again = train.recompute
    kept = {"eager": counts.saving.eager, "recompute": counts.saving.recompute, "compiled": counts.saving.compiled}
    copies = {
        "eager": memory["copies"],
        "recompute": _copies_again(counts, train.precision),
        "compiled": memory["copies"],
    }
    bare = sum(memory.values()) - memory["copies"]
    room = {how: USABLE * device.memory - bare - copies[how] for how in kept}
    largest = {how: max(0, int(room[how] // kept[how])) for how in kept}
    if not again and largest["eager"] < whole <= largest["recompute"]:
        again = True
    how = "recompute" if again else "eager"
    memory["copies"] = copies[how]
    fits = largest[how] >= whole

    peak = device.bf16 if train.half else device.tf32
    flops = counts.flops + (counts.again_flops if again else 0)
    compute = flops * train.batch_size / gpus / (peak * request.utilisation)
    traffic = _traffic(weights.trained, weights.frozen, train.accumulate, gpus, parallel)
    network = traffic / (REACHED * _bandwidth(request))
    touched = (weights.trained * 12 + 2 * weights.state_bytes + weights.averaged * 12) / (
        gpus if parallel == "fsdp" else 1
    )
    optimizer = touched / device.bandwidth
    step = max(compute, network) + optimizer
    rate = train.batch_size / step
    reading = rate * counts.data_bytes / request.nodes
    if not fits:
        limit: Limit = "memory"
    elif reading > READING:
        limit = "reading"
    else:
        limit = "network" if network > compute else "compute"
    hours = train.steps * step / 3600
    return Layout(
        parallel,
        memory,
        kept[how] * whole,
        largest,
        again,
        fits,
        traffic,
        compute,
        network,
        optimizer,
        step,
        rate,
        reading,
        limit,
        hours,
        hours * gpus,
    )


def _memory(counts: Counts, precision: str, accumulate: int, gpus: int, parallel: str) -> dict[str, float]:
    """Bytes per accelerator that do not depend on the batch."""
    w = counts.weights
    parts = gpus if parallel == "fsdp" else 1
    memory = {
        "weights": 4 * w.all / parts,
        "averages": 4 * w.averaged / parts,
        "gradients": 4 * w.trained / parts,
        "optimizer": w.state_bytes / parts,
        "copies": 2.0 * w.matrices if precision != "fp32" else 0.0,
    }
    if parallel == "ddp":
        memory["buckets"] = 4.0 * w.trained
    if parallel == "fsdp":  # the root, the current block and the next one, and the gradients of one block
        memory["gathered"] = 4.0 * (w.root + 3 * w.block)
        if accumulate > 1:  # gradients are accumulated whole before they are reduced
            memory["gradients"] += 4.0 * w.trained
    return memory


def _copies_again(counts: Counts, precision: str) -> float:
    """Bytes of 16-bit copies of weights with `recompute`: of one block at a time."""
    w = counts.weights
    return 2.0 * (w.outer_matrices + w.block_matrices) if precision != "fp32" else 0.0


def _traffic(trained: int, frozen: int, accumulate: int, gpus: int, parallel: str) -> float:
    """Bytes that an accelerator receives per step by ring algorithms.

    DDP all-reduces the gradients: twice their size. FSDP gathers the weights for each forward and each backward pass
    (frozen ones for the forward pass), and reduces the gradients once.
    """
    if parallel == "none":
        return 0.0
    ring = (gpus - 1) / gpus
    if parallel == "ddp":
        return 2 * 4 * trained * ring
    return 4 * (accumulate * (2 * trained + frozen) + trained) * ring


def _bandwidth(request: Request) -> float:
    """Bytes per second through an accelerator's part of a ring. Between nodes, rings share all network cards."""
    device = request.accelerator
    if request.gpus <= device.per_node:
        return device.link
    return min(device.link, device.network * device.per_node)
