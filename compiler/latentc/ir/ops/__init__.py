"""The op tables: `OPS`, one row per op, and `CONTROL`, the ops whose types come from a function that they name."""

from latentc.ir.ops import (
    attention,
    conv,
    elementwise,
    experts,
    float4,
    grid_sample,
    image,
    linear,
    magnitude,
    norm,
    quantize,
    reduce,
    scan,
    shape,
    training,
)
from latentc.ir.ops.control import CONTROL
from latentc.ir.ops.row import Op, OpError

OPS: dict[str, Op] = {
    **elementwise.OPS,
    **shape.OPS,
    **reduce.OPS,
    **linear.OPS,
    **conv.OPS,
    **norm.OPS,
    **magnitude.OPS,
    **attention.OPS,
    **quantize.OPS,
    **float4.OPS,
    **experts.OPS,
    **scan.OPS,
    **image.OPS,
    **grid_sample.OPS,
    **training.OPS,
}

__all__ = ["CONTROL", "OPS", "Op", "OpError"]
