"""Names that mean two things: a weight keeps its path, whatever else is called like it."""

from __future__ import annotations

import numpy as np
import pytest
from ir_parse import module_from_text
from random_modules import results_of, weights_of
from test_cleanup import HEADER

from latentc.ir.builder import ModuleBuilder
from latentc.ir.core import Recipe, parameters
from latentc.ir.ops import OpError
from latentc.ir.types import B, f32
from latentc.ir.verify import verify
from latentc.passes.experts import expand_experts
from latentc.passes.hoist import hoist
from latentc.passes.inline import inline

# what is done -> (the pass, a module before it)
CASES = {
    "inline: an input is called like a weight of what is called without a name": (
        lambda module: inline(module, "f"),
        """
entry f = "f"

fn "g" (%x: f32[B, 4]) {
  weight %w: f32[4] = ones {}
  %y: f32[B, 4] = mul(%x, %w)
  return %y
}

fn "f" (%w: f32[B, 4]) {
  %y: f32[B, 4] = call(%w) {fn="g", name="", args={}}
  return %y
}
""",
    ),
    "inline: a value of one method is called like a weight of another": (
        lambda module: inline(module, "f"),
        """
entry f = "f"

fn "g" (%x: f32[B, 4]) {
  %w: f32[B, 4] = tanh(%x)
  return %w
}

fn "h" (%x: f32[B, 4]) {
  weight %w: f32[4] = ones {}
  %y: f32[B, 4] = mul(%x, %w)
  return %y
}

fn "f" (%x: f32[B, 4]) {
  %a: f32[B, 4] = call(%x) {fn="g", name="main", args={}}
  %y: f32[B, 4] = call(%a) {fn="h", name="main", args={}}
  return %y
}
""",
    ),
    "inline: a body runs at two places, and the entry is called like its second form": (
        lambda module: inline(module, "f"),
        """
entry f = "inner#2"

fn "inner" (%i: i64[], %x: f32[B, 4]) {
  weight %w: f32[4] = ones {}
  %z: f32[B, 4] = mul(%x, %w)
  return %z
}

fn "g" (%x: f32[B, 4]) {
  %z: f32[B, 4] = loop(%x) {body="inner", trip=5, invariants=0, carried=1}
  return %z
}

fn "inner#2" (%x: f32[B, 4]) {
  %z: f32[B, 4] = call(%x) {fn="g", name="a", args={}}
  %y: f32[B, 4] = call(%z) {fn="g", name="b", args={}}
  return %y
}
""",
    ),
    "hoist: a value around the loop is called like a weight in it": (
        lambda module: hoist(module, 8),
        """
entry f = "f"

fn "body" (%i: i64[], %y: f32[B, 64], %x: f32[B, 64]) {
  weight %w: f32[64, 64] = ones {}
  %h: f32[B, 64] = linear(%y, %w)
  %z: f32[B, 64] = add(%x, %h)
  return %z
}

fn "f" (%x: f32[B, 64], %y: f32[B, 64]) {
  %w: f32[B, 64] = tanh(%y)
  %z: f32[B, 64] = loop(%w, %x) {body="body", trip=5, invariants=1, carried=1}
  return %z
}
""",
    ),
    "experts: a weight is called like an expert's part of a stack": (
        expand_experts,
        """
entry f = "f"

fn "f" (%x: f32[B, 4], %g: f32[B, 2]) {
  weight %w1: f32[2, 8, 4] = normal {std=0.5}
  weight %w1.0: f32[8, 4] = normal {std=0.5}
  weight %w3: f32[2, 8, 4] = normal {std=0.5}
  weight %w2: f32[2, 4, 8] = normal {std=0.5}
  %y: f32[B, 4] = experts(%x, %g, %w1, %w3, %w2) {per_token=1}
  %h: f32[B, 8] = linear(%x, %w1.0)
  return %y, %h
}
""",
    ),
}


@pytest.mark.parametrize("title", CASES)
def test_a_weight_keeps_its_path(title: str) -> None:
    apply, text = CASES[title]
    before = verify(module_from_text(HEADER + text), "expanded")
    after = verify(apply(before), "expanded")
    weights = weights_of(before)
    for p, q in zip(results_of(before, weights)["f"], results_of(after, weights)["f"], strict=True):
        assert np.allclose(p, q, rtol=1e-12)
    assert set(parameters(after, after.entries["f"])) <= {*parameters(before, before.entries["f"])}


def test_a_made_weight_has_a_name_of_its_own() -> None:
    mb = ModuleBuilder()
    b = mb.function("f")
    w = b.param("w", f32(4, 4), "ones")
    param = b.params["w"]
    b.input("x", f32(B, 4))
    half = Recipe("affine", (param,), {"mul": 0.5, "add": 0.0})
    assert b.derived("half", half).value is b.derived("half", Recipe("affine", (param,), dict(half.attrs))).value
    for name in ("half", "w", "x"):
        with pytest.raises(OpError, match=f"{name} .*already"):
            b.derived(name, Recipe("affine", (param,), {"mul": 0.25, "add": 0.0}))
    assert w.value is param.value
