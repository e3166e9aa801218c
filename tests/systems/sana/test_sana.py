"""SANA's mixer is linear attention as written with all pairs of tokens; its blocks need a square of them."""

from __future__ import annotations

import numpy as np
import pytest

from latentc.diagnostics import DiagnosticError
from latentc.ir.builder import ModuleBuilder, f32
from latentc.ir.interpret import Interpreter
from latentc.spec import load_spec
from latentc.systems.sana.relu_attention import ReluAttention


def test_linear_attention_is_that_of_all_pairs() -> None:
    """Weights relu(q_i) . relu(k_j), divided by their sum over j; 0 where that is 0."""
    mixer, mb = ReluAttention(kind="relu_attention", heads=2), ModuleBuilder()
    b = mb.function("mixed")
    x = b.input("x", f32(1, 5, 8))
    b.output(b.sub("attn", mixer.body("xavier"), x, dim=8, heads=2))
    mb.entries["mixed"] = b.finish("Mixes tokens.")
    rng, module = np.random.default_rng(0), mb.finish()
    shapes = {"attn.qkv.weight": (24, 8), "attn.proj.weight": (8, 8), "attn.proj.bias": (8,)}
    weights = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    given = rng.standard_normal((1, 5, 8))
    (made,) = Interpreter(module, weights, "f64").run("mixed", given)
    q, k, v = ((given[0] @ part.T).reshape(5, 2, 4) for part in np.split(weights["attn.qkv.weight"], 3))
    scores = np.einsum("ihd,jhd->hij", np.maximum(q, 0), np.maximum(k, 0))
    total = np.maximum(scores.sum(2, keepdims=True), 1e-300)
    wanted = np.einsum("hij,jhd->ihd", scores / total, v).reshape(5, 8)
    wanted = wanted @ weights["attn.proj.weight"].T + weights["attn.proj.bias"]
    np.testing.assert_allclose(made[0], wanted, rtol=1e-10)


def test_convolutions_need_a_square_of_tokens() -> None:
    sequence = ["data.shape=[32, 64]", "data.first_stage=null"]
    with pytest.raises(DiagnosticError, match="`gated_conv` needs a square of tokens"):
        load_spec("sana", overrides=sequence)
