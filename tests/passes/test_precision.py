"""Precision: golden before and after, rounding as numpy and ONNX Runtime do it, and the first value that is lost."""

import functools
import re

import numpy as np
import pytest
from gradients import weights_of
from inline_tensors import InlineTensors
from ir_parse import module_from_text
from test_cleanup import HEADER, section

from latentc.export.onnx import flat_module, onnx_from_module
from latentc.ir.builder import ModuleBuilder, module_class
from latentc.ir.core import parameters, walk
from latentc.ir.interpret import Interpreter
from latentc.ir.text import text_from_module
from latentc.ir.types import B, Sym, f32
from latentc.ir.verify import verify
from latentc.lower import lower
from latentc.measure.metrics import relative_error
from latentc.measure.tolerances import TOLERANCES
from latentc.passes.cleanup import cleanup
from latentc.passes.precision import caches_in_half, precision
from latentc.pipeline import optimised
from latentc.quantize.precision import first_overflow
from latentc.spec import load_spec

# title -> (precision, a module before the pass)
GOLDEN = {
    "Products in half, the norm and the time's embedding in f32; the sampler's state stays": (
        "fp16",
        """
entry sample = "sample"

fn "Net.forward" = Net.forward {} (%x: f32[B, 4], %t: f32[B]) {
  weight %norm.weight: f32[4] = ones {}
  weight %fc.weight: f32[4, 4] = zeros {}
  %e: f32[B, 4] = timestep_embedding(%t) {dim=4, max_period=10000.0}
  %h: f32[B, 4] = layer_norm(%x, %norm.weight) {eps=1e-06}
  %m: f32[B, 4] = linear(%h, %fc.weight)
  %s: f32[B, 4] = add(%m, %e)
  %y: f32[B, 4] = add(%x, %s)
  return %y
}

fn "sample" (%x: f32[B, 4], %t: f32[B]) {
  %v: f32[B, 4] = call(%x, %t) {fn="Net.forward", name="main", args={}}
  %y: f32[B, 4] = sub(%x, %v)
  return %y
}
""",
    ),
    "What networks alone hand each other around a loop is half; numbers beyond f16 become its largest": (
        "fp16",
        """
entry sample = "sample"

fn "Net.step" = Net.step {} (%x: f32[B, 4], %cache: f32[B, 4]) {
  weight %fc.weight: f32[4, 4] = zeros {}
  %low: f32[] = constant() {value=array(f64, [], -1e+30), dtype="f32"}
  %h: f32[B, 4] = linear(%x, %fc.weight)
  %grown: f32[B, 4] = add(%cache, %h)
  %m: f32[B, 4] = maximum(%grown, %low)
  %y: f32[B, 4] = softmax(%m) {axis=1}
  return %y, %grown
}

fn "body" (%i: i64[], %x: f32[B, 4], %cache: f32[B, 4]) {
  %v: f32[B, 4], %grown: f32[B, 4] = call(%x, %cache) {fn="Net.step", name="main", args={}}
  %y: f32[B, 4] = sub(%x, %v)
  return %y, %grown
}

fn "sample" (%x: f32[B, 4]) {
  %cache: f32[B, 4] = full(%x) {shape=(4), value=0.0, dtype="f32"}
  %y: f32[B, 4], %end: f32[B, 4] = loop(%x, %cache) {body="body", trip=3, invariants=0, carried=2}
  return %y
}
""",
    ),
    "An entry that is a network itself keeps its signature": (
        "bf16",
        """
entry main.forward = "Net.forward"

fn "Net.forward" = Net.forward {} (%x: f32[B, 4]) {
  weight %fc.weight: f32[2, 4] = zeros {}
  %y: f32[B, 2] = linear(%x, %fc.weight)
  return %y
}
""",
    ),
}

SPECS = {
    "ddim": ("digits_dit", "backbone.width=64", "backbone.depth=2", "sampler.steps=3"),
    "unipc": ("digits_dit", "backbone.width=64", "backbone.depth=2", "sampler={kind: unipc, steps: 3}"),
    "experts": (
        "digits_dit",
        "backbone.width=64",
        "backbone.depth=2",
        "sampler.steps=3",
        # Every expert: rounding that sends a token to another one is no error that a tolerance could bound.
        "backbone.block.feed_forward={kind: mixture_of_experts, experts: 4, per_token: 4, ratio: 2}",
        "optimize.experts=dense",  # as half precision has it
    ),
    "flow": ("sit", "backbone.width=64", "backbone.depth=2", "backbone.block.mixer.heads=2", "sampler.steps=2"),
    "tokens": ("digits_llamagen", "backbone.depth=2"),
}


