"""Quantised networks in real engines: they give what the oracle gives of the same graph, and by integer kernels."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx_runs import module_of

from latentc.engines import ENGINES
from latentc.export.bundle import bundle_from_lowered, onnx_from_network
from latentc.export.onnx import flat_module, onnx_from_module
from latentc.export.store import FileTensors
from latentc.ir.builder import Builder, Var
from latentc.ir.interpret import Interpreter
from latentc.ir.types import Sym, f32
from latentc.measure.execute import written
from latentc.passes.quantize.plan import LayerQuant
from latentc.passes.quantize.rewrite import quantize
from latentc.pipeline import optimised
from latentc.spec import resolved_yaml
from latentc.weights import Array
from latentc_runtime import load
from latentc_runtime.backends import open_backend
from latentc_runtime.backends.openvino import core

sys.path.insert(0, str(Path(__file__).parents[1] / "passes"))

from quantised_systems import ENTRY, System, system

SYSTEMS = {
    "digits_dit": ("backbone.width=64", "sampler.steps=2"),
    "digits_llamagen": (),
}
CASES = [(e, s, n) for e in ("onnxruntime", "openvino") for s in ENGINES[e].quantised.schemes for n in SYSTEMS]
TOLERANCE = 0.04
"""Of the largest output. Numbers on the edge between two may fall on either side, and layers after them differ; with
weights alone quantised both engines round activations in their kernels, which the graph does not say."""


def made(name: str, engine: str, scheme: Any, smooth: bool = False, *more: str) -> System:
    """Weights in 7 bits, so that no sum saturates, whichever CPU the tests run on."""
    if scheme == "mxfp4_weights" and engine == "openvino":
        more = (*more, "target.opset=24")
    return system(name, engine, scheme, smooth, (*SYSTEMS[name], *more), narrow=True)


def network(made: System, folder: Path) -> tuple[Path, dict[str, Path]]:
    lowered = optimised(made.lowered, made.spec, None, made.quantization)
    return onnx_from_network(lowered, "main", "forward", expressions(made), folder, made.spec.target.opset)


def expressions(made: System) -> dict[str, Any]:
    return {path.removeprefix("main."): Array(np.asarray(v, np.float32)) for path, v in made.weights.items()}


def engine_result(made: System, model: Path, external: dict[str, Path]) -> Any:
    backend = open_backend("cpu", 1, made.spec.target.engine, "fp32")
    names = [v.name for v in made.after.entry(ENTRY).inputs]
    given = [np.asarray(x, np.int64 if x.dtype.kind == "i" else np.float32) for x in made.inputs]
    (out,) = [o.name for o in onnx.load(str(model), load_external_data=False).graph.output]
    engine = backend.engine(model, external)
    return np.asarray(backend.array(engine.run(dict(zip(names, given, strict=True)), [out])[out]))


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize(("engine", "scheme", "name"), CASES)
def test_engines_agree_with_the_oracle(engine: str, scheme: Any, name: str, smooth: bool, tmp_path: Path) -> None:
    if engine == "openvino":
        pytest.importorskip("openvino")
    if smooth and scheme.endswith("weights"):
        return
    given = made(name, engine, scheme, smooth)
    got = engine_result(given, *network(given, tmp_path))
    want, plain = (
        Interpreter(m, given.weights, "f32").run(ENTRY, *given.inputs, prefix="main")[0]
        for m in (given.after, given.before)
    )
    error, rounding = (float(np.abs(got - y).max() / np.abs(plain).max()) for y in (want, plain))
    assert error < TOLERANCE, (error, rounding)
    assert rounding > 1e-4


@pytest.mark.parametrize("scheme", ["int8_weights", "int4_weights"])
def test_openvino_samples_where_times_are_constants(scheme: Any, tmp_path: Path) -> None:
    """In a sampler the embedding of times has constant operands, which OpenVINO computes as it opens the file."""
    pytest.importorskip("openvino")
    given = made("digits_dit", "openvino", scheme)
    lowered = optimised(given.lowered, given.spec, None, given.quantization)
    bundle_from_lowered(
        lowered, given.spec, {"main": expressions(given)}, tmp_path / "bundle", spec_text=resolved_yaml(given.spec)
    )
    plain = optimised(given.lowered, given.spec)
    bundle_from_lowered(
        plain, given.spec, {"main": expressions(given)}, tmp_path / "plain", spec_text=resolved_yaml(given.spec)
    )
    got, want = (load(tmp_path / name, threads=1).sample([1, 2], guidance=2.0) for name in ("bundle", "plain"))
    error = float(np.abs(got - want).max() / np.abs(want).max())
    assert 1e-5 < error < 0.3, error


@pytest.mark.parametrize("axis", [0, 1])
def test_openvino_quantises_behind_a_concatenation(axis: int, tmp_path: Path) -> None:
    """A convolution that only selects channels gives the rounded input, on every CPU (no sum can saturate)."""
    pytest.importorskip("openvino")
    channels = 4 * (axis + 1)

    def build(b: Builder, x: Var, y: Var) -> Var:
        weight = b.param("conv.weight", f32(channels, channels, 1, 1), "zeros")
        return b.conv(b.concat(x, y, axis=axis), weight)

    module = module_of([f32(Sym("B"), 4, 2, 2)] * 2, build)
    quantised = quantize(module, {"conv.weight": LayerQuant("int8")}, "openvino")
    scale = np.float32(4 / 127)
    weight = np.eye(channels, dtype=np.float32).reshape(channels, channels, 1, 1)
    held = FileTensors({"conv.weight": Array(weight), "conv.input_scale": Array(scale)})
    model = onnx_from_module(flat_module(quantised, "main"), "main", held, outputs=["out"])
    x, y = np.random.default_rng(0).uniform(-4, 4, (2, 3, 4, 2, 2)).astype(np.float32)
    backend = open_backend("cpu", 1, "openvino")
    got = backend.array(backend.engine(*written(model, held, tmp_path)).run({"x0": x, "x1": y}, ["out"])["out"])
    np.testing.assert_allclose(got, np.round(np.concatenate([x, y], axis) / scale) * scale, atol=2e-3)


def test_control_another_scale(tmp_path: Path) -> None:
    """An engine given a quarter of one input's scale is found."""
    given = made("digits_dit", "onnxruntime", "int8")
    (want, *_) = Interpreter(given.after, given.weights).run(ENTRY, *given.inputs, prefix="main")
    path = "main.blocks.0.mlp.fc1.input_scale"
    given.weights[path] = given.weights[path] / 4
    got = engine_result(given, *network(given, tmp_path))
    assert np.abs(got - want).max() > 2 * TOLERANCE * np.abs(want).max()


