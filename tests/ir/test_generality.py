"""Generators of other kinds than the shipped ones, in IR: each checked against plain numpy and run by ONNX Runtime.

Every test builds a whole sampler by hand and gives a second, independent meaning of it in numpy, with the same weights.
"""

import numpy as np
import onnxruntime
import pytest
from inline_tensors import InlineTensors
from ir_parse import module_from_text
from modules import attention

from latentc.export.onnx import flat_module, onnx_from_module
from latentc.ir.builder import ModuleBuilder, module_class
from latentc.ir.core import parameters
from latentc.ir.derivatives import expand_derivatives
from latentc.ir.interpret import Interpreter
from latentc.ir.text import text_from_module
from latentc.ir.types import B, f32, i64
from latentc.ir.verify import verify
from latentc.passes.cleanup import cleanup
from latentc.passes.expand_guidance import expand_guidance


def uniform(rng, *shape):
    return rng.uniform(0.01, 0.99, shape)


def silu(x):
    return x / (1 + np.exp(-x))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def check(module, inputs, reference):
    """Entry `sample` means `reference(weights, *inputs)`: before and after the passes, and in ONNX Runtime."""
    module = verify(module)
    text = text_from_module(module)
    again = module_from_text(text)
    assert text_from_module(again) == text
    rng = np.random.default_rng(7)
    weights = {
        path: (rng.standard_normal(tuple(map(int, p.type.shape))) * 0.4).astype(np.float32)
        for path, p in parameters(module, module.entries["sample"]).items()
    }
    inputs = [np.asarray(x, np.float32) if np.asarray(x).dtype.kind == "f" else np.asarray(x) for x in inputs]
    wide = {path: w.astype(np.float64) for path, w in weights.items()}
    expected = reference(wide, *(x.astype(np.float64) if x.dtype.kind == "f" else x for x in inputs))

    def agree(found, tolerance):
        assert found.shape == expected.shape and found.dtype.kind == expected.dtype.kind
        assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()

    agree(Interpreter(again, weights).run("sample", *inputs)[0], 1e-10)
    plain = verify(cleanup(expand_guidance(expand_derivatives(module))), "expanded")
    agree(Interpreter(plain, weights).run("sample", *inputs)[0], 1e-10)
    for unroll in (False, True):
        flat = verify(flat_module(plain, "sample", unroll), "inlined")
        model = onnx_from_module(flat, "sample", InlineTensors(lambda path, param: weights[path]))
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        feeds = {i.name: x for i, x in zip(session.get_inputs(), inputs, strict=True)}
        agree(session.run(None, feeds)[0], 1e-4)


# ---- a diffusion head inside an autoregressive loop (as MAR, Li et al. 2024): loops nest


@module_class("Head")
def denoising_head(b, x, t, z, *, width):
    """Noise in one token x [B, C], given the context z [B, D] and the time t [B]."""
    h = b.dense("inputs", x, width) + b.dense("context", z, width)
    h = b.silu(h + b.dense("time", b.timestep_embedding(t, dim=4, max_period=100.0), width))
    return b.dense("out", h, x.shape[-1])