@functools.cache
def system(name):
    spec = load_spec(SPECS[name][0], None, list(SPECS[name][1:]))
    lowered = optimised(lower(spec), spec)
    weights = weights_of(lowered.module, lowered.programs[0].entry)
    return lowered, weights | {path.removeprefix("main."): w for path, w in weights.items()}


def inputs_of(fn, samples=2):
    rng = np.random.default_rng(1)
    made = []
    for v in fn.inputs:
        shape = [samples * d.factor if isinstance(d, Sym) else int(d) for d in v.type.shape]
        if v.type.dtype == "i64":
            made.append(rng.integers(0, 9, shape))
        else:
            made.append(rng.uniform(0.05, 0.95, shape) if v.name in ("u", "t") else rng.standard_normal(shape))
    return made


def forward_inputs(lowered):
    entry = "main.forward"
    return entry, inputs_of(lowered.module.entry(entry))


def test_golden(golden):
    parts = ["# The pass `precision`\n"]
    for title, (arithmetic, text) in GOLDEN.items():
        before = verify(module_from_text(HEADER + text))
        after = verify(precision(before, arithmetic), "expanded")
        parts.append(section(f"{title} ({arithmetic})", text_from_module(before), text_from_module(after)))
    golden("passes/precision.md", "\n".join(parts))


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("arithmetic", ["fp16", "bf16"])
def test_half_stays_within_its_tolerance(name, arithmetic):
    lowered, weights = system(name)
    half = verify(cleanup(verify(precision(lowered.module, arithmetic), "expanded")), "expanded")
    assert text_from_module(verify(module_from_text(text_from_module(half)), "expanded")) == text_from_module(half)
    entry, inputs = forward_inputs(lowered)
    (want, *_), (got, *_) = (
        Interpreter(lowered.module, weights).run(entry, *inputs),
        Interpreter(half, weights, "declared").run(entry, *inputs),
    )
    error = relative_error(got, want)
    assert 0 < error < TOLERANCES[arithmetic].forward
    if name == "tokens":  # rounding decides between tokens: there is no distance between two sequences
        return
    program = lowered.programs[0].entry
    inputs = inputs_of(lowered.module.entry(program))
    want = Interpreter(lowered.module, weights).run(program, *inputs)[0]
    got = Interpreter(half, weights, "declared").run(program, *inputs)[0]
    assert got.dtype == np.float32
    assert 0 < relative_error(got, want) < TOLERANCES[arithmetic].sampler


def test_what_decides_between_experts_is_wide():
    half = precision(system("experts")[0].module, "bf16")
    (gate,) = {p for fn in half.functions.values() for p in fn.params if p.name == "gate.weight"}
    (up,) = {p for fn in half.functions.values() for p in fn.params if p.name == "w1.0"}
    assert (gate.type.dtype, up.type.dtype) == ("f32", "bf16")


@pytest.mark.parametrize("name", SPECS)
def test_onnx_runtime_computes_the_same(name):
    ort = pytest.importorskip("onnxruntime")
    lowered, weights = system(name)
    entry, inputs = forward_inputs(lowered)
    want = Interpreter(lowered.module, weights).run(entry, *inputs)[0]
    half = precision(lowered.module.with_(entries={entry: lowered.module.entries[entry]}), "fp16")
    flat = verify(flat_module(half, entry), "inlined")
    model = onnx_from_module(flat, entry, InlineTensors(lambda path, param: weights[path]))
    assert {i.type.tensor_type.elem_type for i in model.graph.input} <= {1, 7}  # f32, i64
    assert {o.type.tensor_type.elem_type for o in model.graph.output} == {1}
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {
        i.name: x.astype(np.int64 if "int64" in i.type else np.float32)
        for i, x in zip(session.get_inputs(), inputs, strict=True)
    }
    got = session.run(None, feeds)[0]
    assert got.dtype == np.float32
    assert relative_error(got, want) < TOLERANCES["fp16"].forward


def test_islands_caches_and_state():
    lowered, _ = system("tokens")
    half = precision(lowered.module, "fp16")
    for fn in half.functions.values():
        for node in fn.nodes:
            dtypes = {v.type.dtype for v in node.inputs if v.type.is_float}
            if node.op in ("rms_norm", "layer_norm", "softmax", "cumsum", "top_k", "timestep_embedding"):
                assert dtypes == {"f32"}, node.op
            if node.op in ("linear", "attention", "update_slice"):
                assert dtypes == {"f16"}, node.op
    loops = [n for n in half.entry(lowered.programs[0].entry).nodes if n.op == "loop"]
    carried = [v.type.dtype for v in loops[0].outputs]
    assert carried.count("f16") == 4  # keys and values of two blocks
    stored = parameters(half, half.entries[lowered.programs[0].entry])
    assert {p.type.dtype for path, p in stored.items() if re.search(r"(proj|w[123]|output)\.weight$", path)} == {"f16"}
    assert {p.type.dtype for path, p in stored.items() if "norm" in path} == {"f32"}


