"""Rules that merge, cut and rescale linear layers: golden texts, the same numbers, the weights back, controls."""

import numpy as np
import pytest
from inline_tensors import InlineTensors
from ir_parse import module_from_text

from latentc.export.onnx import flat_module, onnx_from_module
from latentc.export.recipes import recovered
from latentc.export.store import expression
from latentc.ir.builder import ModuleBuilder
from latentc.ir.core import Recipe, own_parameters, parameters, walk
from latentc.ir.interpret import Interpreter
from latentc.ir.text import text_from_module
from latentc.ir.types import B, f32
from latentc.ir.verify import verify
from latentc.lower import lower
from latentc.passes.cleanup import cleanup
from latentc.passes.fuse import RULES, fuse, fused
from latentc.passes.fuse.linears import (
    INNER_PARTS,
    LINEAR_BIAS,
    MERGE_LINEARS,
    MODULATION_ONE,
    QUERY_SCALE,
    SEPARATE_LINEARS,
)
from latentc.passes.fuse.moves import TRANSPOSES
from latentc.pipeline import optimised
from latentc.spec import load_spec
from latentc.weights import Array, materialise

X = f32(B, 64, 8)  # as many rows as layers are cut for


def module_of(build, types):
    """Two calls, as `blocks.0` and `blocks.1`, of a function."""
    mb = ModuleBuilder()
    b = mb.function("block")
    b.output(build(b, *(b.input(name, t) for name, t in types.items())))
    b.finish()
    b = mb.function("main")
    inputs = [b.input(name, t) for name, t in types.items()]
    first, second = (b.call("block", f"blocks.{i}", *inputs) for i in (0, 1))
    pairs = zip(first, second, strict=True) if isinstance(first, tuple) else [(first, second)]
    b.output([x + y for x, y in pairs])
    mb.entries["main"] = b.finish()
    return verify(cleanup(mb.finish()))


def gated(b, x):
    """A gated feed-forward."""
    return b.dense("w2", b.silu(b.dense("w1", x, 12, bias=False)) * b.dense("w3", x, 12, bias=False), 8, bias=False)


def queries(b, x):
    return b.dense("q", x, 8), b.dense("k", x, 4), b.dense("v", x, 4)


def split(b, x):
    q, k, v = b.split(b.dense("qkv", x, 16), axis=2, sizes=(8, 4, 4), out="q k v")
    return b.tanh(q), k, v


def attention(b, x, turned=False):
    def heads(t):
        return b.transpose(b.reshape(t, shape=(t.shape[0], 64, 2, 4)), perm=(0, 2, 1, 3))

    q, k, v = heads(b.dense("q", x, 8)), heads(b.dense("k", x, 8)), heads(x)
    if turned:
        tables = np.cos(np.arange(128)).reshape(64, 2), np.sin(np.arange(128)).reshape(64, 2)
        q = b.rotary(q, *map(b.constant, tables), interleaved=False)
    return b.attention(q, k, v, causal=turned, scale=0.3 if turned else None)


def modulated(b, x, c):
    parts = b.reshape(b.dense("adaLN", b.silu(c), 32), shape=(c.shape[0], 1, 32))
    shift, scale, gate, more = b.split(parts, axis=2, sizes=(8, 8, 8, 8))
    h = b.layer_norm(x, eps=1e-6) * (1.0 + scale) + shift
    return x + gate * (h * (more + 1.0))


def biased(b, x):
    return b.gelu(b.dense("fc", x, 12, bias=False) + b.param("bias", f32(12), "normal"), approximate="tanh")


def feed_forward(b, x, width=1536):
    return b.dense("fc2", b.gelu(b.dense("fc1", x, width), approximate="tanh"), 8)


def gated_feed_forward(b, x):
    h = b.silu(b.dense("w1", x, 1600, bias=False)) * b.dense("w3", x, 1600, bias=False)
    return b.dense("w2", h, 8, bias=False)


def turned(b, x):
    t = b.transpose(x, perm=(1, 2, 0))
    return b.transpose(b.silu(t), perm=(2, 0, 1))


MODULATED = {"x": X, "c": f32(B, 8)}
# title -> (rule, how it is written, its operands)
CASES = {
    "gated": (MERGE_LINEARS, gated, {"x": X}),
    "queries": (MERGE_LINEARS, queries, {"x": X}),
    "split": (SEPARATE_LINEARS, split, {"x": X}),
    "attention": (QUERY_SCALE, attention, {"x": X}),
    "turned attention": (QUERY_SCALE, lambda b, x: attention(b, x, True), {"x": X}),
    "modulation": (MODULATION_ONE, modulated, MODULATED),
    "feed-forward": (INNER_PARTS, feed_forward, {"x": X}),
    "gated feed-forward": (INNER_PARTS, gated_feed_forward, {"x": X}),
    "bias": (LINEAR_BIAS, biased, {"x": X}),
    "transposes": (TRANSPOSES, turned, {"x": X}),
}


