"""The form of a quantised layer by scheme and engine: the one that the engine recognises and runs fastest.

Symbols: K inputs, N outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from latentc.engines import ENGINES
from latentc.ir.builder import Builder, Var
from latentc.ir.core import Node, Param, Recipe, Value
from latentc.ir.ops.float4 import FORMATS
from latentc.ir.types import f32
from latentc.passes.quantize.plan import FLOAT4, LARGEST, Layer, Scheme, stem

_BLOCKS = (128, 64, 32, 16)
_TO = {"int8": "i8", "fp8": "f8e4m3"}


@dataclass(frozen=True)
class Operands:
    """A layer being rewritten: its node, operands and weight; `group` is the path of its measured tensors.

    `kept` is the weight as the layer reads it, which a norm may compute from `weight`.

    `rounded` {(value, dtype, held): quantised value and scale} is shared by all layers of the function.
    """

    node: Node
    x: Var
    kept: Var
    bias: tuple[Var, ...]
    weight: Param
    value: Recipe | Param  # the weight, or its smoothed form
    group: str
    narrow: bool
    rounded: dict[tuple[Value, str, bool], tuple[Var, Var]]


Form = Callable[[Builder, Operands], Var]


def fits(layer: Layer, scheme: Scheme, engine: str) -> bool:
    """True if an engine can run a layer under this scheme and gains from it.

    Convolutions have both operands quantised or none. Layers with one row per sample (time embeddings, adaptive norms)
    are little work, run before the loop if possible, and affect everything after them: only their weights are worth
    quantising, and engines that fold constants while they build would undo that.
    """
    how = ENGINES[engine].quantised
    if layer.op != "linear":
        return scheme in LARGEST and scheme not in FLOAT4 and how.convolutions
    rows = all(site.value.type.rank > 2 for site in layer.sites)
    weights = scheme.endswith("_weights")
    if not rows and not (weights and how.single_rows):
        return False
    if scheme in FLOAT4:
        return layer.shape[1] % FORMATS[FLOAT4[scheme]].block == 0
    return not weights or (scheme == "int8_weights" and not how.operators) or block_of(layer.shape[1]) > 0


def block_of(inputs: int) -> int:
    """Inputs per block of a weight: the largest usual size that divides `inputs`, 0 if there is none."""
    return next((b for b in _BLOCKS if inputs % b == 0), 0)


def form_of(op: str, scheme: Scheme, engine: str) -> Form:
    """The form of a layer."""
    how = ENGINES[engine].quantised
    match scheme:
        case "int8" if how.operators and op == "linear":
            return _runtime_int8
        case "int8" | "fp8":
            return partial(_quantised, scheme=scheme, held=how.moves_rounding and op != "linear")
        case "int8_dynamic":
            return _dynamic
        case "int8_weights" | "int4_weights" | "nvfp4_weights" | "mxfp4_weights" if not how.operators:
            return partial(_few_bits, scheme=scheme, engine=engine)
        case "nvfp4":
            return partial(_nvfp4, engine=engine)
        case "nvfp4_weights" | "mxfp4_weights":
            return partial(_float4_in_bytes, format=FLOAT4[scheme])
    return partial(_in_blocks, bits=8 if scheme == "int8_weights" else 4)


def form_in_training(op: str, scheme: Scheme, engine: str) -> Form:
    """The form of a layer in training, which rounds as its form for the engine does."""
    how = ENGINES[engine].quantised
    match scheme:
        case "int8" | "fp8":
            return partial(_fake, to=_TO[scheme], blocks=False, rounds=True)
        case "int8_weights":
            return partial(_fake, to="i8", blocks=how.operators, rounds=False)
        case "int4_weights":
            return partial(_fake, to="i4", blocks=True, rounds=False)
        case "nvfp4" | "nvfp4_weights" | "mxfp4_weights":
            return partial(_fake_blocks, format=FLOAT4[scheme], rounds=scheme in LARGEST)
    raise ValueError(f"training does not round as {scheme}")


def _fake(b: Builder, o: Operands, to: str, blocks: bool, rounds: bool) -> Var:
    x = o.x
    if rounds:
        # Each layer has its own, since methods of a network may group layers by what they read differently.
        scale = b.param(f"{stem(o.weight.name)}.input_scale", f32(), "ones", kind="state")
        x = b.op("fake_quantize", x, scale, to=to, out="rounded")
    most = {"i8": 63.0 if o.narrow else LARGEST["int8"], "i4": 7.0, "f8e4m3": LARGEST["fp8"]}[to]
    block = {"block": block_of(int(o.weight.type.shape[1]))} if blocks else {}  # type: ignore[arg-type]
    weight = b.op("fake_quantize_weight", o.kept, to=to, most=most, out="w", **block)
    y: Var = b.op(o.node.op, x, weight, *o.bias, **o.node.attrs)
    return y


def _fake_blocks(b: Builder, o: Operands, format: str, rounds: bool) -> Var:
    x = o.x
    if rounds:
        scale = b.param(f"{stem(o.weight.name)}.input_scale", f32(), "ones", kind="state")
        x = b.fake_quantize_nvfp4(x, scale, out="rounded")
    y: Var = b.op(o.node.op, x, b.fake_quantize_blocks(o.kept, format=format, out="w"), *o.bias, **o.node.attrs)
    return y


def _scale(most: float, value: Recipe | Param, axis: int = 0, block: int = 0) -> Recipe:
    return Recipe("channel_scale", (value,), {"axis": axis, "most": most, **({"block": block} if block else {})})


def _weight(b: Builder, o: Operands, to: str, most: float, block: int = 0) -> Var:
    """The weight, dequantised from its stored numbers; one scale per output, or per block of inputs."""
    scale = _scale(most, o.value, 1 if block else 0, block)
    where: dict[str, Any] = {"axis": 1, "block": block} if block else {"axis": 0}
    numbers = b.derived(f"{o.weight.name}.{to}", Recipe("quantize", (o.value, scale), {"to": to, **where}))
    return b.dequantize(numbers, b.derived(f"{o.weight.name}.{to}.scale", scale), **where)


def _most(o: Operands, scheme: Scheme) -> float:
    """The largest magnitude of the layer's quantised weight."""
    return 63.0 if o.narrow and scheme.startswith("int8") else LARGEST[scheme]


