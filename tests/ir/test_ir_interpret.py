"""The interpreter: calls, weights, guidance and loops against numpy written out, and what it refuses."""

import numpy as np
import pytest
from modules import sampler

from latentc.ir.builder import ModuleBuilder
from latentc.ir.core import parameters
from latentc.ir.inits import DETERMINISTIC, INITS
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B, f32, i64
from latentc.ir.verify import verify

RNG = np.random.default_rng(2)


def weights_of(module, function):
    found = parameters(module, function).items()
    return {path: RNG.standard_normal(tuple(map(int, p.type.shape))) * 0.3 for path, p in found}


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_a_guided_sampler_against_numpy():
    module = sampler(depth=2, steps=3)
    w = weights_of(module, "sample")
    x, y, scale = RNG.standard_normal((2, 4, 8)), np.array([3, 9]), np.array([1.5, 4.0])

    def network(x, y):
        x = x + w["main.classes.weight"][y][:, None] + w["main.bias"]
        for i in range(2):
            part = f"main.blocks.{i}"
            qkv = x @ w[f"{part}.qkv.weight"].T + w[f"{part}.qkv.bias"]
            q, k, v = (qkv[..., 8 * j : 8 * j + 8].reshape(2, 4, 2, 4).swapaxes(1, 2) for j in range(3))
            out = (softmax(q @ k.swapaxes(-1, -2) / 2) @ v).swapaxes(1, 2).reshape(2, 4, 8)
            x = x + out @ w[f"{part}.proj.weight"].T + w[f"{part}.proj.bias"]
        return x

    expected, means = x, []
    for a in np.linspace(1, 0.1, 3):
        cond, null = network(expected, y), network(expected, np.array([10, 10]))
        expected = expected * a + 0.1 * (null + scale[:, None, None] * (cond - null))
        means.append(expected)
    out, seen = Interpreter(module, w).run("sample", x, y, scale)
    assert out.dtype == np.float64 and np.allclose(out, expected, rtol=1e-12)
    assert seen.shape == (3, 2)
    single, _ = Interpreter(module, w, "f32").run("sample", x, y, scale)
    assert single.dtype == np.float32 and np.allclose(single, expected, rtol=1e-4)


def test_guidance_of_some_channels_with_a_carried_cache():
    """Only two of three channels are guided; the cache holds both branches, the conditional one first."""
    mb = ModuleBuilder()
    b = mb.function("net")
    x, cache, y = b.input("x", f32(B, 3)), b.input("cache", f32(B)), b.input("y", f32(B))
    seen = cache + y
    b.output(x * b.reshape(seen, shape=(B, 1)), seen)
    b.finish()
    b = mb.function("f")
    x, y, null, scale = b.input("x", f32(B, 3)), b.input("y", f32(B)), b.input("null", f32(B)), b.input("s", f32(B))
    cache = b.concat(y, null, axis=0)
    kinds = ("shared", "carried", "conditional")
    b.output(*b.guided("net", "net", [x, cache, y], kinds, [null], scale, ("guided", "carried"), channels=2))
    b.finish()
    x, y, null, scale = RNG.standard_normal((2, 3)), np.array([1.0, 2.0]), np.array([5.0, 7.0]), np.array([3.0, 0.5])
    out, cache = Interpreter(verify(mb.finish())).run("f", x, y, null, scale)
    cond, free = x * 2 * y[:, None], x * 2 * null[:, None]
    guided = free + scale[:, None] * (cond - free)
    assert np.allclose(out, np.concatenate([guided[:, :2], cond[:, 2:]], axis=1))
    assert np.allclose(cache, np.concatenate([2 * y, 2 * null]))


def test_half_precision_is_only_a_type_to_the_oracle():
    mb = ModuleBuilder()
    b = mb.function("f")
    b.output(b.cast(b.cast(b.input("x", f32(1)), to="bf16") * 3.0, to="f32"))
    b.finish()
    assert Interpreter(mb.finish()).run("f", [0.1])[0][0] == 0.1 * 3.0