def test_a_diffusion_head_inside_an_autoregressive_loop():
    tokens, steps, channels, width = 4, 5, 2, 6
    levels, alphas = np.linspace(10, 0, steps), np.linspace(0.5, 1.0, steps)
    mb = ModuleBuilder()
    b = mb.function("sample")
    y = b.input("y", i64(B))
    noise = b.input("noise", f32(tokens, B, channels))  # a start for each token
    more = b.input("step_noise", f32(tokens, steps, B, channels))
    context = b.take(b.param("context.classes.weight", f32(3, width), "normal"), y, axis=0)
    made = b.full(y, shape=(tokens, channels), value=0.0, dtype="f32")

    def token(b, i, invariants, carried, rows):
        (z, made), (start, kicks) = carried, rows

        def step(b, j, invariants, carried, rows):
            (z,), (x,), (level, alpha, kick) = invariants, carried, rows
            t = b.broadcast_to(level, z, shape=(B,))
            return [(x - b.sub("head", denoising_head, x, t, z, width=width)) * alpha + kick * 0.1], []

        tables = [b.constant(levels), b.constant(alphas), kicks]
        (x,) = b.loop("denoise", steps, step, invariants=[z], carried=[start], tables=tables)
        z = b.tanh(b.dense("context.recur", z, width) + b.dense("context.token", x, width))
        return [z, b.update_slice(made, b.reshape(x, shape=(B, 1, channels)), i, axis=1)], []

    _, made = b.loop("token", tokens, token, carried=[context, made], tables=[noise, more])
    b.output(made)
    mb.entries["sample"] = b.finish()

    def reference(w, y, noise, more):
        def dense(name, x):
            return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

        z, out = w["context.classes.weight"][y], []
        for start, kicks in zip(noise, more, strict=True):
            x = start
            for level, alpha, kick in zip(levels, alphas, kicks, strict=True):
                angle = level * np.array([1.0, 0.1])
                embedding = np.concatenate([np.cos(angle), np.sin(angle)])
                h = silu(dense("head.inputs", x) + dense("head.context", z) + dense("head.time", embedding))
                x = (x - dense("head.out", h)) * alpha + kick * 0.1
            z = np.tanh(dense("context.recur", z) + dense("context.token", x))
            out.append(x)
        return np.stack(out, axis=1)

    rng = np.random.default_rng(0)
    inputs = [
        np.array([2, 0, 1]),
        rng.standard_normal((tokens, 3, channels)),
        rng.standard_normal((tokens, steps, 3, channels)),
    ]
    check(mb.finish(), inputs, reference)


# ---- the inverse of a normalising flow (as TarFlow, Zhai et al. 2024): autoregressive, a loop for each block


@module_class("Affine")
def affine(b, x, *, width):
    """Log scale and shift of each token from those before it: x [B, T, C] -> two of [B, T, C]."""
    _, tokens, channels = x.shape
    h = b.dense("into", x, width)
    # Token t sees the tokens before t: a strictly lower triangle, the first sees nothing.
    seen = b.matmul(b.constant(np.tri(int(tokens), k=-1) / np.arange(1, int(tokens) + 1)[:, None]), h)
    return b.split(b.dense("out", b.tanh(seen), 2 * channels), axis=2, sizes=(channels, channels), out="scale shift")


@module_class("Affine", method="inverse")
def affine_inverse(b, z, *, width):
    """x with z = (x - shift(x)) exp(-scale(x)), token by token, by the forward method's weights."""
    tokens = z.shape[1]

    def solve(b, i, invariants, carried, rows):
        (z,), (x,) = invariants, carried
        scale, shift = b.call(forward, "", x, args={"width": width})
        solved = z * b.exp(scale) + shift
        one = b.take(solved, b.reshape(i, shape=(1,)), axis=1)
        return [b.update_slice(x, one, i, axis=1)], []

    forward = b.module.define(affine, [z.type], {"width": int(width)})
    return b.loop("solve", int(tokens), solve, invariants=[z], carried=[b.fill_like(z, 0.0)])


def test_the_inverse_of_a_normalising_flow():
    tokens, channels, blocks = 5, 2, 3
    mb = ModuleBuilder()
    b = mb.function("sample")
    x = b.input("z", f32(B, tokens, channels))
    backwards = np.arange(tokens)[::-1].copy()
    for k in reversed(range(blocks)):
        x = b.sub(f"blocks.{k}", affine_inverse, x, width=4)
        x = b.take(x, b.constant(backwards), axis=1)
    b.output(x)
    mb.entries["sample"] = b.finish()

    def transform(w, k, x):
        part = f"blocks.{k}"
        h = x @ w[f"{part}.into.weight"].T + w[f"{part}.into.bias"]
        means = [h[:, :t].sum(1) / (t + 1) for t in range(tokens)]
        both = np.tanh(np.stack(means, 1)) @ w[f"{part}.out.weight"].T + w[f"{part}.out.bias"]
        return both[..., :channels], both[..., channels:]

    def reference(w, z):
        x = z
        for k in reversed(range(blocks)):
            solved = np.zeros_like(x)
            for t in range(tokens):
                scale, shift = transform(w, k, solved)
                solved[:, t] = x[:, t] * np.exp(scale[:, t]) + shift[:, t]
            x = solved[:, ::-1]
        # The flow itself takes it back to the noise: that is what makes it an inverse.
        again = x
        for k in range(blocks):
            again = again[:, ::-1]
            scale, shift = transform(w, k, again)
            again = (again - shift) * np.exp(-scale)
        assert np.allclose(again, z)
        return x

    check(mb.finish(), [np.random.default_rng(1).standard_normal((3, tokens, channels))], reference)


