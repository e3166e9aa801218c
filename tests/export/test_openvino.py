"""The target openvino: every lowering and every shipped spec in OpenVINO against the float64 interpreter."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from bundles import tiny_bundle
from hypothesis import example, given, settings
from hypothesis import strategies as st
from inline_tensors import InlineTensors
from onnx_runs import array, assert_close, module_of, weights_of
from test_lowerings import CASES
from tiny_systems import SYSTEMS

import latentc_runtime
from latentc.engines import ENGINES
from latentc.export.bundle import bundle_from_lowered
from latentc.export.forms import for_form
from latentc.export.onnx import flat_module, onnx_from_module
from latentc.ir.core import parameters, reachable, walk
from latentc.ir.interpret import Interpreter
from latentc.ir.ops import OPS
from latentc.ir.ops.elementwise import gelu
from latentc.ir.types import Sym, f32
from latentc.ir.verify import verify
from latentc.lower import lower
from latentc.measure.metrics import relative_error
from latentc.measure.tolerances import TOLERANCES
from latentc.passes.decompose import decompose_attention, fold_heads
from latentc.passes.fuse import fuse, linears
from latentc.passes.gelu import GELU_FORMS
from latentc.passes.shared_weights import separate_shared_weights
from latentc.pipeline import optimised
from latentc.spec import load_spec, resolved_yaml
from latentc.weights import Array
from latentc_runtime.backends import open_backend
from latentc_runtime.request import check_request

pytest.importorskip("openvino")

CLASSES = [1, 0, 4]
TINY = ["backbone.width=32", "backbone.depth=2", "backbone.block.mixer.heads=4"]
DENOISER = [*TINY, "data={kind: npz, classes: 5, shape: [4, 8, 8]}", "objective.process.steps=100"]
TOKENS = [*TINY, "data={kind: npz, classes: 5, tokens: {vocabulary: 11, grid: [4, 4]}}",
          "backbone.block.feed_forward.multiple_of=8", "sampler.top_k=5"]  # fmt: skip
SPECS: dict[str, list[str]] = {
    "dit": [*DENOISER, "sampler.steps=4"],
    "sit": [*TINY, "data={kind: npz, classes: 5, shape: [4, 8, 8]}", "sampler.steps=4"],
    "llamagen": TOKENS,
    "digits_dit": ["backbone.width=32", "backbone.depth=2", "sampler.steps=4"],
    "digits_llamagen": ["backbone.depth=2"],
    # groups of six steps: a loop in a loop
    "dit cached": [*DENOISER, "sampler.steps=12", "optimize.cache={blocks: [0, 2], every: 6}"],
}


# What is quantised is tested in whole networks: OpenVINO 2026.4 is right only where its scales are constant.
@pytest.mark.parametrize("op", sorted(op for op in CASES if not OPS[op].engine_only))
def test_every_lowering(op: str, tmp_path: Path) -> None:
    backend = open_backend("cpu", 1, "openvino")
    for types, build, low, high in CASES[op]:
        module = module_of(types, build)
        inputs = [np.asarray(array(t, low, high)) for t in types]
        flat = verify(flat_module(module, "main"), "inlined")
        model = onnx_from_module(flat, "main", InlineTensors(_no_weight))
        (tmp_path / "op.onnx").write_bytes(model.SerializeToString())
        names = [o.name for o in model.graph.output]
        feed = dict(zip([i.name for i in model.graph.input], inputs, strict=True))
        got = backend.engine(tmp_path / "op.onnx", {}).run(feed, names)
        for name, want in zip(names, Interpreter(module).run("main", *inputs), strict=True):
            assert_close(backend.array(got[name]), np.asarray(want))


def _no_weight(path: str, param: Any) -> Any:
    raise AssertionError(path)


@functools.cache
def lowered_of(name: str, precision: str = "fp32") -> Any:
    spec = load_spec(name.split()[0], None, [*SPECS[name], f"target={{engine: openvino, precision: {precision}}}"])
    return spec, lower(spec)


def arrays_of(lowered: Any) -> dict[str, Any]:
    return weights_of(parameters(lowered.module, lowered.networks["main"].methods["forward"].function))


def compiled(name: str, folder: Path, precision: str = "fp32", weights: Any = None, **options: Any) -> Any:
    """The bundle of a shrunk spec, opened."""
    spec, lowered = lowered_of(name, precision)
    given = {path: Array(a) for path, a in (weights or arrays_of(lowered)).items()}
    ready = optimised(lowered, spec)
    bundle_from_lowered(ready, spec, {"main": given}, folder, spec_text=resolved_yaml(spec), max_batch=8, **options)
    return latentc_runtime.load(folder, threads=1)


def oracle(name: str, pipe: Any) -> Any:
    _, lowered = lowered_of(name)
    request = check_request(pipe.manifest, pipe.program(), CLASSES, 5)
    inputs = [request.array(i) for i in pipe.program().inputs]
    interpreter = Interpreter(lowered.module, {f"main.{k}": v for k, v in arrays_of(lowered).items()})
    return interpreter.run(lowered.programs[0].entry, *inputs)[0]


@pytest.mark.parametrize("form", ["unroll", "loop", "host"])
@pytest.mark.parametrize("name", SPECS)
def test_every_shipped_spec_in_every_form(name: str, form: str, tmp_path: Path) -> None:
    if form == "unroll" and "llamagen" in name:
        pytest.skip("64 tokens written out take long and say nothing new")
    pipe = compiled(name, tmp_path / "b", form=form)
    assert (pipe.manifest.engine, pipe.manifest.precision) == ("openvino", "fp32")
    assert "openvino" in pipe.manifest.versions
    want, got = oracle(name, pipe), pipe.sample(CLASSES, seeds=5)
    assert relative_error(got, want) <= (0 if want.dtype.kind == "i" else TOLERANCES["fp32"].sampler)


@pytest.mark.parametrize("form", ["loop", "host"])
@pytest.mark.parametrize("name", SPECS)
def test_bfloat16(name: str, form: str, tmp_path: Path) -> None:
    pipe = compiled(name, tmp_path / "b", "bf16", form=form)
    want, got = oracle(name, pipe), pipe.sample(CLASSES, seeds=5)
    if want.dtype.kind == "i":
        # Rounding decides some draws, and what follows one that differs is another sequence: most agree.
        assert got.shape == want.shape and np.mean(got == want) > 0.5
    else:
        assert relative_error(got, want) <= TOLERANCES["bf16"].sampler


def test_a_spoilt_weight_shows(tmp_path: Path) -> None:
    _, lowered = lowered_of("dit")
    weights = dict(arrays_of(lowered))
    weights["blocks.0.mlp.fc1.weight"] = weights["blocks.0.mlp.fc1.weight"] * np.float32(1.05)
    pipe = compiled("dit", tmp_path / "b", weights=weights)
    assert relative_error(pipe.sample(CLASSES, seeds=5), oracle("dit", pipe)) > TOLERANCES["fp32"].sampler


def test_the_bundle_runs_on_onnx_runtime_as_well(tmp_path: Path) -> None:
    pipe = compiled("digits_llamagen", tmp_path / "b", "bf16")
    other = latentc_runtime.load(tmp_path / "b", threads=1, engine="onnxruntime")
    assert relative_error(other.sample(CLASSES, seeds=5), oracle("digits_llamagen", pipe)) == 0


def test_attention_is_written_out() -> None:
    """All but causal ones without a mask, which the shipped samplers have none of."""
    for name in ("digits_llamagen", "dit"):
        spec, lowered = lowered_of(name)
        module = optimised(lowered, spec).module
        assert all(node.attrs["causal"] and len(node.inputs) == 3 for _, node in walk(module) if node.op == "attention")
        ops = [node.op for fn in (module.functions[f] for f in reachable(module)) for node in fn.nodes]
        assert ops.count("softmax") >= 1


def test_loop_is_chosen_where_onnx_runtime_would_unroll(tmp_path: Path) -> None:
    entry = compiled("digits_dit", tmp_path / "b").program()
    assert entry.form == "loop"
    ops = {node.op_type for node in onnx.load(str(tmp_path / "b/sample.onnx"), load_external_data=False).graph.node}
    assert "Loop" in ops


def test_gelu_in_bfloat16_and_its_tanh_form_lie_close() -> None:
    x = np.linspace(-10, 10, 200001)
    apart = np.abs(gelu(x, "tanh") - gelu(x, "none")).max()
    assert 0.99 * GELU_FORMS < apart < GELU_FORMS


@pytest.mark.parametrize(("precision", "form"), [("fp32", "tanh"), ("bf16", "none")])
def test_gelu_is_by_the_error_function_in_bfloat16_alone(precision: str, form: str) -> None:
    spec, lowered = lowered_of("dit", precision)
    module = optimised(lowered, spec).module
    assert {node.attrs["approximate"] for _, node in walk(module) if node.op == "gelu"} == {form}


def test_feed_forwards_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As wide ones are: the same samples as whole, by weights that are cut."""
    monkeypatch.setattr(linears, "INNER_WIDTH", 32)
    monkeypatch.setattr(linears, "SEPARATE_ROWS", 16)
    for precision, cut in (("fp32", False), ("bf16", True)):
        spec, lowered = lowered_of("dit", precision)
        module = optimised(lowered, spec).module
        assert any(".columns32-64" in path for path in parameters(module, module.entries["main.forward"])) == cut
    pipe = compiled("dit", tmp_path / "b", "bf16")
    assert relative_error(pipe.sample(CLASSES, seeds=5), oracle("dit", pipe)) <= TOLERANCES["bf16"].sampler