@pytest.mark.parametrize(
    ("scheme", "kernel"),
    [
        ("int8", "MatMulIntegerToFloat"),
        ("int8_dynamic", "DynamicQuantizeMatMul"),
        ("int8_weights", "MatMulNBits"),
        ("int4_weights", "MatMulNBits"),
        ("nvfp4_weights", "MatMulNBits"),
        ("mxfp4_weights", "MatMulNBits"),
    ],
)
def test_onnx_runtime_runs_them_as_one_operator(scheme: Any, kernel: str, tmp_path: Path) -> None:
    """Every layer of the plan; and of what DynamicQuantizeLinear and its kin would be, none is left."""
    given = made("digits_dit", "onnxruntime", scheme)
    model, _ = network(given, tmp_path)
    onnx.checker.check_model(str(model))
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    graph = onnx.load(options.optimized_model_filepath, load_external_data=False).graph
    counts = Counter(node.op_type for node in graph.node)
    assert counts[kernel] == len(given.quantization.plan)
    assert not {"MatMulInteger", "DynamicQuantizeLinear", "DequantizeLinear"} & set(counts)


def test_openvino_multiplies_integers(tmp_path: Path) -> None:
    """Each layer is one of i8, the patch embedding's convolution among them."""
    pytest.importorskip("openvino")
    given = made("digits_dit", "openvino", "int8")
    model, _ = network(given, tmp_path)
    compiled = core().compile_model(core().read_model(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    operations = compiled.get_runtime_model().get_ops()
    kinds = Counter(
        op.get_rt_info()["layerType"].astype(str)
        for op in operations
        if "i8" in op.get_rt_info()["primitiveType"].astype(str).lower()
    )
    products = sum(n for kind, n in kinds.items() if kind.startswith(("FullyConnected", "Convolution")))
    assert products == len(given.quantization.plan), kinds


@pytest.mark.parametrize(
    ("name", "scheme", "capabilities", "dtype"),
    [
        ("digits_dit", "int8", "sm80, sm89, sm120", "int8"),
        ("digits_dit", "fp8", "sm89, sm120", "fp8_e4m3"),
        ("digits_dit", "int4_weights", "sm89", "half"),
        ("digits_dit", "nvfp4", "sm120", "fp4_e2m1"),
        ("digits_dit", "mxfp4_weights", "sm120", "half"),
        ("digits_llamagen", "int8", "sm80", "int8"),
        ("digits_llamagen", "fp8", "sm120", "fp8_e4m3"),
        ("digits_llamagen", "int4_weights", "sm89", "half"),
    ],
)
def test_plans_hold_quantised_kernels(
    name: str, scheme: Any, capabilities: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Built ahead of time, for a dynamic batch: every layer of the blocks multiplies in 8 bits, none in half."""
    pytest.importorskip("tensorrt_rtx")
    pytest.importorskip("polygraphy")
    monkeypatch.setenv("LATENTC_CACHE", str(tmp_path / "cache"))
    profile = f"target={{engine: tensorrt-rtx, precision: fp16, capabilities: [{capabilities}], form: host}}"
    given = made(name, "tensorrt-rtx", scheme, False, profile, "target.profiles=[{min: 1, opt: 2, max: 4}]")
    manifest = bundle_from_lowered(
        optimised(given.lowered, given.spec, None, given.quantization),
        given.spec,
        {"main": expressions(given)},
        tmp_path / "bundle",
        spec_text=resolved_yaml(given.spec),
        form="host",
    )
    from latentc.export.plan_worker import products

    steps = [p for p in manifest.plans if p.file == "step.onnx"]
    assert len(steps) == capabilities.count("sm")
    for plan in steps:
        counts = products((tmp_path / "bundle" / plan.plan).read_bytes())
        assert counts.get(dtype, 0) >= 8, counts  # four layers in each of two blocks
        assert plan.fused_attentions >= 2
    # The engine files beside the plans run anywhere that knows ONNX.
    assert json.loads((tmp_path / "bundle" / "manifest.json").read_text())["precision"] == "fp16"


def test_a_plan_that_dequantises_is_refused(tmp_path: Path) -> None:
    from latentc.diagnostics import DiagnosticError
    from latentc.export.plans import _refuse_unquantised, quantised_dtypes

    model, _ = network(made("digits_dit", "openvino", "int8"), tmp_path)
    wanted = quantised_dtypes(onnx.load(str(model), load_external_data=False))
    assert wanted == {"int8"}
    _refuse_unquantised("step.onnx", wanted, {"int8": 1, "half": 5})
    _refuse_unquantised("step.onnx", wanted, None)
    with pytest.raises(DiagnosticError) as caught:
        _refuse_unquantised("step.onnx", wanted, {"half": 15})
    assert caught.value.diagnostics[0].code == "E0508" and "15 in half" in caught.value.diagnostics[0].message
    plain, _ = network(made("digits_dit", "openvino", "int8_weights"), tmp_path)
    assert quantised_dtypes(onnx.load(str(plain), load_external_data=False)) == set()
