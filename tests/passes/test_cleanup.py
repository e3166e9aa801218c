"""Cleanup: golden before and after, no change of meaning, and a cost that depth does not enter."""

import numpy as np
from gradients import grad, weights_of
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_parse import module_from_text

from latentc.ir.builder import ModuleBuilder, module_class
from latentc.ir.interpret import Interpreter
from latentc.ir.text import text_from_module
from latentc.ir.types import B, f32
from latentc.ir.verify import verify
from latentc.passes.cleanup import cleanup

HEADER = "latentc-ir 1\n"
# title -> a module before the pass
CLEANUP = {
    "Constants fold, in float64": """
entry f = "f"

fn "f" (%x: f32[B, 3]) {
  %c: f32[3] = constant() {value=array(f64, [3], 1.0, 2.0, 3.0), dtype="f32"}
  %h: f32[] = constant() {value=array(f64, [], 0.1), dtype="f32"}
  %s: f32[3] = mul(%c, %h)
  %e: f32[3] = exp(%s)
  %first: f32[1], %rest: f32[2] = split(%e) {axis=0, sizes=(1, 2)}
  %y: f32[B, 3] = mul(%x, %first)
  return %y
}
""",
    "What changes nothing goes; reshapes and transposes join": """
entry f = "f"

fn "f" (%x: f32[B, 4, 2]) {
  %one: f32[] = constant() {value=array(f64, [], 1.0), dtype="f32"}
  %a: f32[B, 4, 2] = mul(%one, %x)
  %b: f32[B, 8] = reshape(%a) {shape=(B, 8)}
  %c: f32[B, 2, 4] = reshape(%b) {shape=(B, 2, 4)}
  %d: f32[2, 4, B] = transpose(%c) {perm=(1, 2, 0)}
  %e: f32[B, 2, 4] = transpose(%d) {perm=(2, 0, 1)}
  %g: f32[B, 2, 4] = slice(%e) {axis=1, start=0, stop=2}
  %y: f32[B, 2, 4] = tanh(%g)
  return %y
}
""",
    "Equal nodes are shared, calls too, but not two dropouts": """
entry f = "f"

fn "g" (%x: f32[B]) {
  weight %w: f32[] = ones {}
  %y: f32[B] = mul(%x, %w)
  return %y
}

fn "f" (%x: f32[B]) {
  %a: f32[B] = call(%x) {fn="g", name="left", args={}}
  %b: f32[B] = call(%x) {fn="g", name="left", args={}}
  %c: f32[B] = call(%x) {fn="g", name="right", args={}}
  %d: f32[B] = dropout(%c) {p=0.1}
  %e: f32[B] = dropout(%c) {p=0.1}
  %s: f32[B] = add(%a, %b)
  %t: f32[B] = add(%d, %e)
  %y: f32[B] = mul(%s, %t)
  return %y
}
""",
    "What nothing needs goes, functions too; inputs and weights stay": """
entry f = "f"

fn "unused" (%x: f32[B]) {
  %y: f32[B] = exp(%x)
  return %y
}

fn "f" (%x: f32[B], %z: f32[B]) {
  weight %w: f32[] = ones {}
  %a: f32[B] = call(%z) {fn="unused", name="", args={}}
  %b: f32[B] = add(%a, %w)
  %y: f32[B] = tanh(%x)
  return %y
}
""",
}
GRAD = {
    "A function that calls another": (
        [0],
        """
entry f = "f"

fn "Scale.forward" = Scale.forward {dim=3} (%x: f32[B, dim=3], %s: f32[B, 1]) {
  weight %weight: f32[dim=3] = ones {}
  %h: f32[B, dim=3] = mul(%x, %weight)
  %y: f32[B, dim=3] = mul(%h, %s)
  return %y
}

fn "f" (%x: f32[B, 3], %s: f32[B, 1]) {
  %h: f32[B, 3] = call(%x, %s) {fn="Scale.forward", name="scale", args={dim=3}}
  %y: f32[B, 3] = tanh(%h)
  return %y
}
""",
    ),
    "A loop, whose residuals are stacked": (
        [0],
        """
entry f = "f"

fn "step" (%i: i64[], %x: f32[B], %a: f32[]) {
  %s: f32[B] = sin(%x)
  %y: f32[B] = mul(%s, %a)
  return %y
}

fn "f" (%x: f32[B], %table: f32[5]) {
  %y: f32[B] = loop(%x, %table) {body="step", trip=5, invariants=0, carried=1}
  return %y
}
""",
    ),
}