def test_what_does_not_fit_is_refused():
    module = sampler()
    w = weights_of(module, "sample")
    x, y, scale = np.zeros((2, 4, 8)), np.array([3, 9]), np.ones(2)
    run = Interpreter(module, w).run
    with pytest.raises(ValueError, match="takes 3 inputs, got 2"):
        run("sample", x, y)
    with pytest.raises(ValueError, match=r"x is \[2, 4, 7\]; wants f32\[B, T=4, dim=8\]|x is \[2, 4, 7\]"):
        run("sample", x[..., :7], y, scale)
    with pytest.raises(ValueError, match=r"y is \[3\]; wants i64\[B\], B=2"):
        run("sample", x, np.array([1, 2, 3]), scale)
    del w["main.blocks.0.qkv.weight"]
    with pytest.raises(ValueError, match=r"no weight main\.blocks\.0\.qkv\.weight"):
        Interpreter(module, w).run("sample", x, y, scale)
    w["main.blocks.0.qkv.weight"] = np.zeros((24, 9))
    with pytest.raises(ValueError, match=r"main\.blocks\.0\.qkv\.weight is \[24, 9\]"):
        Interpreter(module, w).run("sample", x, y, scale)


def test_deterministic_initial_values_need_no_generator():
    arguments = {
        "constant": ((2, 3), {"value": 0.5}),
        "sincos_1d": ((9, 8), {"width": 8, "length": 9, "base": 10000.0}),
        "sincos_2d": ((9, 8), {"width": 8, "grid": 3}),
        "rope_1d": ((10, 4), {"head_dim": 8, "length": 10, "base": 10000.0, "part": "sin"}),
        "rope_prefix": (
            (12, 4),
            {"head_dim": 8, "grid": 3, "prefix": 3, "base": 10000.0, "pairs": 2, "side": 3, "part": "sin"},
        ),
        "rope_2d": ((10, 4), {"head_dim": 8, "grid": 3, "prefix": 1, "base": 10000.0, "part": "cos"}),
        "cosines_2d": ((9, 16), {"grid": 3, "frequencies": 4}),
        "rope_2d_extrapolated": ((6, 4), {"head_dim": 8, "rows": 3, "columns": 2, "base": 10000.0, "part": "cos"}),
        "rope_2d_spread": ((9, 4), {"head_dim": 8, "grid": 3, "base": 10000.0, "span": 16.0, "part": "cos"}),
    }
    for kind in DETERMINISTIC & INITS.keys():
        shape, args = arguments.get(kind, ((2, 3), {}))
        first = INITS[kind](None, shape, **args)
        assert first.shape == shape and np.array_equal(first, INITS[kind](None, shape, **args))


def test_initial_values_have_the_spread_they_promise():
    rng = np.random.default_rng(0)
    weight = INITS["xavier_uniform"](rng, (300, 200))
    assert abs(weight).max() <= np.sqrt(6 / 500) and np.isclose(weight.std(), np.sqrt(2 / 500), rtol=0.02)
    assert np.isclose(INITS["linear_default"](rng, (300, 200), fan_in=200).std(), 1 / np.sqrt(600), rtol=0.02)
    assert np.isclose(INITS["normal"](rng, (300, 200), std=0.02).std(), 0.02, rtol=0.02)


def test_integers_stay_whole():
    mb = ModuleBuilder()
    b = mb.function("f")
    n = b.input("n", i64(B))
    b.output(n * 2 - 1, b.cast(n, to="f32") / 2.0, b.sum(n, axes=(0,), keepdims=False))
    b.finish()
    doubled, halved, total = Interpreter(mb.finish()).run("f", [1, 2, 3])
    assert doubled.tolist() == [1, 3, 5] and halved.tolist() == [0.5, 1.0, 1.5] and total == 6
    assert doubled.dtype == total.dtype == np.int64
