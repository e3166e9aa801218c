"""Fusion rules: golden texts, the same numbers by interpreter and ONNX Runtime, controls that must not fire."""

import numpy as np
import pytest
from ir_parse import module_from_text

from latentc.ir.builder import ModuleBuilder
from latentc.ir.core import walk
from latentc.ir.interpret import Interpreter
from latentc.ir.text import text_from_module
from latentc.ir.types import B, f32
from latentc.ir.verify import verify
from latentc.passes.cleanup import cleanup
from latentc.passes.fuse import COMPOSITES, fuse, fused
from latentc.passes.fuse.engine import Rule
from latentc.passes.fuse.pattern import parse

RULES = COMPOSITES
X = f32(B, 6, 8)


def module_of(build, types):
    mb = ModuleBuilder()
    b = mb.function("main")
    b.output(build(b, *(b.input(name, t) for name, t in types.items())))
    mb.entries["main"] = b.finish()
    return verify(cleanup(mb.finish()))


def arrays(types, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal([3 if d == B else int(d) for d in t.shape]).astype(np.float32) for t in types.values()]


def mean(b, x, axes=(-1,), keepdims=True):
    return b.mean(x, axes=axes, keepdims=keepdims)


def softmax(b, x, axis=-1):
    e = b.exp(x - b.max(x, axes=(axis,), keepdims=True))
    return e / b.sum(e, axes=(axis,), keepdims=True)


def layer_norm(b, x, scale, shift):
    d = x - mean(b, x)
    return scale * (d / b.sqrt(mean(b, b.pow(d, 2.0)) + 1e-5)) + shift


def rms_norm(b, x, scale):
    return x * b.rsqrt(mean(b, x * x) + 1e-6) * scale


def gelu(b, x):
    return x * 0.5 * (b.erf(x / 1.4142135623730951) + 1.0)


def gelu_tanh(b, x):
    return b.mul(0.5, x) * (b.tanh((x + b.pow(x, 3.0) * 0.044715) * 0.7978845608028654) + 1.0)


def heads(b, x, perm=(0, 2, 1, 3)):
    return b.transpose(b.reshape(x, shape=(x.shape[0], 6, 2, 4)), perm=perm)


def attention(b, x, y, mask, divide=False, never=None, soft=softmax):
    """Two heads of 4, keys transposed in one go, as others write it."""
    q, k, v = heads(b, x), heads(b, y, (0, 2, 3, 1)), heads(b, y)
    scores = b.matmul(q, k)
    scores = scores / 2.0 if divide else scores * 0.5
    scores = scores + mask if never is None else b.where(mask > 0.0, scores, never)
    return b.reshape(b.transpose(b.matmul(soft(b, scores), v), perm=(0, 2, 1, 3)), shape=x.shape)


def folded_heads(b, x, y):
    """Attention whose heads lie in the batch, queries scaled."""
    return b.matmul(b.softmax(b.matmul(x * 0.25, b.transpose(y, perm=(0, 2, 1))), axis=2), y)


D = f32(8)
# rule -> title -> (how it is written, its operands)
CASES = {
    "softmax": {"softmax": (softmax, {"x": X}), "another axis": (lambda b, x: softmax(b, x, 1), {"x": X})},
    "layer_norm": {"layer norm with scale and shift": (layer_norm, {"x": X, "scale": D, "shift": D})},
    "rms_norm": {"RMS norm with scale": (rms_norm, {"x": X, "scale": D})},
    "gelu": {"GELU": (gelu, {"x": X})},
    "gelu_tanh": {"GELU by tanh": (gelu_tanh, {"x": X})},
    "silu": {
        "SiLU": (lambda b, x: b.sigmoid(x) * x, {"x": X}),
        "SiLU by exp": (lambda b, x: x / (b.exp(-x) + 1.0), {"x": X}),
    },
    "attention": {
        "attention with an added mask": (attention, {"x": X, "y": X, "mask": f32(6, 6)}),
        "attention with a mask of minus infinities": (
            lambda b, x, y, mask: attention(b, x, y, mask, True, -np.inf),
            {"x": X, "y": X, "mask": f32(B, 1, 6, 6)},
        ),
        "attention with a mask of large numbers": (
            lambda b, x, y, mask: attention(b, x, y, mask, never=-1e9),
            {"x": X, "y": X, "mask": f32(6, 6)},
        ),
        "attention of heads in the batch": (folded_heads, {"x": X, "y": X}),
    },
}
ALL = [(rule, title) for rule, cases in CASES.items() for title in cases]


