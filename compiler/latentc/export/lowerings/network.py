"""Ops of neural networks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import TensorProto

from latentc.export.lowerings.table import TABLE, Context, Lowering, lower, same
from latentc.ir.ops.attention import timestep_frequencies
from latentc.ir.ops.conv import geometry
from latentc.ir.ops.image import factors_of

TABLE["matmul"] = same("MatMul")


@lower("linear")
def linear(c: Context) -> None:
    """Gemm on rows: it takes the weight as stored and adds the bias; the result stays rows until a shape is needed."""
    ins = [c.g.rows(c.node.inputs[0]), *(c.g.name(v) for v in c.node.inputs[1:])]
    if c.out_type.rank == 2:
        c.final("Gemm", ins, transB=1)
    else:
        c.final_rows(c.tmp("Gemm", ins, transB=1))


def _routed(c: Context, run: Callable[..., str]) -> None:
    """Gathers the rows whose gate is not 0, passes them through the expert, and adds the results in place."""
    onto, x, gate = (c.g.rows(v) for v in c.node.inputs[:3])
    flat = c.tmp("Reshape", [gate, c.g.ints([-1])])
    places = c.tmp("Transpose", [c.tmp("NonZero", [flat])], perm=(1, 0))  # [rows, 1]
    y = run(c.tmp("GatherND", [x, places]), *(c.g.name(v) for v in c.node.inputs[3:]))
    y = c.tmp("Mul", [c.tmp("GatherND", [gate, places]), y])
    c.final_rows(c.tmp("ScatterND", [onto, places, y], reduction="add"))


@lower("expert")
def expert(c: Context) -> None:
    def run(x: str, w1: str, w3: str, w2: str) -> str:
        up = c.tmp("Gemm", [x, w1], transB=1)
        h = c.tmp("Mul", [c.tmp("Mul", [up, c.tmp("Sigmoid", [up])]), c.tmp("Gemm", [x, w3], transB=1)])
        return c.tmp("Gemm", [h, w2], transB=1)

    _routed(c, run)


@lower("gelu_expert", opset=20)
def gelu_expert(c: Context) -> None:
    def run(x: str, w1: str, b1: str, w2: str, b2: str) -> str:
        h = c.tmp("Gelu", [c.tmp("Gemm", [x, w1, b1], transB=1)], approximate="tanh")
        return c.tmp("Gemm", [h, w2, b2], transB=1)

    _routed(c, run)


@lower("pool_choice")
def pool_choice(c: Context) -> None:
    """Sorts each expert's scores, keeps the first of them, and puts them back in their places."""
    scores, chances = (c.g.rows(v) for v in c.node.inputs[:2])  # [N, E]
    likely = c.tmp("Greater", [chances, c.g.name(c.node.inputs[2])])
    counts = c.tmp("ReduceSum", [c.tmp("Cast", [likely], to=TensorProto.INT64), c.g.ints([0])], keepdims=0)
    count = c.tmp("Gather", [c.tmp("Shape", [scores]), c.g.ints([0])], axis=0)
    ordered, order = c.g.fresh(f"{c.node.outputs[0].name}/ordered"), c.g.fresh(f"{c.node.outputs[0].name}/order")
    c.g.add("TopK", [scores, count], [ordered, order], axis=0)
    ones = c.tmp("Expand", [c.g.literal(np.ones((1, 1)), "i64"), c.tmp("Concat", [count, c.g.ints([1])], axis=0)])
    place = c.tmp("CumSum", [ones, c.g.ints(0)])  # [N, 1], from 1
    kept = c.tmp("Where", [c.tmp("LessOrEqual", [place, counts]), ordered, c.scalar(0.0)])
    empty = c.tmp("Sub", [scores, scores])
    c.final_rows(c.tmp("ScatterElements", [empty, order, kept], axis=0))


def _conv_attrs(c: Context) -> dict[str, Any]:
    g = geometry(c.attrs, c.type().rank - 2)
    lists = {"pads": [*g.padding, *g.padding], "strides": g.stride, "dilations": g.dilation}
    return {name: list(map(int, values)) for name, values in lists.items()} | {"group": int(g.groups)}


@lower("conv")
def conv(c: Context) -> None:
    c.final("Conv", c.ins, **_conv_attrs(c))


@lower("conv_transpose")
def conv_transpose(c: Context) -> None:
    extra = geometry(c.attrs, c.type().rank - 2).output_padding
    c.final("ConvTranspose", c.ins, **_conv_attrs(c), output_padding=list(map(int, extra)))


@lower("embedding")
def embedding(c: Context) -> None:
    c.final("Gather", c.ins, axis=0)


def _scale(c: Context, size: Any, affine: list[str]) -> list[str]:
    """The operand `scale`, which ONNX requires."""
    return affine or [c.g.literal(np.ones(int(size)), c.type().dtype, "ones")]


