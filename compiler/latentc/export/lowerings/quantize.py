"""Quantised layers: Q/DQ as in ONNX, and ONNX Runtime's own operators for products that it does not fuse from Q/DQ.

Products take and return rows, as `linear` does.
"""

from __future__ import annotations

import numpy as np

from latentc.export.graph import ELEMENT
from latentc.export.lowerings.table import Context, lower
from latentc.ir.ops.float4 import FORMATS
from latentc.ir.ops.quantize import RANGES
from latentc.ir.types import TensorType

RUNTIME = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""

ACCURACY = 4
"""Activations of a block are rounded to 8 bits as well, the form in which ONNX Runtime is fastest."""

TENSORRT = "trt"
"""The domain of TensorRT's own operators."""


def _zero(c: Context, dtype: str, scale: TensorType) -> str:
    """Zero points, one per scale."""
    return c.g.literal(np.full([int(n) for n in scale.shape], RANGES[dtype][2]), dtype, f"zero.{dtype}")  # type: ignore[arg-type]


@lower("quantize", unary=True)
def quantize(c: Context) -> None:
    c.final("QuantizeLinear", [*c.ins, _zero(c, c.attrs["to"], c.type(1))], axis=c.attrs.get("axis"))


@lower("dequantize", unary=True)
def dequantize(c: Context) -> None:
    zero = [_zero(c, "u8", c.type(1))] if c.type().dtype == "u8" else []
    c.final("DequantizeLinear", [*c.ins, *zero], axis=c.attrs.get("axis"), block_size=c.attrs.get("block"))


@lower("block_scales")
def block_scales(c: Context) -> None:
    c.final("DequantizeLinear", c.ins)


@lower("fake_quantize_nvfp4")
def fake_quantize_nvfp4(c: Context) -> None:
    """Only TensorRT has this operator; it multiplies the 4-bit floats instead of dequantising them."""
    x, scale = c.node.inputs
    of_all = c.g.name(scale)
    names = [c.g.fresh(f"{c.node.outputs[0].name}/{part}") for part in ("numbers", "scales")]
    last = {"axis": -1, "block_size": FORMATS["nvfp4"].block}
    c.g.add("TRT_FP4DynamicQuantize", [c.g.rows(x), of_all], names, TENSORRT, **last, scale_type=ELEMENT["f8e4m3"])
    steps = c.tmp("DequantizeLinear", [names[1], of_all])
    if x.type.dtype != "f32":
        steps = c.tmp("Cast", [steps], to=ELEMENT[x.type.dtype])
    c.final_rows(c.tmp("DequantizeLinear", [names[0], steps], **last))


@lower("linear_int8")
def linear_int8(c: Context) -> None:
    x, w, x_scale, w_scale, *bias = c.node.inputs
    names = [c.g.name(v) for v in (w, x_scale, w_scale)]
    ins = [c.g.rows(x), *names, _zero(c, x.type.dtype, x_scale.type), "", *(c.g.name(v) for v in bias)]
    c.final_rows(c.tmp("MatMulIntegerToFloat", ins, domain=RUNTIME))


@lower("linear_int8_dynamic")
def linear_int8_dynamic(c: Context) -> None:
    """Standard operators, which ONNX Runtime fuses into one; x is quantised once for all its users."""
    x, w, scale, *bias = c.node.inputs
    rows = c.g.rows(x)

    def numbers() -> str:
        names = [c.g.fresh(f"{rows}/{part}") for part in ("numbers", "scale", "zero")]
        return c.g.add("DynamicQuantizeLinear", [rows], names)

    first = c.g.shared(("dynamic", rows), numbers)
    parts = next(n.output for n in reversed(c.g.graph.node) if first in n.output)
    sums = c.tmp("MatMulInteger", [first, c.g.name(w), parts[2]])
    scales = c.tmp("Mul", [parts[1], c.g.name(scale)])
    y = c.tmp("Mul", [c.tmp("Cast", [sums], to=1), scales])
    c.final_rows(c.tmp("Add", [y, c.g.name(bias[0])]) if bias else y)


@lower("linear_blocks")
def linear_blocks(c: Context) -> None:
    x, q, scale, *bias = c.node.inputs
    extra = ["", "", *(c.g.name(v) for v in bias)] if bias else []
    product = c.tmp(
        "MatMulNBits",
        [c.g.rows(x), c.g.name(q), c.g.name(scale), *extra],
        domain=RUNTIME,
        K=int(x.type.shape[-1]),  # type: ignore[arg-type]
        N=int(q.type.shape[0]),  # type: ignore[arg-type]
        bits=c.attrs["bits"],
        block_size=c.attrs["block"],
        accuracy_level=ACCURACY,
    )
    c.final_rows(product)