def test_a_feed_forward_in_parts_right_before_another_matmul(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO 2026.4 cannot compile such a sum, without a norm after it, in axes of batch and tokens."""
    monkeypatch.setattr(linears, "INNER_WIDTH", 32)

    def build(b: Any, x: Any) -> Any:
        def linear(x: Any, name: str, out: int) -> Any:
            return b.linear(
                x, b.param(f"{name}.w", f32(out, x.shape[-1]), "normal"), b.param(f"{name}.b", f32(out), "ones")
            )

        x = x + linear(x, "proj", 32)
        h = linear(b.layer_norm(x, eps=1e-5), "fc1", 64)
        x = x + linear(b.gelu(h, approximate="none"), "fc2", 32)
        return linear(x, "out", 16)

    before = module_of([f32(Sym("B"), 64, 32)], build)
    module = fuse(before, (linears.INNER_PARTS,))
    assert sum(node.op == "gelu" for _, node in walk(module)) == 2
    assert openvino_error(before, module, tmp_path / "op.onnx") < TOLERANCES["fp32"].forward


def looped_group_norms() -> Any:
    """Group norms, with and without scale and shift, in a loop and once behind it."""

    def block(b: Any, x: Any, affine: Any) -> Any:
        y = b.silu(b.group_norm(x, *affine, groups=4, eps=1e-5))
        return b.group_norm(x + y, groups=2, eps=1e-5)

    def build(b: Any, x: Any) -> Any:
        affine = [b.param("scale", f32(8), "ones"), b.param("shift", f32(8), "zeros")]

        def step(b: Any, i: Any, kept: Any, state: Any, rows: Any) -> Any:
            return [block(b, state[0], kept)], []

        (x,) = b.loop("step", 3, step, invariants=affine, carried=[x])
        return block(b, x, affine)

    return module_of([f32(Sym("B"), 8, 6, 6)], build)


@pytest.mark.parametrize("precision", ENGINES["openvino"].precisions)
def test_group_norms_in_a_loop(precision: str, tmp_path: Path) -> None:
    before = looped_group_norms()
    module = for_form(before, "loop", ENGINES["openvino"])
    counts = [sum(n.op == "group_norm" for n in fn.nodes) for _, fn in sorted(module.functions.items())]
    assert sorted(counts) == [0, 2]  # outside of loops it stays an operator
    assert openvino_error(before, module, tmp_path / "op.onnx", precision) < TOLERANCES[precision].forward


def openvino_error(before: Any, module: Any, path: Path, precision: str = "fp32") -> float:
    """Error of `module`, of one input [B, …], in OpenVINO, beside `before` in the interpreter."""
    weights = weights_of(parameters(before, "main"))
    tensors = InlineTensors(lambda path, _: weights[path])
    model = onnx_from_module(verify(flat_module(module, "main"), "inlined"), "main", tensors)
    path.write_bytes(model.SerializeToString())
    (given,) = before.entry("main").inputs
    x = np.random.default_rng(0).standard_normal((3, *given.type.shape[1:])).astype(np.float32)
    name = model.graph.output[0].name
    backend = open_backend("cpu", 1, "openvino", precision)
    got = backend.array(backend.engine(path, {}).run({"x0": x}, [name])[name])
    (want,) = Interpreter(before, weights).run("main", x)
    return relative_error(got, np.asarray(want))


def read_in_every_trip(depth: int) -> Any:
    """Invariants of a loop, or of one in another, whose softmax and view each trip takes."""

    def build(b: Any, x: Any) -> Any:
        def loop(b: Any, depth: int, given: Any, x: Any) -> Any:
            def step(b: Any, i: Any, kept: Any, state: Any, rows: Any) -> Any:
                given, weight = kept
                if depth > 1:
                    return [loop(b, depth - 1, kept, state[0])], []
                shares = b.softmax(b.reshape(given, shape=(given.shape[0], 8, 36)), axis=1)
                h = b.conv(b.reshape(shares, shape=given.shape), weight)
                return [b.silu(h) + state[0] * 0.5], []

            return b.loop(f"loop_{depth}", 3, step, invariants=given, carried=[x])[0]

        weight = b.param("weight", f32(8, 8, 1, 1), "normal", std=0.5)
        return loop(b, depth, [b.silu(x), weight], x)

    return module_of([f32(Sym("B"), 8, 6, 6)], build)


@pytest.mark.parametrize("depth", [1, 2])
def test_invariants_stay_what_they_are(depth: int, tmp_path: Path) -> None:
    """OpenVINO overwrites one that a softmax reads, unless the loop carries it; the weight is a constant."""
    before = read_in_every_trip(depth)
    assert ENGINES["openvino"].overwrites_invariants
    module = for_form(before, "loop", ENGINES["openvino"])
    loops = [node.attrs for _, node in walk(module) if node.op == "loop"]
    assert sorted((loop["invariants"], loop["carried"]) for loop in loops) == [(1, 2), (2, 1)][:depth]
    assert openvino_error(before, module, tmp_path / "op.onnx") < TOLERANCES["fp32"].forward
    assert openvino_error(before, before, tmp_path / "op.onnx") > 0.1, "no longer needed?"


def test_a_convolution_and_a_transposed_one_of_one_weight(tmp_path: Path) -> None:
    """As in the gradient of a convolution, in a loop and outside; a transposed one of its own weight stays as it is."""

    def build(b: Any, x: Any) -> Any:
        shared, own = (b.param(name, f32(8, 8, 3, 3), "normal", std=0.1) for name in ("shared", "own"))

        def step(b: Any, i: Any, kept: Any, state: Any, rows: Any) -> Any:
            h = b.conv(b.conv_transpose(state[0], kept[1], padding=1), kept[0], padding=1)
            return [b.conv_transpose(h, kept[0], padding=1)], []

        (x,) = b.loop("step", 2, step, invariants=[shared, own], carried=[x])
        h = b.conv(x, shared, stride=2, padding=1)
        return b.conv_transpose(h, shared, stride=2, padding=1, output_padding=1)

    _check_shared(build, 2, tmp_path)


@pytest.mark.parametrize("op", ["linear", "matmul"])
def test_a_product_and_one_by_the_transpose_of_one_weight(op: str, tmp_path: Path) -> None:
    def build(b: Any, x: Any) -> Any:
        weight = b.param("weight", f32(6, 6), "normal", std=0.5)
        if op == "linear":
            return b.matmul(b.linear(x, weight), weight)
        return b.matmul(b.matmul(x, weight), b.transpose(weight, perm=(1, 0)))

    _check_shared(build, 1, tmp_path)


def _check_shared(build: Any, pairs: int, folder: Path) -> None:
    before = module_of([f32(Sym("B"), 8, 6, 6)], build)
    assert ENGINES["openvino"].mixes_shared_weights
    module = separate_shared_weights(before)
    assert sum(node.op == "neg" for _, node in walk(module)) == 2 * pairs
    assert openvino_error(before, module, folder / "op.onnx") < TOLERANCES["fp32"].forward


QUERIES = {
    "as they are": lambda b, q: q,
    "norm": lambda b, q: b.pixel_norm(q, axis=-1, eps=1e-4),
    "rotary": lambda b, q: _rotated(b, q),
    "norm and rotary": lambda b, q: _rotated(b, b.pixel_norm(q, axis=-1, eps=1e-4)),
    "bias": lambda b, q: q + b.constant(np.linspace(-1, 1, int(q.shape[-1])), "f32"),
    "softmax": lambda b, q: b.softmax(q, axis=-1),
}


def _rotated(b: Any, q: Any) -> Any:
    angles = np.arange(int(q.shape[2]) * int(q.shape[3]) / 2).reshape(int(q.shape[2]), -1)
    return b.rotary(q, b.constant(np.cos(angles), "f32"), b.constant(np.sin(angles), "f32"), interleaved=False)


SIDES = st.sampled_from([1, 2, 3, 4, 8])  # few, so that axes often have equal sizes


@given(
    queries=st.sampled_from(sorted(QUERIES)),
    heads=SIDES,
    tokens=SIDES,
    keys=SIDES,
    size=st.sampled_from([2, 4, 8]),
    shared=st.booleans(),
    mask=st.sampled_from([None, "causal", "keys", "heads"]),
)
@example(queries="norm", heads=4, tokens=4, keys=4, size=8, shared=False, mask=None)
@example(queries="rotary", heads=4, tokens=4, keys=3, size=8, shared=True, mask="heads")
@settings(max_examples=40, deadline=None)
def test_attentions_of_any_sizes(
    queries: str, heads: int, tokens: int, keys: int, size: int, shared: bool, mask: str | None
) -> None:
    """Whatever axes have equal sizes: as many queries as heads were mistaken for each other."""
    keys = tokens if mask == "causal" else keys
    of_keys = f32(Sym("B"), keys, 1 if shared else heads, size)
    types = [f32(Sym("B"), tokens, heads, size), of_keys, of_keys]
    types += [f32(Sym("B"), heads if mask == "heads" else 1, tokens, keys)] if mask in ("keys", "heads") else []

    def build(b: Any, q: Any, k: Any, v: Any, *masks: Any) -> Any:
        q, k, v = (b.transpose(x, perm=(0, 2, 1, 3)) for x in (q, k, v))
        h = b.attention(QUERIES[queries](b, q), k, v, *masks, causal=mask == "causal", scale=None)
        return b.reshape(b.transpose(h, perm=(0, 2, 1, 3)), shape=(h.shape[0], tokens, heads * size))

    before = module_of(types, build)
    module = decompose_attention(fold_heads(before))
    model = onnx_from_module(verify(flat_module(module, "main"), "inlined"), "main", InlineTensors(_no_weight))
    inputs = [np.asarray(array(t, rng=np.random.default_rng(i))) for i, t in enumerate(types)]
    name = model.graph.output[0].name
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "op.onnx"
        path.write_bytes(model.SerializeToString())
        feed = dict(zip([i.name for i in model.graph.input], inputs, strict=True))
        got = _openvino().engine(path, {}).run(feed, [name])[name]
    (want,) = Interpreter(before).run("main", *inputs)
    assert relative_error(_openvino().array(got), np.asarray(want)) < TOLERANCES["fp32"].forward


@functools.cache
def _openvino() -> Any:
    return open_backend("cpu", 1, "openvino")


def test_every_run_gives_the_same(tmp_path: Path) -> None:
    """The first rows of PixelCNN++ begin with zeros, which OpenVINO computes once and then adds to."""
    system = SYSTEMS["pixelcnn_pp"]
    sizes = (*system.sizes, "data={kind: npz, path: x.npz, shape: [1, 4, 4], classes: 10}", "target.engine=openvino")
    pipe = latentc_runtime.load(tiny_bundle(system.spec, tmp_path / "bundle", sizes, variant=system.variant), "cpu")
    first, *others = (pipe.sample([0], seeds=[3]) for _ in range(3))
    assert all(np.array_equal(first, samples) for samples in others)
