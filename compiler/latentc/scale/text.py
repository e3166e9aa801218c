"""A plan as a table for a terminal."""

from __future__ import annotations

from latentc.ir.report import short
from latentc.measure.tables import aligned
from latentc.scale.plan import REACHED, READING, USABLE, Layout, Plan

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


def text_of(plan: Plan) -> str:
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
        "communication behind compute,",
        f"  {USABLE:.0%} of the memory usable, {short(READING, 'B')}/s read per node; latencies are not counted. "
        "docs/scale.md explains each line.",
        f"  {device.source}",
        *_advice(plan),
    ]
    return "\n".join(line.rstrip() for line in [*head, *table, *notes]) + "\n"


def _title(layout: Layout, plan: Plan) -> str:
    return f"{layout.parallel}{' (the spec)' if layout.parallel == plan.parallel and plan.request.gpus > 1 else ''}"


def _advice(plan: Plan) -> list[str]:
    """What to change if the batch does not divide, does not fit, or is small."""
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
