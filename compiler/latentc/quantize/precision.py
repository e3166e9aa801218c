"""Before a build in half precision: checks that the values along a real trajectory fit the dtypes of the graph.

A half-precision graph overflows silently: a sum beyond 65504 is infinite in float16, and the image is noise. So the
networks are run in numpy as their types declare (see `Interpreter`), on inputs a sampler gives them, if that is cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
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
from latentc.quantize.model import Model
from latentc.quantize.trajectories import recorded
from latentc.weights import materialise

LARGEST = 2e11
"""Largest number of floating-point operations to run in numpy, and to sample a trajectory for it."""

STEPS = 4  # steps of a shortened sampler, if its number of steps can be set
POINTS = 3  # calls of each method


def check_range(
    model: Model,
    final: Lowered,
    tell: Callable[[str], None],
    warn: Callable[[str], None],
    feeds: Mapping[str, Sequence[Feed]] | None = None,
) -> None:
    """Look for values beyond float16 in the networks of `final`, the module to export; warn if that takes too long.

    `feeds`: recorded calls by method; by default those of a short trajectory of one sample. DiagnosticError E0806 names
    the first value that overflows by its call path.
    """
    spec, lowered = model.spec, model.lowered
    if spec.target.precision != "fp16":
        return  # bfloat16 has the range of float32
    tell("checking ranges")
    skipped = "whether values fit fp16 was not checked:"
    work = sum(flops(lowered.module, lowered.networks[name].main.function) for name in lowered.sampled)
    if 2 * POINTS * work > LARGEST:
        warn(f"{skipped} one run of its networks is {work / 1e9:.0f} GFLOP, which is too slow in numpy")
        return
    if feeds is None:
        short = lower(spec, (STEPS,)) if getattr(spec.sampler, "steps", 0) > STEPS else lowered
        cost = flops(short.module, short.programs[0].entry)
        if cost > LARGEST:
            warn(f"{skipped} sampling a trajectory is {cost / 1e9:.0f} GFLOP")
            return
        feeds = recorded(replace(model, lowered=short), [0], 0, POINTS).feeds
    for entry, calls in feeds.items():
        prefix = entry.split(".")[0] + "."
        arrays = {p.removeprefix(prefix): materialise(e) for p, e in model.weights.items() if p.startswith(prefix)}
        for feed in calls[:: max(1, len(calls) // POINTS)]:
            # Under batched guidance the first row is conditional and the last unconditional.
            inputs = [array[[0, -1]] if array.ndim else array for array in feed.values()]
            overflow = first_overflow(final.module, entry, arrays, inputs)
            if overflow is not None:
                wide = "bf16" if "bf16" in ENGINES[spec.target.engine].precisions else "fp32"
                raise DiagnosticError(
                    Diagnostic(
                        "E0806",
                        f"the network `{entry.split('.')[0]}` does not fit float16: {overflow}",
                        spec.span("target", "precision"),
                        notes=("found by running it in numpy along a trajectory, with the engine's rounding",),
                        help=f"use `target.precision: {wide}`, which has a larger range",
                    )
                )


class Overflow(Exception):
    """The first value that is not finite: its call path and name (`blocks.3.mlp.h`), its op and dtype.

    `largest`: the largest magnitude among the op's operands.
    """

    def __init__(self, path: str, op: str, dtype: str, largest: float) -> None:
        self.path, self.dtype = path, dtype
        operands = f"its operands reach {largest:.3g} in magnitude"
        super().__init__(f"{path}, the result of {op} in {dtype}, is not finite; {operands}")


def first_overflow(module: Module, entry: str, weights: Mapping[str, Array], inputs: Sequence[Any]) -> Overflow | None:
    """Run an entry as its types declare; the first value that is not finite, if any. `weights` by state-dict path.

    Raises ValueError as the interpreter does.
    """
    try:
        with np.errstate(all="ignore"):
            _Watching(module, weights, "declared").run(entry, *inputs)
    except Overflow as found:
        return found
    return None


class _Watching(Interpreter):
    """Raises at the first value that is not finite: later ones follow from it."""

    def node(self, node: Node, xs: list[Array], prefix: str = "") -> Sequence[Array]:
        outs = super().node(node, xs, prefix)
        if node.op in CONTROL:
            return outs
        for value, array in zip(node.outputs, outs, strict=True):
            if value.type.is_float and not np.isfinite(array.astype(np.float64)).all():
                floats = [x.astype(np.float64) for x, v in zip(xs, node.inputs, strict=True) if v.type.is_float]
                largest = max((float(np.max(np.abs(x), initial=0.0)) for x in floats), default=0.0)
                raise Overflow(join(prefix, value.name), node.op, value.type.dtype, largest)
        return outs
