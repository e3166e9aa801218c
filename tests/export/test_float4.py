"""NVFP4 and MXFP4 against other implementations: ml_dtypes' casts, ONNX's reference, the emitted project's PyTorch."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from inline_tensors import InlineTensors
from onnx.reference import ReferenceEvaluator
from onnx_runs import module_of

from latentc.engines import ENGINES
from latentc.export.onnx import flat_module, onnx_from_module
from latentc.ir.builder import Builder, Var
from latentc.ir.core import Module, walk
from latentc.ir.interpret import Interpreter
from latentc.ir.ops import OPS
from latentc.ir.ops.float4 import FORMATS, rounded, scales_of, tensor_scale
from latentc.ir.types import B, f32
from latentc.measure.execute import executable
from latentc.passes.float4 import without_float4
from latentc.passes.quantize.plan import LayerQuant
from latentc.passes.quantize.rewrite import quantize
from latentc.weights import Array

Numbers = np.ndarray[Any, Any]
WEIGHTS = hnp.arrays(np.float32, (3, 64), elements=st.floats(-100, 100, width=32, allow_subnormal=False))


def test_every_number_and_every_tie_rounds_as_in_ml_dtypes() -> None:
    grid = np.arange(16, dtype=np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float32)
    ties = np.unique(np.concatenate([grid, ((grid[:, None] + grid) / 2).ravel(), np.linspace(-9, 9, 1001)])).astype(
        np.float32
    )
    near = np.concatenate([ties, np.nextafter(ties, np.float32(9)), np.nextafter(ties, np.float32(-9))])
    assert np.array_equal(rounded(near), near.astype(ml_dtypes.float4_e2m1fn).astype(np.float32))
    # In float64 a number just above a tie goes up, which a cast by way of float32 does not see.
    assert rounded(np.asarray([2.5, np.nextafter(2.5, 3), 5.0, np.nextafter(5.0, 6)])).tolist() == [2, 3, 4, 6]


@settings(max_examples=60, deadline=None)
@given(weight=WEIGHTS)
def test_scales_follow_the_rules_of_the_formats(weight: Numbers) -> None:
    """Block by block in Python: e4m3 of absmax / 6 under the tensor's scale, and OCP's power of two."""
    most = float(np.abs(weight).max())
    whole = np.float32(most / (6 * 448)) if most >= 1e-34 else np.float32(1)
    assert tensor_scale(weight) == whole
    narrow, powers = (
        scales_of(weight.astype(np.float64), scale, {"format": format}).astype(np.float64)
        for format, scale in (("nvfp4", whole.astype(np.float64)), ("mxfp4", None))
    )
    assert narrow.min() > 0 and narrow.max() <= 448
    for row, column in np.ndindex(*powers.shape):
        largest = float(np.abs(weight[row, 32 * column : 32 * column + 32]).max())
        wanted = 2.0 ** max(math.floor(math.log2(largest)) - 2, -24) if largest else 1.0
        assert powers[row, column] == wanted
    for row, column in np.ndindex(*narrow.shape):
        largest = float(np.abs(weight[row, 16 * column : 16 * column + 16]).max())
        ratio = np.asarray(largest / (6 * float(whole)), ml_dtypes.float8_e4m3fn)
        assert narrow[row, column] == max(float(ratio), 2.0**-9)


def layer(engine: str, scheme: Any, width: int = 64) -> Module:
    """A linear layer quantised for an engine."""

    def build(b: Builder, x: Var) -> Var:
        return b.dense("fc", x, 32)

    module = module_of([f32(B, 3, width)], build)
    return quantize(module, {"fc.weight": LayerQuant(scheme)}, engine)


def values() -> dict[str, Numbers]:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((32, 64)) * np.geomspace(1e-3, 1, 32)[:, None]
    weight[3] = 0
    weight[5, :16] = 0
    found = {"fc.weight": weight, "fc.bias": rng.standard_normal(32), "fc.input_scale": np.float32(4 / 2688)}
    return {name: np.asarray(x, np.float32) for name, x in found.items()}


def graph(module: Module, opset: int) -> onnx.ModelProto:
    tensors = InlineTensors(lambda path, param: values()[path])
    return onnx_from_module(flat_module(module, "main", opset=opset), "main", tensors, opset, outputs=["out"])


X = np.random.default_rng(1).standard_normal((2, 3, 64)).astype(np.float32)


@pytest.mark.parametrize(("scheme", "opset"), [("nvfp4_weights", 23), ("mxfp4_weights", 24)])
def test_the_graph_is_onnx_and_means_the_same_in_its_reference(scheme: Any, opset: int) -> None:
    module = layer("openvino", scheme)
    model = graph(module, opset)
    onnx.checker.check_model(model, full_check=True)
    types = {t.name.removeprefix("fc.weight."): t.data_type for t in model.graph.initializer}
    format, proto = scheme.removesuffix("_weights"), onnx.TensorProto
    assert types[format] == proto.FLOAT4E2M1
    assert types[f"{format}.scale"] == (proto.FLOAT8E4M3FN if format == "nvfp4" else proto.FLOAT8E8M0)
    assert types.get("nvfp4.tensor_scale", proto.FLOAT) == proto.FLOAT
    (got,) = ReferenceEvaluator(model).run(["out"], {"x0": X})
    (want,) = Interpreter(module, values()).run("main", X)
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6 * np.abs(want).max())


@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "tensorrt"])
@pytest.mark.parametrize("scheme", ["nvfp4", "nvfp4_weights", "mxfp4_weights"])
def test_every_form_computes_the_same_numbers(engine: str, scheme: Any) -> None:
    """And ONNX Runtime, which has no such floats, computes them where it judges plans for other engines."""
    if scheme not in ENGINES[engine].quantised.schemes:
        return
    module = layer(engine, scheme)
    (want,) = Interpreter(module, values()).run("main", X)
    (alike,) = Interpreter(layer("tensorrt-rtx", scheme), values()).run("main", X)
    np.testing.assert_allclose(want, alike, rtol=0, atol=1e-7 * np.abs(want).max())
    if engine == "onnxruntime":  # its kernel also rounds the input to 8 bits
        return
    (got,) = executable(module, "main", {name: Array(x) for name, x in values().items()}, 24)({"x0": X})
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6 * np.abs(want).max())
    written = without_float4(module)
    assert not [n for _, n in walk(written) for v in n.inputs if v.type.dtype in ("f4e2m1", "f8e8m0")]
    assert without_float4(written) is written


def test_tensorrt_quantises_activations_by_its_own_operator() -> None:
    """In blocks of 16 along the last axis, and dequantises twice: the scales by the tensor's, the numbers by these."""
    nodes = graph(layer("tensorrt-rtx", "nvfp4"), 23).graph.node
    made = {name: node for node in nodes for name in node.output}
    (dynamic,) = (node for node in nodes if node.op_type == "TRT_FP4DynamicQuantize")
    assert dynamic.domain == "trt" and len(dynamic.output) == 2
    attributes = {a.name: a.i for a in dynamic.attribute}
    assert attributes == {"axis": -1, "block_size": 16, "scale_type": onnx.TensorProto.FLOAT8E4M3FN}
    (product,) = (node for node in nodes if node.op_type == "Gemm")
    for operand in product.input[:2]:
        outer = made[operand]
        inner = made[outer.input[1]]
        assert (outer.op_type, inner.op_type) == ("DequantizeLinear", "DequantizeLinear")
        assert {a.name: a.i for a in outer.attribute}["block_size"] == 16 and not inner.attribute
    assert made[product.input[0]].input[0] == dynamic.output[0]


def test_layers_that_blocks_do_not_fill_are_left_alone() -> None:
    with pytest.raises(TypeError, match="blocks of 32"):
        layer("openvino", "mxfp4_weights", 48)


def helpers() -> Any:
    path = Path(__file__).parents[2] / "templates/project/helpers.py"
    spec = importlib.util.spec_from_file_location("float4_helpers", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@settings(max_examples=30, deadline=None)
@given(weight=WEIGHTS)
def test_pytorch_rounds_alike(weight: Numbers) -> None:
    ours = helpers()
    for format in FORMATS:
        evaluate = OPS["fake_quantize_blocks"].evaluate
        assert evaluate is not None
        (want,) = evaluate([weight.astype(np.float64)], {"format": format})
        x = torch.tensor(weight, dtype=torch.float64, requires_grad=True)
        got = getattr(ours, f"fake_quantize_{format}")(x)
        assert np.array_equal(got.detach().numpy(), want)
        got.sum().backward()
        assert x.grad is not None and bool((x.grad == 1).all())