def _rounded(b: Builder, o: Operands, to: str, held: bool = False) -> tuple[Var, Var]:
    """The layer's input quantised to dtype `to`, and its measured scale.

    With `held` it first passes a maximum without effect, which no engine moves the rounding across.
    """
    key = (o.x.value, to, held)
    if key not in o.rounded:
        scale = b.param(f"{o.group}.input_scale", f32(), "ones", kind="calibrated")
        x = b.maximum(o.x, -3e38) if held else o.x
        o.rounded[key] = (b.op("quantize", x, scale, to=to), scale)
    return o.rounded[key]


def _quantised(b: Builder, o: Operands, scheme: Scheme, held: bool) -> Var:
    """Q/DQ: both operands are dequantised in the graph; engines multiply the 8-bit numbers instead."""
    to = _TO[scheme]
    x = b.op("dequantize", *_rounded(b, o, to, held))
    y: Var = b.op(o.node.op, x, _weight(b, o, to, _most(o, scheme)), *o.bias, **o.node.attrs)
    return y


def _transposed(b: Builder, o: Operands) -> tuple[Var, Var]:
    """The weight as i8[K, N], the layout of integer matmuls, and its scales [N]."""
    scale = _scale(_most(o, "int8"), o.value)
    numbers = Recipe("quantize", (o.value, scale), {"to": "i8", "axis": 0})
    transposed = b.derived(f"{o.weight.name}.i8", Recipe("transpose", (numbers,), {"perm": (1, 0)}))
    return transposed, b.derived(f"{o.weight.name}.i8.scale", scale)


def _runtime_int8(b: Builder, o: Operands) -> Var:
    """x86 multiplies u8 by i8; ONNX Runtime does not recognise such a product in Q/DQ around a Gemm."""
    numbers, scale = _rounded(b, o, "u8")
    weight, weight_scale = _transposed(b, o)
    return b.linear_int8(numbers, weight, scale, weight_scale, *o.bias)