def test_caches_alone_in_half():
    lowered, weights = system("tokens")
    kept = caches_in_half(lowered.module, "bf16")
    entry = lowered.programs[0].entry
    for _, node in walk(verify(kept, "expanded")):
        if node.op in ("linear", "attention"):
            assert {v.type.dtype for v in node.inputs if v.type.is_float} == {"f32"}, node.op
    (loop,) = (n for n in kept.entry(entry).nodes if n.op == "loop")
    assert [v.type.dtype for v in loop.outputs].count("bf16") == 4
    assert {p.type.dtype for p in parameters(kept, kept.entries[entry]).values() if p.type.is_float} == {"f32"}
    inputs = inputs_of(lowered.module.entry("main.decode"))
    inputs[:2] = [np.asarray([3, 5]), np.asarray(2)]  # tokens and their position
    want = Interpreter(lowered.module, weights).run("main.decode", *inputs)[0]
    got = Interpreter(kept, weights, "declared").run("main.decode", *inputs)[0]
    assert 0 < relative_error(got, want) < TOLERANCES["bf16"].forward
    assert caches_in_half(lowered.module, "fp32") is lowered.module


@pytest.mark.parametrize("where", ["one function", "two entries", "calls within calls"])
def test_a_weight_has_one_dtype_wherever_it_is_bound(where):
    """As when hoisting has cut a method in two halves, of which one computes in half with what the other keeps wide."""
    mb = ModuleBuilder()
    for name, op in (("early", "mul"), ("late", "layer_norm")):
        b = mb.function(name)
        weight = b.param("w", f32(4), "ones")
        b.output(
            b.mul(b.input("x", f32(B, 4)), weight)
            if op == "mul"
            else b.layer_norm(b.input("x", f32(B, 4)), weight, eps=1e-5)
        )
        b.finish()
        b = mb.function(f"around.{name}")
        b.output(b.call(name, "inner", b.input("x", f32(B, 4))))
        b.finish()
    called = "around." if where == "calls within calls" else ""
    if where == "two entries":
        for name in ("early", "late"):
            b = mb.function(f"sample.{name}")
            b.output(b.call(name, "main", b.input("x", f32(B, 4))))
            mb.entries[name] = b.finish()
    else:
        b = mb.function("sample")
        b.output(b.call(f"{called}late", "main", b.call(f"{called}early", "main", b.input("x", f32(B, 4)))))
        mb.entries["sample"] = b.finish()
    after = verify(precision(verify(mb.finish(), "expanded"), "fp16"), "expanded")
    assert {p.type.dtype for fn in after.functions.values() for p in fn.params} == {"f16"}


def test_single_precision_is_no_work():
    lowered, _ = system("ddim")
    assert precision(lowered.module, "fp32") is lowered.module
    assert caches_in_half(lowered.module, "bf16") is lowered.module


@module_class("Block")
def block(b, x, *, dim):
    return x + b.dense("fc", b.gelu(b.dense("up", x, dim), approximate="tanh"), dim)


@module_class("Net")
def net(b, x, *, dim, depth):
    for i in range(depth):
        x = b.sub(f"blocks.{i}", block, x, dim=dim)
    return x


def test_the_first_value_that_is_lost_is_named():
    mb = ModuleBuilder()
    b = mb.function("f")
    b.output(b.sub("main", net, b.input("x", f32(B, 8)), dim=8, depth=4))
    mb.entries["f"] = b.finish()
    module = verify(mb.finish())
    weights = weights_of(module, "f")
    half = verify(precision(module, "fp16"), "expanded")
    x = np.random.default_rng(0).standard_normal((2, 8))
    assert first_overflow(half, "f", weights, [x]) is None
    weights["main.blocks.2.up.weight"] = weights["main.blocks.2.up.weight"] * 4e5
    found = first_overflow(half, "f", weights, [x])
    assert found.path.startswith("main.blocks.2.")
    assert found.dtype == "f16"
    assert "blocks.2" in str(found)
    assert first_overflow(verify(precision(module, "bf16"), "expanded"), "f", weights, [x]) is None


@pytest.mark.parametrize("narrowed", [precision, caches_in_half])
def test_where_nothing_narrows_the_module_is_the_same_object(narrowed):
    """A sampler without a network: its state, and a cache in it, stay f32."""
    mb = ModuleBuilder()
    b = mb.function("sample")
    x, cache = b.input("x", f32(B, 1)), b.input("cache", f32(B, 4))
    b.output(b.update_slice(cache, x * 2.0, b.constant(np.int64(1)), axis=1))
    mb.entries["sample"] = b.finish()
    module = verify(mb.finish())
    assert narrowed(module, "fp16") is module
