"""Whether a module's values fit the dtypes it declares: where the first one is lost, and how near others come.

A half-precision graph overflows quietly: a sum beyond 65504 is infinite in f16, and the image is noise. The module is
run in numpy as its types say (see `Interpreter`), on inputs like those it will get.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

from latentc.ir.core import Module, Node, join
from latentc.ir.interpret import Interpreter
from latentc.ir.ops import CONTROL
from latentc.ir.types import FLOATS

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Fault:
    """The first value that is not finite: its call path and name (`blocks.3.mlp.h`), the op, and its operands' size."""

    path: str
    op: str
    dtype: str
    largest_operand: float

    def __str__(self) -> str:
        return (
            f"{self.path}, the result of {self.op} in {self.dtype}, is not finite; "
            f"its operands are up to {self.largest_operand:.3g}"
        )


@dataclass(frozen=True)
class Ranges:
    """What a run showed: the first fault, and the largest share of its dtype's range that each half value took."""

    fault: Fault | None
    shares: Mapping[str, float] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return self.fault is None

    def nearest(self, count: int = 5) -> list[tuple[str, float]]:
        """The call paths that came nearest to their dtype's largest number, with the share of it that they reached."""
        return sorted(self.shares.items(), key=lambda item: -item[1])[:count]


def check_ranges(module: Module, entry: str, weights: Mapping[str, Array], inputs: Sequence[Any]) -> Ranges:
    """Runs an entry of a module once as its types declare; `weights` by state-dict path.

    The run ends at the first value that is not finite although its operands were: what follows only spreads it. Raises
    ValueError as the interpreter does.
    """
    run = _Watching(module, weights)
    try:
        with np.errstate(all="ignore"):
            run.run(entry, *inputs)
    except _Found as found:
        return Ranges(found.fault, run.shares)
    return Ranges(None, run.shares)


class _Found(Exception):
    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault


class _Watching(Interpreter):
    """Looks at every value where it is made."""

    def __init__(self, module: Module, weights: Mapping[str, Array]) -> None:
        super().__init__(module, weights, "declared")
        self.shares: dict[str, float] = {}

    def node(self, node: Node, xs: list[Array], prefix: str = "") -> Sequence[Array]:
        outs = super().node(node, xs, prefix)
        if node.op in CONTROL:
            return outs
        for value, array in zip(node.outputs, outs, strict=True):
            if not value.type.is_float or not array.size:
                continue
            largest = float(np.max(np.abs(array.astype(np.float64))))
            path = join(prefix, value.name)
            if not np.isfinite(largest):
                raise _Found(Fault(path, node.op, value.type.dtype, _largest(node, xs)))
            if value.type.dtype in ("f16", "bf16"):
                share = largest / float(ml_dtypes.finfo(FLOATS[value.type.dtype]).max)
                self.shares[path] = max(share, self.shares.get(path, 0.0))
        return outs


def _largest(node: Node, xs: Sequence[Array]) -> float:
    floats = [x for x, v in zip(xs, node.inputs, strict=True) if v.type.is_float and x.size]
    return max((float(np.max(np.abs(x.astype(np.float64)))) for x in floats), default=0.0)


__all__ = ["Fault", "Ranges", "check_ranges"]
