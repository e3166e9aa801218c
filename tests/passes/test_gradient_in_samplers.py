"""Classifier guidance: a gradient of a second network inside a sampler's loop, through the passes of an engine."""

import numpy as np
import pytest
from gradients import weights_of

from latentc.ir.builder import ModuleBuilder, module_class
from latentc.ir.core import count
from latentc.ir.derivatives import expand_derivatives
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B, f32, i64
from latentc.ir.verify import verify
from latentc.passes.cleanup import cleaned, cleanup
from latentc.passes.expand_guidance import expand_guidance
from latentc.passes.fuse import RULES, fuse
from latentc.passes.hoist import hoist
from latentc.passes.to_inference import to_inference

STEPS = 4


@module_class("Denoiser")
def denoiser(b, x, t, y, *, width):
    """Predicts the noise of x [B, 2, 8]."""
    c = b.embedding(b.param("classes.weight", f32(4, width), "normal"), y) + b.reshape(t, shape=(t.shape[0], 1))
    h = b.conv(x, b.param("in.weight", f32(width, 2, 3), "normal"), padding=2, dilation=2)
    h = b.silu(b.group_norm(h, groups=2, eps=1e-5)) + b.reshape(c, shape=(c.shape[0], width, 1))
    return b.conv(b.dropout(h, p=0.1), b.param("out.weight", f32(2, width, 1), "normal"))


@module_class("Classifier")
def classifier(b, x, t, y, *, width):
    """Log-probability [B] of class y for noisy x; how x is scaled is not differentiated."""
    scale = b.stop_gradient(b.max(b.abs(x), axes=(1, 2), keepdims=True))
    h = b.conv(x / scale, b.param("conv.weight", f32(width, 2, 4), "normal"), stride=2, padding=1)
    h = b.reshape(b.transpose(b.gelu(h, approximate="tanh"), perm=(0, 2, 1)), shape=(x.shape[0], 1, 4, width))
    h = b.mean(b.attention(h, h, h, causal=False), axes=(1, 2), keepdims=False)
    logits = b.log_softmax(b.dense("head", b.dropout(h, p=0.2), 4) * b.reshape(t, shape=(t.shape[0], 1)), axis=-1)
    picked = b.take_along(logits, b.reshape(y, shape=(y.shape[0], 1)), axis=1)
    return b.reshape(picked, shape=(y.shape[0],))


def sampler():
    mb = ModuleBuilder()
    types = [f32(B, 2, 8), f32(B), i64(B)]
    nets = {name: mb.define(body, types, {"width": 4}) for name, body in (("main", denoiser), ("judge", classifier))}
    b = mb.function("sample")
    x, y, scale = b.input("x", types[0]), b.input("y", i64(B)), b.input("scale", f32(B))
    null = b.full(y, shape=(), value=3, dtype="i64")

    def step(b, i, invariants, carried, rows):
        (y, null, scale), (x,), (t,) = invariants, carried, rows
        time = b.broadcast_to(t, y, shape=(B,))
        noise = b.guided(nets["main"], "main", [x, time, y], ("shared", "shared", "conditional"), [null], scale)
        _, slope = b.gradient(nets["judge"], "judge", [x, time, y])
        return [x - (noise - slope * 0.5) * 0.1], []

    table = b.constant(np.linspace(1, 0.2, STEPS))
    (x,) = b.loop("steps", STEPS, step, invariants=[y, null, scale], carried=[x], tables=[table])
    b.output(x)
    mb.entries["sample"] = b.finish()
    return verify(mb.finish())


@pytest.mark.parametrize("engine", sorted(RULES))
def test_classifier_guidance_through_the_passes(engine):
    before = sampler()
    weights = weights_of(before, "sample")
    rng = np.random.default_rng(1)
    inputs = [rng.standard_normal((3, 2, 8)), np.array([0, 2, 1]), np.array([1.0, 2.0, 3.0])]
    (expected,) = Interpreter(before, weights).run("sample", *inputs)
    module = expand_derivatives(before, cleaned)
    for stage, step in (
        ("train", lambda m: m),
        ("inference", to_inference),
        ("inference", cleanup),
        ("expanded", expand_guidance),
        ("expanded", lambda m: fuse(m, RULES[engine])),
        ("expanded", lambda m: hoist(m, 4)),
        ("expanded", cleanup),
    ):
        module = verify(step(module), stage)
        (found,) = Interpreter(module, weights).run("sample", *inputs)
        assert np.abs(found - expected).max() < 1e-10 * np.abs(expected).max()
    assert count(module, module.entries["sample"], "conv_transpose") == 1  # the classifier's derivative is in the loop


def test_control_stop_gradient_counts():
    """Differentiated after `to_inference`, which drops stop_gradient, the samples are others."""
    before = sampler()
    weights = weights_of(before, "sample")
    rng = np.random.default_rng(1)
    inputs = [rng.standard_normal((3, 2, 8)), np.array([0, 2, 1]), np.array([1.0, 2.0, 3.0])]
    one, other = (Interpreter(m, weights).run("sample", *inputs)[0] for m in (before, to_inference(before)))
    assert np.abs(one - other).max() > 1e-4