def arrays(types, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal([3 if d == B else int(d) for d in t.shape]).astype(np.float32) for t in types.values()]


def weights_of(module, entry="main"):
    rng = np.random.default_rng(1)
    params = own_parameters(module, module.entries[entry])
    return {k: rng.standard_normal([int(d) for d in p.type.shape]).astype(np.float32) for k, p in params.items()}


@pytest.mark.parametrize("title", CASES)
def test_a_rule_keeps_the_meaning(title):
    onnxruntime = pytest.importorskip("onnxruntime")
    rule, build, types = CASES[title]
    before = module_of(build, types)
    after, report = fused(before, [rule])
    verify(after)
    assert report.applied == {rule.name: 1}
    assert fuse(after, [rule]) is after
    inputs, weights = arrays(types), weights_of(before)
    want, got = (Interpreter(m, weights).run("main", *inputs) for m in (before, after))
    for w, g in zip(want, got, strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-12, atol=1e-12)
    flat = verify(flat_module(after, "main"), "inlined")
    model = onnx_from_module(flat, "main", InlineTensors(lambda path, param: weights[path]))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for w, ran in zip(want, session.run(None, dict(zip(types, inputs, strict=True))), strict=True):
        assert np.abs(ran - w).max() <= 1e-5 * np.abs(w).max()


@pytest.mark.parametrize("rule", sorted({rule.name for rule, *_ in CASES.values()}))
def test_golden(rule, golden):
    parts = [f"# The rule `{rule}`\n"]
    for title, (own, build, types) in CASES.items():
        if own.name == rule:
            before = module_of(build, types)
            texts = [text_from_module(m, full=False) for m in (before, fuse(before, [own]))]
            parts.append("## {}\n\nBefore\n\n```\n{}```\n\nAfter\n\n```\n{}```\n".format(title.capitalize(), *texts))
    golden(f"passes/fuse_{rule}.md", "\n".join(parts))


@pytest.mark.parametrize("title", CASES)
def test_the_models_weights_come_back_from_an_engine(title):
    rule, build, types = CASES[title]
    before = module_of(build, types)
    after = fuse(before, [rule])
    assert text_from_module(module_from_text(text_from_module(after))) == text_from_module(after)
    weights = weights_of(before)
    used = {v for _, n in walk(after) for v in n.inputs}
    given = {path: Array(a) for path, a in weights.items()}
    params = {path: p for path, p in parameters(after, "main").items() if p.value in used}
    held = {path: Array(materialise(expression(given, path, p))) for path, p in params.items()}
    found = recovered(params, held)
    assert sorted(found) == sorted(weights)
    for path, expr in found.items():
        np.testing.assert_allclose(materialise(expr), weights[path], rtol=1e-5, atol=1e-6)


def shared(b, x):
    """Two layers with one weight."""
    return b.dense("w", x, 8) + b.dense("w", b.silu(x), 8) * b.dense("v", x, 8)


def reused(b, x):
    q = b.dense("q", x, 4)
    heads = b.reshape(q, shape=(q.shape[0], 1, 64, 4))
    return b.attention(heads, heads, heads, causal=False)


def halved(b, x):
    """A feed-forward whose second layer has a part of a weight."""
    b.param("w", f32(16, 1536), "normal")
    half = Recipe("slice", (b.params["w"],), {"axis": 0, "start": 0, "stop": 8})
    return b.linear(b.silu(b.dense("fc1", x, 1536)), b.derived("half", half))


