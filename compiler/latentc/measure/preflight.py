"""Before a build in half precision: do the values along a real trajectory fit it? Cheap, or left out with a reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from latentc.components.contract import Lowered
from latentc.diagnostics import Diagnostic, DiagnosticError
from latentc.engines import ENGINES
from latentc.ir.report import flops
from latentc.lower import lower
from latentc.measure.calibrate import trajectories
from latentc.measure.execute import Array, Feed
from latentc.measure.ranges import check_ranges
from latentc.spec import Spec
from latentc.weights import Expr, materialise

LARGEST = 2e11
"""Floating-point operations up to which networks are looked at in numpy, and a trajectory is sampled for it."""

STEPS = 4  # of the sampler that is cut short, where it says how many it makes
POINTS = 3


def check_precision(
    lowered: Lowered,
    optimised: Lowered,
    spec: Spec,
    weights: Mapping[str, Expr],
    feeds: Mapping[str, Sequence[Feed]] | None = None,
) -> str | None:
    """Looks for values beyond float16 in the networks of a module typed so; `optimised` is what will be exported.

    `feeds`: evaluations by network, those that calibration saw; else a short trajectory of one sample is made. Returns
    why nothing was looked at, or None. DiagnosticError E0806 names the first value that is lost by its call path.
    """
    if spec.target.precision != "fp16":
        return None  # bfloat16 reaches as far as float32
    work = sum(flops(lowered.module, lowered.networks[name].methods["forward"].function) for name in lowered.sampled)
    if 2 * POINTS * work > LARGEST:
        return f"one run of its networks is {work / 1e9:.0f} GFLOP, which numpy is too slow for"
    if feeds is None:
        short = _short(lowered, spec)
        cost = flops(short.module, short.programs[0].entry)
        if cost > LARGEST:
            return f"sampling a trajectory is {cost / 1e9:.0f} GFLOP"
        feeds = trajectories(short, spec, weights, [0], 0, POINTS)[0]
    for name, found in feeds.items():
        own = _own(weights, name)
        for feed in found[:: max(1, len(found) // POINTS)]:
            # Where guidance is batched the first row has its class and the last has none.
            inputs = [array[[0, -1]] if array.ndim else array for array in feed.values()]
            fault = check_ranges(optimised.module, f"{name}.forward", own, inputs).fault
            if fault is not None:
                raise _overflow(name, str(fault), spec)
    return None


def _own(weights: Mapping[str, Expr], network: str) -> dict[str, Array]:
    prefix = f"{network}."
    own = {path.removeprefix(prefix): expr for path, expr in weights.items() if path.startswith(prefix)}
    return {path: materialise(expr) for path, expr in own.items()}


def _short(lowered: Lowered, spec: Spec) -> Lowered:
    """The spec with a sampler of few steps, where its steps are a number that can be changed."""
    steps = getattr(spec.sampler, "steps", 0)
    return lower(spec, (STEPS,)) if steps > STEPS else lowered


def _overflow(network: str, fault: str, spec: Spec) -> DiagnosticError:
    wide = "bf16" if "bf16" in ENGINES[spec.target.engine].precisions else "fp32"
    return DiagnosticError(
        Diagnostic(
            "E0806",
            f"the network `{network}` does not fit float16: {fault}",
            spec.span("target", "precision"),
            notes=("found by running it in numpy, rounded as the engine rounds, along a trajectory of its sampler",),
            help=f"use `target.precision: {wide}`, which has a larger range",
        )
    )


__all__ = ["LARGEST", "check_precision"]