# ---- Langevin steps on an energy: a derivative inside the sampler


@module_class("Energy")
def energy_of(b, x, y, *, width):
    """One number a sample: |x|^2 / 2 and a network, which knows the class."""
    c = b.embedding(b.param("classes.weight", f32(3, width), "normal"), y)
    h = b.silu(b.dense("fc1", x, width) + c)
    return b.sum(x * x, axes=(1,), keepdims=False) * 0.5 + b.reshape(b.dense("fc2", h, 1), shape=(B,))


def test_langevin_steps_with_a_gradient():
    width, steps, size = 5, 6, 0.1
    mb = ModuleBuilder()
    energy = mb.define(energy_of, [f32(B, 3), i64(B)], {"width": width})
    b = mb.function("sample")
    x, y, noise = b.input("x", f32(B, 3)), b.input("y", i64(B)), b.input("noise", f32(steps, B, 3))

    def step(b, i, invariants, carried, rows):
        (y,), (x,), (kick,) = invariants, carried, rows
        level, drift = b.gradient(energy, "energy", [x, y], out="level drift")
        return [x - drift * size + kick * np.sqrt(2 * size)], [level]

    x, _ = b.loop("langevin", steps, step, invariants=[y], carried=[x], tables=[noise])
    b.output(x)
    mb.entries["sample"] = b.finish()

    def reference(w, x, y, noise):
        w1, w2 = w["energy.fc1.weight"], w["energy.fc2.weight"]
        for kick in noise:
            h = x @ w1.T + w["energy.fc1.bias"] + w["energy.classes.weight"][y]
            s = 1 / (1 + np.exp(-h))
            slope = x + (w2[0] * (s + h * s * (1 - s))) @ w1  # d silu(h) / dh = s + h s (1 - s)
            x = x - size * slope + np.sqrt(2 * size) * kick
        return x

    rng = np.random.default_rng(2)
    check(mb.finish(), [rng.standard_normal((2, 3)), np.array([0, 2]), rng.standard_normal((steps, 2, 3))], reference)


# ---- two networks in one sampler, the small one first (as T-Stitch, Pan et al. 2024), both guided


@module_class("Net")
def velocity(b, x, t, y, *, width):
    """A velocity of x [B, 2] at t [B] for class y; class 3 is none."""
    c = b.embedding(b.param("classes.weight", f32(4, width), "normal"), y)
    h = b.dense("fc1", x, width) + c + b.reshape(t, shape=(t.shape[0], 1)) * b.param("time", f32(width), "normal")
    return b.dense("fc2", b.gelu(h, approximate="tanh"), 2)


def test_two_networks_in_one_sampler():
    """Euler steps of dx/dt = v: two by `small`, three by the wider `main`; the loop is split where it switches."""
    times = np.linspace(0, 1, 6)
    mb = ModuleBuilder()
    b = mb.function("sample")
    x, y, scale = b.input("x", f32(B, 2)), b.input("y", i64(B)), b.input("scale", f32(B))
    null = b.full(y, shape=(), value=3, dtype="i64")
    for name, width, span in (("small", 3, slice(0, 2)), ("main", 8, slice(2, 5))):
        network = mb.define(velocity, [f32(B, 2), f32(B), i64(B)], {"width": width})

        def step(b, i, invariants, carried, rows, name=name, network=network):
            (y, null, scale), (x,), (t, dt) = invariants, carried, rows
            time = b.broadcast_to(t, y, shape=(B,))
            kinds = ("shared", "shared", "conditional")
            return [x + b.guided(network, name, [x, time, y], kinds, [null], scale) * dt], []

        tables = [b.constant(times[:-1][span]), b.constant(np.diff(times)[span])]
        (x,) = b.loop(
            f"{name}.steps", len(times[:-1][span]), step, invariants=[y, null, scale], carried=[x], tables=tables
        )
    b.output(x)
    mb.entries["sample"] = b.finish()

    def reference(w, x, y, scale):
        def network(name, x, t, y):
            h = x @ w[f"{name}.fc1.weight"].T + w[f"{name}.fc1.bias"] + w[f"{name}.classes.weight"][y]
            h = h + t * w[f"{name}.time"]
            h = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
            return h @ w[f"{name}.fc2.weight"].T + w[f"{name}.fc2.bias"]

        for k, (t, dt) in enumerate(zip(times, np.diff(times), strict=False)):
            name = "small" if k < 2 else "main"
            cond, free = network(name, x, t, y), network(name, x, t, np.full_like(y, 3))
            x = x + dt * (free + scale[:, None] * (cond - free))
        return x

    rng = np.random.default_rng(3)
    check(mb.finish(), [rng.standard_normal((3, 2)), np.array([0, 1, 2]), np.array([1.0, 2.5, 4.0])], reference)


