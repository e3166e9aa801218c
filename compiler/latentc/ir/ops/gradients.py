"""What the gradients of several ops are built from."""

from __future__ import annotations

from typing import Any

import numpy as np

from latentc.ir.ops.row import axis_of, need
from latentc.ir.types import Sym, TensorType


def sum_to(b: Any, g: Any, type: TensorType) -> Any:
    """Sums a gradient over the axes along which an operand of this type was broadcast."""
    extra = g.type.rank - type.rank
    broadcast = [i + extra for i, d in enumerate(type.shape) if d == 1 and g.shape[i + extra] != 1]
    axes = (*range(extra), *broadcast)
    summed = b.sum(g, axes=axes, keepdims=False) if axes else g
    return summed if summed.shape == type.shape else b.reshape(summed, shape=type.shape)


def along(b: Any, x: Any, index: Any, g: Any, axis: int) -> Any:
    """Gradient of x in take_along(x, index, axis): adds each element of g at the place it was picked from."""
    axis = axis_of(axis, x.type.rank)
    size, picked = x.shape[axis], index.shape[axis]
    need(not isinstance(size, Sym) and not isinstance(picked, Sym), "picks along a run-time size have no derivative")
    wide = (*index.shape[:axis], picked, 1, *index.shape[axis + 1 :])
    places = np.arange(int(size)).reshape(-1, *[1] * (x.type.rank - axis - 1))
    hit = b.equal(b.reshape(index, shape=wide), b.constant(places, index.type.dtype))
    return b.sum(b.where(hit, b.reshape(g, shape=wide), 0.0), axes=(axis,), keepdims=False)
