"""Elementwise ops."""

from __future__ import annotations

from latentc.export.graph import ELEMENT
from latentc.export.lowerings.table import TABLE, Context, lower, same

# Ops with the same name in ONNX, and those with another.
_UNARY = (
    "neg",
    "exp",
    "log",
    "sqrt",
    "sin",
    "cos",
    "atan",
    "acos",
    "tanh",
    "sigmoid",
    "softplus",
    "mish",
    "elu",
    "relu",
    "erf",
)
TABLE.update({op: same(op.title(), unary=True) for op in (*_UNARY, "abs", "floor")})
TABLE["stop_gradient"] = same("Identity", unary=True)
TABLE.update({op: same(op.title()) for op in ("add", "sub", "mul", "pow", "equal", "less", "greater")})
_BINARY = {
    "maximum": "Max",
    "minimum": "Min",
    "less_equal": "LessOrEqual",
    "logical_and": "And",
    "logical_or": "Or",
}
TABLE.update({op: same(onnx) for op, onnx in _BINARY.items()})


@lower("rsqrt", unary=True)
def rsqrt(c: Context) -> None:
    c.final("Reciprocal", [c.tmp("Sqrt", c.ins)])


@lower("silu", unary=True)
def silu(c: Context) -> None:
    # ONNX Runtime fuses the pair; Swish (opset 24) is not in the default opset.
    c.final("Mul", [c.ins[0], c.tmp("Sigmoid", c.ins)])


@lower("div")
def div(c: Context) -> None:
    x, y = c.ins
    if not c.type().is_float:  # ONNX rounds towards zero, the IR towards minus infinity
        x = c.tmp("Sub", [x, c.tmp("Mod", [x, y])])
    c.final("Div", [x, y])


@lower("gelu", opset=20, unary=True)
def gelu(c: Context) -> None:
    c.final("Gelu", c.ins, approximate=c.attrs["approximate"])


@lower("leaky_relu", unary=True)
def leaky_relu(c: Context) -> None:
    c.final("LeakyRelu", c.ins, alpha=float(c.attrs["slope"]))


@lower("clamp", unary=True)
def clamp(c: Context) -> None:
    c.final("Clip", [c.ins[0], c.scalar(c.attrs["low"]), c.scalar(c.attrs["high"])])


@lower("cast", unary=True)
def cast(c: Context) -> None:
    c.final("Cast", c.ins, to=ELEMENT[c.attrs["to"]])


@lower("where")
def where(c: Context) -> None:
    if c.out_type.dtype != "bool":
        c.final("Where", c.ins)
        return
    condition, x, y = c.ins  # ONNX Runtime has no Where for bools
    c.final("Or", [c.tmp("And", [condition, x]), c.tmp("And", [c.tmp("Not", [condition]), y])])