# ---- a single pass (as a GAN's generator): no loop; convolutions, a style for each layer, injected noise


@module_class("Synthesis")
def synthesis(b, x, style, noise, *, features):
    """Upsample, convolve under a style, add noise: x [B, C, H, W] -> [B, features, 2H, 2W]."""
    batch, channels, height, width = x.shape
    x = x * b.reshape(b.dense("style", style, channels) + 1.0, shape=(batch, channels, 1, 1))
    tall = b.broadcast_to(
        b.reshape(x, shape=(batch, channels, height, 1, width, 1)), x, shape=(batch, channels, height, 2, width, 2)
    )
    x = b.reshape(tall, shape=(batch, channels, 2 * height, 2 * width))
    x = b.conv(x, b.param("conv.weight", f32(features, channels, 3, 3), "normal"), padding=1)
    x = x + noise * b.reshape(b.param("strength", f32(features), "zeros"), shape=(features, 1, 1))
    return b.maximum(x, x * 0.2)


def test_a_single_pass_generator():
    mb = ModuleBuilder()
    b = mb.function("sample")
    z, y = b.input("z", f32(B, 4)), b.input("y", i64(B))
    noises = [b.input(f"noise{i}", f32(B, 1, s, s)) for i, s in enumerate((4, 8))]
    style = b.rms_norm(
        b.dense("mapping", z, 6) + b.embedding(b.param("classes.weight", f32(3, 6), "normal"), y), eps=1e-6
    )
    x = b.broadcast_to(b.param("start", f32(1, 5, 2, 2), "normal"), z, shape=(B, 5, 2, 2))
    for i, (noise, features) in enumerate(zip(noises, (4, 3), strict=True)):
        x = b.sub(f"layers.{i}", synthesis, x, style, noise, features=features)
    b.output(b.tanh(x))
    mb.entries["sample"] = b.finish()

    def reference(w, z, y, *noises):
        style = z @ w["mapping.weight"].T + w["mapping.bias"] + w["classes.weight"][y]
        style = style / np.sqrt((style**2).mean(-1, keepdims=True) + 1e-6)
        x = np.repeat(w["start"], len(z), axis=0)
        for i, noise in enumerate(noises):
            part = f"layers.{i}"
            x = x * (style @ w[f"{part}.style.weight"].T + w[f"{part}.style.bias"] + 1)[:, :, None, None]
            x = np.pad(x.repeat(2, axis=2).repeat(2, axis=3), [(0, 0), (0, 0), (1, 1), (1, 1)])
            size, kernel = x.shape[-1] - 2, w[f"{part}.conv.weight"]
            x = sum(
                np.einsum("bchw,oc->bohw", x[:, :, r : r + size, c : c + size], kernel[:, :, r, c])
                for r in range(3)
                for c in range(3)
            )
            x = x + noise * w[f"{part}.strength"][:, None, None]
            x = np.where(x > 0, x, 0.2 * x)
        return np.tanh(x)

    rng = np.random.default_rng(4)
    inputs = [rng.standard_normal((2, 4)), np.array([0, 2])]
    check(mb.finish(), [*inputs, *(rng.standard_normal((2, 1, s, s)) for s in (4, 8))], reference)


# ---- masked tokens (as MaskGIT, Chang et al. 2022): draw all, keep the surest, count by a cosine schedule