@pytest.mark.parametrize(("rule", "title"), ALL)
def test_a_rule_keeps_the_meaning(rule, title):
    from inline_tensors import InlineTensors

    from latentc.export.onnx import flat_module, onnx_from_module

    build, types = CASES[rule][title]
    before = module_of(build, types)
    after, report = fused(before, RULES)
    verify(after)
    assert report.applied[rule] == 1
    assert fuse(after, RULES) is after
    inputs = arrays(types)
    (want,), (got,) = (Interpreter(m).run("main", *inputs) for m in (before, after))
    assert np.allclose(got, want, rtol=1e-6, atol=1e-6)  # numbers in a pattern match to the digits people write
    onnxruntime = pytest.importorskip("onnxruntime")
    flat = verify(flat_module(after, "main"), "inlined")
    model = onnx_from_module(flat, "main", InlineTensors(lambda path, param: np.zeros(())))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (ran,) = session.run(None, dict(zip(types, inputs, strict=True)))
    assert np.abs(ran - want).max() <= 2e-6 * max(1.0, np.abs(want).max())


@pytest.mark.parametrize("rule", CASES)
def test_golden(rule, golden):
    parts = [f"# The rule `{rule}`\n"]
    for title, (build, types) in CASES[rule].items():
        before = module_of(build, types)
        texts = [text_from_module(m, full=False) for m in (before, fuse(before, RULES))]
        parts.append("## {}\n\nBefore\n\n```\n{}```\n\nAfter\n\n```\n{}```\n".format(title, *texts))
    golden(f"passes/fuse_{rule}.md", "\n".join(parts))


def wide_gelu(b, x):
    return x * 0.5 * (b.erf(x / 1.5) + 1.0)


def leaking(b, x):
    e = b.exp(x - b.max(x, axes=(-1,), keepdims=True))
    return e / b.sum(e, axes=(-1,), keepdims=True), e


# title -> (rule, how it is written, its operands, what the report says of it)
CONTROLS = {
    "another constant": ("gelu", wide_gelu, {"x": X}, "is 1.5, not 1.41421"),
    "used elsewhere": ("softmax", leaking, {"x": X}, "also a result"),
    "two axes": (
        "softmax",
        lambda b, x: b.exp(x) / b.sum(b.exp(x), axes=(1, 2), keepdims=True),
        {"x": X},
        "not over one",
    ),
    "another row's sum": (
        "softmax",
        lambda b, x, y: b.exp(x) / b.sum(b.exp(y), axes=(-1,), keepdims=True),
        {"x": X, "y": X},
        "%exp_2 is not %exp",
    ),
    "mean of another axis": (
        "rms_norm",
        lambda b, x: x * b.rsqrt(mean(b, x * x, (1,)) + 1e-6),
        {"x": X},
        "not the last of 3",
    ),
    "not the centred square": (
        "layer_norm",
        lambda b, x: (x - mean(b, x)) * b.rsqrt(mean(b, x * x) + 1e-6),
        {"x": X},
        " is not %",
    ),
    "a scale of each sample": (
        "norm_affine",
        lambda b, x, s: b.layer_norm(x, eps=1e-6) * s,
        {"x": X, "s": f32(B, 1, 8)},
        "not one value per channel (8)",
    ),
    "a mask that only discourages": (
        "attention",
        lambda b, x, y, mask: attention(b, x, y, mask, False, -3.0, lambda b, s: b.softmax(s, axis=-1)),
        {"x": X, "y": X, "mask": f32(6, 6)},
        "does not mask a key",
    ),
    "keys as they are": (
        "attention",
        lambda b, x, y: b.matmul(b.softmax(b.matmul(x, y), axis=-1), x),
        {"x": f32(B, 8, 8), "y": f32(B, 8, 8)},
        "not a transpose",
    ),
    "softmax over queries": (
        "attention",
        lambda b, x, y: b.matmul(b.softmax(b.matmul(x, b.transpose(y, perm=(0, 2, 1))), axis=1), y),
        {"x": X, "y": X},
        "not over the keys",
    ),
}


