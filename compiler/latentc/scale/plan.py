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
from latentc.ir.report import short
from latentc.measure.tables import aligned
from latentc.scale.counts import Counts, count
from latentc.scale.request import Request
from latentc.spec import Spec

USABLE = 0.92  # fraction of the memory; the rest is for the CUDA context, workspaces and fragmentation
REACHED = 0.8  # fraction of the bandwidth of links and networks
READING = 2e9  # bytes per second that a node reads from its disk or a shared file system

Limit = Literal["memory", "compute", "network", "reading"]
_PARTS = {
    "weights": "weights, float32",
    "averages": "averaged weights",
    "gradients": "gradients",
    "optimizer": "optimiser state",
    "buckets": "buckets of DDP",
    "gathered": "gathered blocks",
    "copies": "bfloat16 copies of weights",
}
_LIMITS = {
    "memory": "memory: the batch does not fit",
    "compute": "compute",
    "network": "network: compute waits for it",
    "reading": "reading of the data",
}


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
        return _text(self)

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


def _text(plan: Plan) -> str:
    """The table, a column per layout, and the assumptions."""
    request, counts = plan.request, plan.counts
    device, layouts = request.accelerator, list(plan.layouts.values())
    nodes = f"{request.nodes} node{'s' if request.nodes > 1 else ''} of {min(device.per_node, request.gpus)}"
    head = [
        f"{plan.name} on {request.gpus} × {device.title} ({nodes}), {plan.precision}",
        f"  {short(counts.weights.trained, '')} trained weights"
        + (f", {short(counts.weights.frozen, '')} frozen" if counts.weights.frozen else "")
        + f"; {short(counts.flops, '')} FLOPs per sample and step, {short(counts.again_flops, '')} more with recompute",
        f"  batch {plan.batch:,} over {request.gpus} × {plan.accumulate}: {plan.per_pass:g} samples per forward pass",
        f"  activations per sample: {short(counts.saving.eager, 'B')}, with recompute "
        f"{short(counts.saving.recompute, 'B')}, compiled at least {short(counts.saving.compiled, 'B')}",
        "",
    ]
    rows: list[tuple[str, list[str]]] = [("", [_title(layout, plan) for layout in layouts])]
    for part, words in _PARTS.items():
        values = [layout.memory.get(part, 0.0) for layout in layouts]
        if any(values):
            rows.append((words, [short(value, "B") if value else "" for value in values]))
    rows += [
        ("activations of the batch", [short(layout.activations, "B") for layout in layouts]),
        ("memory per accelerator", [short(layout.fixed + layout.activations, "B") for layout in layouts]),
        ("largest batch per accelerator", [f"{layout.largest['eager']:,}" for layout in layouts]),
        ("… with recompute", [f"{layout.largest['recompute']:,}" for layout in layouts]),
        ("… compiled, at best", [f"{layout.largest['compiled']:,}" for layout in layouts]),
        ("recompute in this plan", ["yes" if layout.recompute else "no" for layout in layouts]),
        ("", [""] * len(layouts)),
        ("compute per step", [_time(layout.compute_time) for layout in layouts]),
        ("traffic per step and accelerator", [short(layout.traffic, "B") for layout in layouts]),
        ("network per step", [_time(layout.network_time) for layout in layouts]),
        ("optimiser per step", [_time(layout.optimizer_time) for layout in layouts]),
        ("step", [_time(layout.step_time) for layout in layouts]),
        ("samples per second", [f"{layout.images_per_second:,.0f}" for layout in layouts]),
        ("data read per node", [f"{short(layout.reading, 'B')}/s" for layout in layouts]),
        (f"time of {plan.steps:,} steps", [_duration(layout.hours) for layout in layouts]),
        ("accelerator hours", [f"{layout.gpu_hours:,.0f}" for layout in layouts]),
        ("limit", [_LIMITS[layout.limit] for layout in layouts]),
    ]
    table = [f"  {line}" for line in aligned([[name, *cells] for name, cells in rows], left=1)]
    notes = [
        "",
        f"assumed: {request.utilisation:.0%} of the peak FLOP/s, {REACHED:.0%} of the bandwidth of links and network, "
        "communication overlaps compute,",
        f"  {USABLE:.0%} of the memory usable, {short(READING, 'B')}/s read per node; latencies are not counted. "
        "docs/scale.md explains each line.",
        f"  {device.source}",
        *_advice(plan),
    ]
    return "\n".join(line.rstrip() for line in [*head, *table, *notes]) + "\n"


def _title(layout: Layout, plan: Plan) -> str:
    return f"{layout.parallel}{' (the spec)' if layout.parallel == plan.parallel and plan.request.gpus > 1 else ''}"


def _advice(plan: Plan) -> list[str]:
    """Suggestions if the batch does not divide, does not fit, or is small."""
    lines = []
    chosen = plan.layouts.get(plan.parallel) or next(iter(plan.layouts.values()))
    if plan.parallel == "none" and plan.request.gpus > 1:
        lines.append("  train.parallel is none: choose ddp or fsdp for several accelerators")
    if plan.per_pass != int(plan.per_pass):
        share = plan.request.gpus * plan.accumulate
        lines.append(
            f"  train.batch_size {plan.batch} is not divisible by {share} (accelerators × accumulate): train.py stops"
        )
    if not chosen.fits:
        most = max(chosen.largest["eager"], chosen.largest["recompute"])
        if most:
            parts = -(-plan.batch // (plan.request.gpus * most))
            lines.append(f"  it fits with train.accumulate: {parts} and recompute ({most} samples per forward pass)")
        else:
            lines.append("  no batch fits: use fsdp, more accelerators, or larger ones")
    elif plan.per_pass < 8 and chosen.largest["eager"] >= 16 and plan.request.gpus > 1:
        lines.append(
            "  few samples per accelerator keep it less busy than assumed: raise train.batch_size or use fewer"
        )
    return lines


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _duration(hours: float) -> str:
    return f"{hours * 60:.3g} min" if hours < 1 else f"{hours:.3g} h" if hours < 48 else f"{hours / 24:.3g} days"