def section(title, before, after):
    return f"## {title}\n\nBefore\n\n```\n{before}```\n\nAfter\n\n```\n{after}```\n"


def test_golden_cleanup(golden):
    parts = ["# The pass `cleanup`\n"]
    for title, text in CLEANUP.items():
        before = verify(module_from_text(HEADER + text))
        after = verify(cleanup(before))
        parts.append(section(title, text_from_module(before), text_from_module(after)))
        assert cleanup(after) is after, title
    golden("passes/cleanup.md", "\n".join(parts))


def test_golden_grad(golden):
    parts = ["# The pass `grad`\n\nDerivative of entry `f` with respect to its first input.\n"]
    for title, (wrt, text) in GRAD.items():
        before = verify(module_from_text(HEADER + text))
        module, name = grad(before, "f", wrt)
        after = cleanup(verify(module.with_(entries={"grad": name})))
        parts.append(section(title, text_from_module(before), text_from_module(after)))
    golden("passes/grad.md", "\n".join(parts))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_meaning_is_kept(data):
    """Random functions of few values, so that twins, neutral operands and constants are common."""
    mb = ModuleBuilder()
    b = mb.function("f")
    values = [b.input("x", f32(B, 2)), b.input("y", f32(2)), b.constant(np.ones(2)), b.constant(np.zeros(2))]
    for _ in range(data.draw(st.integers(1, 12))):
        op = data.draw(st.sampled_from(["add", "mul", "sub", "tanh", "transpose", "reshape", "sum"]))
        x = data.draw(st.sampled_from(values))
        if op in ("add", "mul", "sub"):
            values.append(b.op(op, x, data.draw(st.sampled_from([*values, 1.0, 0.0]))))
        elif op == "tanh":
            values.append(b.tanh(x))
        elif op == "transpose":
            perm = tuple(range(x.type.rank))[::-1]
            values.append(b.transpose(b.transpose(x, perm=perm), perm=perm))
        elif op == "reshape":
            wide = b.reshape(x, shape=(*x.shape[:-1], 1, 2))
            values.append(b.reshape(wide, shape=x.shape))
        else:
            values.append(b.sum(x, axes=(x.type.rank - 1,), keepdims=True) + x)
    b.output(values[-1], data.draw(st.sampled_from(values)))
    mb.entries["f"] = b.finish()
    before = verify(mb.finish())
    after = verify(cleanup(before))
    assert cleanup(after) is after
    inputs = np.random.default_rng(0).standard_normal((3, 2)), np.array([0.5, -2.0])
    for p, q in zip(Interpreter(before).run("f", *inputs), Interpreter(after).run("f", *inputs), strict=True):
        assert np.allclose(p, q, rtol=1e-12, atol=0, equal_nan=True)


@module_class("Block")
def block(b, x, *, dim):
    h = b.gelu(b.dense("fc", x * 1.0, dim), approximate="tanh")
    return x + h * b.exp(b.constant(np.zeros(dim)))


@module_class("Net")
def net(b, x, *, dim, depth):
    for i in range(depth):
        x = b.sub(f"blocks.{i}", block, x, dim=dim)
    return x


def test_a_block_is_cleaned_once_for_all_its_calls():
    mb = ModuleBuilder()
    mb.entries["main"] = mb.define(net, [f32(B, 4)], {"dim": 4, "depth": 50})
    before = verify(mb.finish())
    after = verify(cleanup(before))
    assert after.entry("main") is before.entry("main")
    assert len(after.functions["Block.forward"].nodes) == 3
    params, x = weights_of(before, "main"), np.random.default_rng(1).standard_normal((2, 4))
    assert np.array_equal(*(Interpreter(m, params).run("main", x)[0] for m in (before, after)))
