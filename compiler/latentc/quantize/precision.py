"""Before a build in half precision: whether the values along a real trajectory fit the dtypes of the graph.

A half-precision graph overflows silently: a sum beyond 65504 is infinite in float16, and the image is noise. So the
networks are run in numpy as their types declare (see `Interpreter`), on inputs a sampler gives them, if that is cheap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from latentc.components.contract import Lowered
from latentc.diagnostics import Diagnostic, DiagnosticError
from latentc.engines import ENGINES
from latentc.ir.core import Module, Node, join
from latentc.ir.costs import flops
from latentc.ir.interpret import Interpreter
from latentc.ir.ops import CONTROL
from latentc.lower import lower
from latentc.measure.execute import Array, Feed
from latentc.quantize.trajectories import recorded
from latentc.spec import Spec
from latentc.weights import Expr, materialise

LARGEST = 2e11
"""Largest number of floating-point operations to run in numpy, and to sample a trajectory for it."""

STEPS = 4  # of a shortened sampler, if its number of steps can be set
POINTS = 3  # calls of each method


def check_precision(
    lowered: Lowered,
    optimised: Lowered,
    spec: Spec,
    weights: Mapping[str, Expr],
    feeds: Mapping[str, Sequence[Feed]] | None = None,
) -> str | None:
    """Look for values beyond float16 in the networks of `optimised`, the module to export.

    `feeds`: recorded calls by method; by default those of a short trajectory of one sample. Returns why the check was
    skipped, or None. DiagnosticError E0806 names the first value that overflows by its call path.
    """
    if spec.target.precision != "fp16":
        return None  # bfloat16 has the range of float32
    work = sum(flops(lowered.module, lowered.networks[name].main.function) for name in lowered.sampled)
    if 2 * POINTS * work > LARGEST:
        return f"one run of its networks is {work / 1e9:.0f} GFLOP, which is too slow in numpy"
    if feeds is None:
        short = lower(spec, (STEPS,)) if getattr(spec.sampler, "steps", 0) > STEPS else lowered
        cost = flops(short.module, short.programs[0].entry)
        if cost > LARGEST:
            return f"sampling a trajectory is {cost / 1e9:.0f} GFLOP"
        feeds = recorded(short, spec, weights, [0], 0, POINTS).feeds
    for entry, found in feeds.items():
        network = entry.split(".")[0]
        own = _own(weights, network)
        for feed in found[:: max(1, len(found) // POINTS)]:
            # Under batched guidance the first row is conditional and the last unconditional.
            inputs = [array[[0, -1]] if array.ndim else array for array in feed.values()]
            fault = check_ranges(optimised.module, entry, own, inputs)
            if fault is not None:
                raise _overflow(network, str(fault), spec)
    return None


def _own(weights: Mapping[str, Expr], network: str) -> dict[str, Array]:
    prefix = f"{network}."
    return {path.removeprefix(prefix): materialise(expr) for path, expr in weights.items() if path.startswith(prefix)}


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


# ---- ranges


@dataclass(frozen=True)
class Fault:
    """The first value that is not finite: its call path and name (`blocks.3.mlp.h`), its op and dtype.

    `largest_operand`: the largest magnitude among the op's operands.
    """

    path: str
    op: str
    dtype: str
    largest_operand: float

    def __str__(self) -> str:
        return (
            f"{self.path}, the result of {self.op} in {self.dtype}, is not finite; "
            f"its operands are up to {self.largest_operand:.3g}"
        )


def check_ranges(module: Module, entry: str, weights: Mapping[str, Array], inputs: Sequence[Any]) -> Fault | None:
    """Run an entry as its types declare; the first value that is not finite, if any. `weights` by state-dict path.

    Raises ValueError as the interpreter does.
    """
    try:
        with np.errstate(all="ignore"):
            _Watching(module, weights, "declared").run(entry, *inputs)
    except _Found as found:
        return found.fault
    return None


class _Found(Exception):
    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault


class _Watching(Interpreter):
    """Raises at the first value that is not finite: later ones follow from it."""

    def node(self, node: Node, xs: list[Array], prefix: str = "") -> Sequence[Array]:
        outs = super().node(node, xs, prefix)
        if node.op in CONTROL:
            return outs
        for value, array in zip(node.outputs, outs, strict=True):
            if value.type.is_float and not np.isfinite(array.astype(np.float64)).all():
                raise _Found(Fault(join(prefix, value.name), node.op, value.type.dtype, _largest(node, xs)))
        return outs


def _largest(node: Node, xs: Sequence[Array]) -> float:
    floats = [x for x, v in zip(xs, node.inputs, strict=True) if v.type.is_float and x.size]
    return max((float(np.max(np.abs(x.astype(np.float64)))) for x in floats), default=0.0)


__all__ = ["LARGEST", "Fault", "check_precision", "check_ranges"]