@pytest.mark.parametrize("title", CONTROLS)
def test_what_must_not_fire(title):
    rule, build, types, reason = CONTROLS[title]
    module = module_of(build, types)
    after, report = fused(module, [r for r in RULES if r.name == rule])
    assert after is module
    assert report.applied[rule] == 0
    assert reason in report.why(rule)
    assert report.why(rule).startswith(f"{rule}: applied 0 times\nnearest miss in main: ")


def test_a_replacement_of_another_type_is_refused():
    rule = Rule("wrong", ("exp(exp(x))",), lambda b, v: b.sum(v.x, axes=(-1,), keepdims=True))
    module = module_of(lambda b, x: b.exp(b.exp(x)), {"x": X})
    after, report = fused(module, [rule])
    assert after is module
    assert "the replacement is f32[B, 6, 1], not f32[B, 6, 8]" in report.why("wrong")


def test_an_op_that_refuses_its_operands_is_a_miss():
    rule = Rule("wrong", ("exp(exp(x))",), lambda b, v: b.reshape(v.x, shape=(5,)))
    module = module_of(lambda b, x: b.exp(b.exp(x)), {"x": X})
    after, report = fused(module, [rule])
    assert after is module
    assert "differ in the number of elements" in report.why("wrong")


@pytest.mark.parametrize("text", ["x", "x @ y", "exp(*x)", "(d := x) + d", "'a' + x", "f.g(x)"])
def test_what_is_no_pattern(text):
    with pytest.raises(ValueError, match=r"is not an op|cannot be part"):
        parse(text)


def test_nothing_comes_near():
    module = module_of(lambda b, x: b.tanh(x), {"x": X})
    after, report = fused(module, RULES)
    assert after is module
    assert report.why("attention") == "attention: applied 0 times\nnothing else nearly matches its pattern\n"


def test_a_block_is_fused_once_for_all_its_calls():
    from test_cleanup import block, net  # blocks of GELU and a product

    del block
    mb = ModuleBuilder()
    mb.entries["main"] = mb.define(net, [f32(B, 4)], {"dim": 4, "depth": 50})
    module = cleanup(mb.finish())
    rule = Rule("tanh_for_gelu", ("gelu(x)",), lambda b, v: b.tanh(v.x))
    after, report = fused(module, [rule])
    assert report.applied == {"tanh_for_gelu": 1}
    assert after.entry("main").nodes is module.entry("main").nodes


def test_a_token_that_sees_none_keeps_its_result():
    build = CASES["attention"]["attention with a mask of large numbers"][0]
    before = module_of(build, {"x": X, "y": X, "mask": f32(6, 6)})
    x, y = arrays({"x": X, "y": X})
    results = [
        Interpreter(m, float_dtype="f32").run("main", x, y, -np.ones((6, 6))) for m in (before, fuse(before, RULES))
    ]
    assert np.allclose(*results, atol=1e-5)


def test_text_round_trip():
    before = module_of(attention, {"x": X, "y": X, "mask": f32(6, 6)})
    after = fuse(before, RULES)
    assert [n.op for _, n in walk(module_from_text(text_from_module(after)))] == [n.op for _, n in walk(after)]