# title -> (rule, how it is written, its operands, what the report says of it)
CONTROLS = {
    "a bias and none": (
        MERGE_LINEARS,
        lambda b, x: b.dense("a", x, 4) * b.dense("b", x, 4, bias=False),
        {"x": X},
        "no other linear layer reads %x",
    ),
    "few rows": (
        SEPARATE_LINEARS,
        lambda b, x: b.split(b.dense("a", x, 8), axis=2, sizes=(4, 4)),
        {"x": f32(B, 1, 8)},
        "1 rows per sample are too few",
    ),
    "a split of rows": (
        SEPARATE_LINEARS,
        lambda b, x: b.split(b.dense("a", x, 8), axis=1, sizes=(32, 32)),
        {"x": X},
        "not along its features",
    ),
    "queries that are keys too": (QUERY_SCALE, reused, {"x": X}, "also used elsewhere"),
    "a norm of the queries": (
        QUERY_SCALE,
        lambda b, x: b.attention(*(b.rms_norm(b.reshape(b.dense(n, x, 4), shape=(x.shape[0], 1, 64, 4)), eps=1e-6)
                                   for n in "qkv"), causal=False),
        {"x": X},
        "is rms_norm, not the result of a linear layer",
    ),
    "a scale that is used as it is, too": (
        MODULATION_ONE,
        lambda b, x, c: (lambda s, t: x * (s + 1.0) + s * t)(*b.split(
            b.reshape(b.dense("a", c, 16), shape=(c.shape[0], 1, 16)), axis=2, sizes=(8, 8))),
        MODULATED,
        "no part of it",
    ),
    "two added": (
        MODULATION_ONE,
        lambda b, x, c: (lambda s, t: x * (s + 2.0) + t)(*b.split(
            b.reshape(b.dense("a", c, 16), shape=(c.shape[0], 1, 16)), axis=2, sizes=(8, 8))),
        MODULATED,
        "no part of it",
    ),
    "a width that is not cut": (
        INNER_PARTS,
        lambda b, x: feed_forward(b, x, 1504),
        {"x": X},
        "1504 inner channels: wants 1536",
    ),
    "a width without equal parts": (
        INNER_PARTS,
        lambda b, x: feed_forward(b, x, 1544),
        {"x": X},
        "1544 inner channels: wants",
    ),
    "inner channels that something else takes": (
        INNER_PARTS,
        lambda b, x: (lambda h: b.dense("fc2", h, 8) + b.dense("other", h, 8))(b.silu(b.dense("fc1", x, 1536))),
        {"x": X},
        "%silu is also used by",
    ),
    "a feed-forward of few rows": (INNER_PARTS, feed_forward, {"x": f32(B, 1, 8)}, "1 rows per sample are too few"),
    "a feed-forward of a weight that is made of another": (INNER_PARTS, halved, {"x": X}, "has a recipe already"),
    "a bias of each row": (
        LINEAR_BIAS,
        lambda b, x: b.dense("a", x, 8, bias=False) + x,
        {"x": X},
        "not one value per feature (8)",
    ),
    "other transposes": (
        TRANSPOSES,
        lambda b, x: b.transpose(b.silu(b.transpose(x, perm=(1, 2, 0))), perm=(1, 0, 2)),
        {"x": X},
        "the transposes together are (2, 1, 0)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("title", CONTROLS)
def test_what_must_not_fire(title):
    rule, build, types, reason = CONTROLS[title]
    module = module_of(build, types)
    after, report = fused(module, [rule])
    assert after is module
    found = report.why(rule.name)
    assert reason in found or (reason == "no part of it" and report.applied[rule.name] == 0), found


def test_a_shared_weight_stays_whole():
    """Only the layer that has its own weight could be merged, and it is alone."""
    module = module_of(shared, {"x": X})
    assert fuse(module, [MERGE_LINEARS]) is module


SMALL = ("backbone.depth=1", "backbone.width=32", "backbone.block.mixer.heads=2")
SPECS = {
    "digits_dit": (*SMALL, "backbone.patch=1", "sampler.steps=4"),
    "digits_llamagen": (*SMALL,),
}

# spec -> engine -> rules that apply besides modulation's
APPLIED = {
    "digits_dit": {"openvino": {"separate_linears", "query_scale"}},
    "digits_llamagen": {
        "openvino": {"separate_linears", "query_scale"},
        "tensorrt": {"merge_linears"},
        "tensorrt-rtx": {"merge_linears"},
    },
}


@pytest.mark.parametrize("spec_name", SPECS)
@pytest.mark.parametrize("engine", RULES)
def test_every_targets_rules_keep_a_sampler(spec_name, engine):
    """What runs with the rules of an engine, without its other passes, is what runs without."""
    spec = load_spec(spec_name, None, [*SPECS[spec_name], f"target.engine={engine}"])
    lowered = lower(spec)
    before = optimised(lowered, spec, "expand_guidance").module
    after, report = fused(before, RULES[engine])
    verify(after, "expanded")
    assert {rule for rule, count in report.applied.items() if count} == APPLIED[spec_name].get(engine, set()) | (
        {"modulation_one"} if spec_name == "digits_dit" else set()
    )
    entry = lowered.programs[0].entry
    weights = {k: 0.3 * v for k, v in weights_of(before, entry).items()}
    rng = np.random.default_rng(3)
    inputs = []
    for value in before.entry(entry).inputs:
        shape = [2 if not isinstance(d, int) else int(d) for d in value.type.shape]
        inputs.append(rng.random(shape) if value.type.is_float else rng.integers(0, 10, shape))
    (want,), (got,) = (Interpreter(m, weights).run(entry, *inputs) for m in (before, after))
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)