def _dynamic(b: Builder, o: Operands) -> Var:
    return b.linear_int8_dynamic(o.x, *_transposed(b, o), *o.bias)


def _few_bits(b: Builder, o: Operands, scheme: Scheme, engine: str) -> Var:
    """Weights dequantised from 8 or 4 bits; a MatMul for one token per run if the engine would unpack a Gemm."""
    if scheme in FLOAT4:
        weight = _float4(b, o, FLOAT4[scheme], engine)
    elif scheme == "int8_weights":
        weight = _weight(b, o, "i8", LARGEST["int8"])
    else:
        weight = _weight(b, o, "i4", 7.0, block_of(int(o.weight.type.shape[1])))  # type: ignore[arg-type]
    if ENGINES[engine].quantised.gemm_unpacks and o.x.type.rank == 3 and o.x.shape[1] == 1:
        y = b.matmul(o.x, b.transpose(weight, perm=(1, 0)))
        return b.add(y, *o.bias) if o.bias else y
    return b.linear(o.x, weight, *o.bias)


def _in_blocks(b: Builder, o: Operands, bits: int) -> Var:
    """Weights packed in blocks of 8 or 4 bits."""
    block = block_of(int(o.weight.type.shape[1]))  # type: ignore[arg-type]
    scale = _scale(2 ** (bits - 1) - 1.0, o.value, 1, block)
    numbers = Recipe("pack_blocks", (o.value, scale), {"bits": bits, "block": block})
    name = f"{o.weight.name}.u{bits}"
    weight, scales = b.derived(name, numbers), b.derived(f"{name}.scale", scale)
    return b.linear_blocks(o.x, weight, scales, *o.bias, bits=bits, block=block)


def _float4_scales(o: Operands, format: str) -> tuple[Recipe, Recipe | None, Recipe]:
    """The scales of the weight's blocks in their dtype, the scale of the weight if it has one, and both as f32."""
    of_tensor = Recipe("tensor_scale", (o.value,)) if FORMATS[format].of_tensor else None
    own = () if of_tensor is None else (of_tensor,)
    scales = Recipe("float4_scales", (o.value, *own), {"format": format})
    return scales, of_tensor, Recipe("block_scales", (scales, *own))


def _float4(b: Builder, o: Operands, format: str, engine: str) -> Var:
    """The weight, dequantised from 4-bit floats; their scales as the format has them, or f32 if the engine cannot."""
    scales, of_tensor, wide = _float4_scales(o, format)
    name = f"{o.weight.name}.{format}"
    numbers = b.derived(name, Recipe("float4", (o.value, wide), {"format": format}))
    if of_tensor is not None:
        steps = b.block_scales(b.derived(f"{name}.scale", scales), b.derived(f"{name}.tensor_scale", of_tensor))
    elif ENGINES[engine].quantised.powers_as_scales:
        steps = b.cast(b.derived(f"{name}.scale", scales), to="f32")
    else:
        steps = b.derived(f"{name}.scale", wide)
    return b.dequantize(numbers, steps, axis=1, block=FORMATS[format].block)


def _float4_in_bytes(b: Builder, o: Operands, format: str) -> Var:
    """Weights in blocks of 8 bits, for an engine without 4-bit floats: twice the numbers are integers."""
    half = Recipe("affine", (_float4_scales(o, format)[2],), {"mul": 0.5, "add": 0.0})
    name = f"{o.weight.name}.{format}.u8"
    weight = b.derived(name, Recipe("pack_float4", (o.value, half), {"format": format}))
    scales, block = b.derived(f"{name}.scale", half), FORMATS[format].block
    return b.linear_blocks(o.x, weight, scales, *o.bias, bits=8, block=block)


def _nvfp4(b: Builder, o: Operands, engine: str) -> Var:
    """Both operands in 4-bit floats; the input's blocks get their scales at run time, under a measured one of all."""
    key = (o.x.value, "nvfp4", False)
    if key not in o.rounded:
        scale = b.param(f"{o.group}.input_scale", f32(), "ones", kind="calibrated")
        o.rounded[key] = b.fake_quantize_nvfp4(o.x, scale), scale
    return b.linear(o.rounded[key][0], _float4(b, o, "nvfp4", engine), *o.bias)