def _scale_and_bias(c: Context, affine: list[str]) -> list[str]:
    """The operands `scale` and `bias` per channel, which ONNX requires."""
    channels = int(c.type().shape[1])  # type: ignore[arg-type]
    scale, *bias = _scale(c, channels, affine)
    return [scale, *(bias or [c.g.literal(np.zeros(channels), c.type().dtype, "zeros")])]


@lower("layer_norm")
def layer_norm(c: Context) -> None:
    x, *affine = c.ins
    c.final("LayerNormalization", [x, *_scale(c, c.type().shape[-1], affine)], axis=-1, epsilon=float(c.attrs["eps"]))


@lower("rms_norm", opset=23)
def rms_norm(c: Context) -> None:
    x, *affine = c.ins
    c.final("RMSNormalization", [x, *_scale(c, c.type().shape[-1], affine)], axis=-1, epsilon=float(c.attrs["eps"]))


@lower("group_norm", opset=21)
def group_norm(c: Context) -> None:
    x, *affine = c.ins
    ins = [x, *_scale_and_bias(c, affine)]
    c.final("GroupNormalization", ins, num_groups=int(c.attrs["groups"]), epsilon=float(c.attrs["eps"]))


@lower("batch_norm")
def batch_norm(c: Context) -> None:
    x, mean, var, *affine = c.ins
    c.final("BatchNormalization", [x, *_scale_and_bias(c, affine), mean, var], epsilon=float(c.attrs["eps"]))


@lower("pixel_norm")
def pixel_norm(c: Context) -> None:
    length = c.tmp("ReduceL2", [c.ins[0], c.g.ints([c.axis])], keepdims=1)
    rms = c.tmp("Mul", [length, c.scalar(int(c.type().shape[c.axis]) ** -0.5)])  # type: ignore[arg-type]
    c.final("Div", [c.ins[0], c.tmp("Add", [rms, c.scalar(float(c.attrs["eps"]))])])


@lower("upsample_nearest")
def upsample_nearest(c: Context) -> None:
    """`asymmetric` with `floor` repeats pixels. Other modes agree for integer factors, but some engines lack them."""
    scales = c.g.literal(np.asarray([1, 1, *factors_of("factor", c.attrs, c.type().rank - 2)], float), "f32", "scales")
    mode = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    c.final("Resize", [c.ins[0], "", scales], **mode)


@lower("grid_sample", opset=20)
def grid_sample(c: Context) -> None:
    c.final("GridSample", c.ins, mode="linear", padding_mode=c.attrs["outside"], align_corners=0)


def _pool(op: str) -> Lowering:
    def emit(c: Context) -> None:
        size = list(map(int, factors_of("size", c.attrs, c.type().rank - 2)))
        c.final(op, c.ins, kernel_shape=size, strides=size)

    return Lowering(emit, 18)


TABLE.update({"avg_pool": _pool("AveragePool"), "max_pool": _pool("MaxPool")})


@lower("attention", opset=23)
def attention(c: Context) -> None:
    scale = c.attrs.get("scale")
    mask = list(c.ins[3:])
    if mask:  # the op broadcasts the batch and heads of a mask, but not its queries and keys
        scores = (c.type().shape[2], c.type(1).shape[2])
        if c.type(3).shape[-2:] != scores:
            mask = [c.tmp("Expand", [mask[0], c.g.dims([1, 1, *scores])])]
    c.final(
        "Attention",
        [*c.ins[:3], *mask],
        is_causal=1 if c.attrs["causal"] else None,
        scale=float(scale) if scale is not None else 1 / math.sqrt(int(c.type().shape[-1])),  # type: ignore[arg-type]
    )


@lower("rotary", opset=23)
def rotary(c: Context) -> None:
    """The tables are [T, d/2]; the op selects rows by position_ids [B, T], here 0..T-1 for every sample.

    Tables of each sample, [B, 1, T, d/2], are given as [B, T, d/2], without position_ids.
    """
    x, cos, sin = c.ins
    interleaved = 1 if c.attrs["interleaved"] else None
    if c.type(1).rank == 4:
        tables = [c.tmp("Squeeze", [table, c.g.ints([1])]) for table in (cos, sin)]
        c.final("RotaryEmbedding", [x, *tables], interleaved=interleaved)
        return
    batch, tokens = c.type().shape[0], int(c.type().shape[2])  # type: ignore[arg-type]

    def rows() -> str:
        row = c.g.literal(np.arange(tokens)[None], "i64", "positions")
        return c.tmp("Expand", [row, c.g.dims([batch, tokens])])

    positions = c.g.shared(("positions", batch, tokens), rows)
    c.final("RotaryEmbedding", [x, cos, sin, positions], interleaved=interleaved)


@lower("timestep_embedding")
def timestep_embedding(c: Context) -> None:
    frequencies = timestep_frequencies(c.attrs)
    column = c.tmp("Unsqueeze", [c.ins[0], c.g.ints([1])])
    angle = c.tmp("Mul", [column, c.g.literal(frequencies[None], c.type().dtype, "frequencies")])
    c.final("Concat", [c.tmp("Cos", [angle]), c.tmp("Sin", [angle])], axis=1)