def test_masked_token_sampling():
    tokens, vocabulary, width, steps = 6, 5, 8, 4
    mask = vocabulary  # one more token than the vocabulary has
    keep = np.ceil(tokens * (1 - np.cos(np.pi / 2 * np.arange(1, steps + 1) / steps))).astype(np.int64)
    mb = ModuleBuilder()
    b = mb.function("sample")
    y = b.input("y", i64(B))
    draws = b.input("draws", f32(steps, B, tokens))
    start = b.full(y, shape=(tokens,), value=mask, dtype="i64")

    def step(b, i, invariants, carried, rows):
        (y,), (seen,), (u, count) = invariants, carried, rows
        x = b.embedding(b.param("tokens.weight", f32(vocabulary + 1, width), "normal"), seen)
        c = b.embedding(b.param("classes.weight", f32(3, width), "normal"), y)
        x = x + b.reshape(c, shape=(B, 1, width)) + b.param("positions", f32(tokens, width), "normal")
        x = x + b.sub("attn", attention, x, dim=width, heads=2)
        p = b.softmax(b.dense("logits", x, vocabulary), axis=-1)
        # The inverse of the cumulative distribution at u: how many of its steps lie below.
        below = b.less(b.cumsum(p, axis=-1), b.reshape(u, shape=(B, tokens, 1)))
        drawn = b.minimum(b.sum(b.cast(below, to="i64"), axes=(2,), keepdims=False), vocabulary - 1)
        hidden = b.equal(seen, mask)
        drawn = b.where(hidden, drawn, seen)
        sure = b.reshape(b.take_along(p, b.reshape(drawn, shape=(B, tokens, 1)), axis=2), shape=(B, tokens))
        sure = b.where(hidden, sure, 2.0)  # what was kept once stays
        # Rank of a token: how many are surer. The first `count` stay, the rest is masked again.
        surer = b.less(b.reshape(sure, shape=(B, tokens, 1)), b.reshape(sure, shape=(B, 1, tokens)))
        rank = b.sum(b.cast(surer, to="i64"), axes=(2,), keepdims=False)
        return [b.where(b.less(rank, count), drawn, mask)], []

    (out,) = b.loop("step", steps, step, invariants=[y], carried=[start], tables=[draws, b.constant(keep)])
    b.output(out)
    mb.entries["sample"] = b.finish()

    def reference(w, y, draws):
        samples = []
        for n in range(len(y)):
            seen = [mask] * tokens
            for u, count in zip(draws[:, n], keep, strict=True):
                x = w["tokens.weight"][seen] + w["classes.weight"][y[n]] + w["positions"]
                qkv = x @ w["attn.qkv.weight"].T + w["attn.qkv.bias"]
                heads = []
                for h in (0, 4):
                    q, k, v = (qkv[:, 8 * j + h : 8 * j + h + 4] for j in range(3))
                    heads.append(softmax(q @ k.T / 2) @ v)
                x = x + np.concatenate(heads, 1) @ w["attn.proj.weight"].T + w["attn.proj.bias"]
                p = softmax(x @ w["logits.weight"].T + w["logits.bias"])
                drawn, sure = list(seen), [2.0] * tokens
                for t in range(tokens):
                    if seen[t] == mask:
                        drawn[t] = min(int(np.searchsorted(np.cumsum(p[t]), u[t])), vocabulary - 1)
                        sure[t] = p[t, drawn[t]]
                order = sorted(range(tokens), key=lambda t: -sure[t])
                kept = {t for t in range(tokens) if sum(sure[s] > sure[t] for s in order) < count}
                seen = [drawn[t] if t in kept else mask for t in range(tokens)]
            samples.append(seen)
        return np.array(samples)

    check(mb.finish(), [np.array([0, 1, 2]), uniform(np.random.default_rng(5), steps, 3, tokens)], reference)


def test_the_comparison_can_fail():
    mb = ModuleBuilder()
    b = mb.function("sample")
    b.output(b.dense("fc", b.input("x", f32(B, 2)), 2))
    mb.entries["sample"] = b.finish()
    x = np.ones((1, 2))
    check(mb.finish(), [x], lambda w, x: x @ w["fc.weight"].T + w["fc.bias"])
    with pytest.raises(AssertionError):
        check(mb.finish(), [x], lambda w, x: x @ w["fc.weight"].T + w["fc.bias"] + 1e-6)
