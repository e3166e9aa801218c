"""Every op's ONNX lowering against the float64 interpreter, through ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inline_tensors import InlineTensors
from onnx_runs import TOLERANCE, array, compare, module_of, run_onnx

from latentc.export.lowerings import TABLE
from latentc.export.onnx import flat_module, missing_lowerings, onnx_from_module
from latentc.ir.builder import Builder, Var
from latentc.ir.interpret import Interpreter
from latentc.ir.ops import OPS
from latentc.ir.types import B, TensorType, f32, i64

BOOL = f32().with_dtype
X, W, IDX = f32(B, 4, 6), f32(5, 6), i64(B, 4)
Q, K = f32(B, 4, 5, 8), f32(B, 2, 7, 8)


def op(name: str, **attrs: Any) -> Callable[..., Any]:
    return lambda b, *xs: b.op(name, *xs, **attrs)


def _broadcast_from_nothing(b: Builder, x: Var) -> Var:
    return b.broadcast_to(b.constant(np.arange(6.0)), x, shape=(B * 2, 6))


def _through(b: Builder, x: Var, scale: Var, to: str, **where: int) -> Var:
    """A tensor as its quantised numbers dequantise, under a shape that it takes in between."""
    return b.dequantize(b.quantize(x, scale, to=to, **where), scale, **where)


def _int8_product(b: Builder, x: Var, w: Var, scale: Var, scales: Var, *bias: Var) -> Var:
    numbers = b.quantize(w, scales, to="i8", axis=1)
    return b.linear_int8(b.quantize(x, scale, to="u8"), numbers, scale, scales, *bias)


def _dynamic_product(b: Builder, x: Var, w: Var, scales: Var, *bias: Var) -> list[Var]:
    """Two of one operand, which is quantised once."""
    numbers = b.quantize(w, scales, to="i8", axis=1)
    return [b.linear_int8_dynamic(x, numbers, scales, *bias) for _ in range(2)]


def _blocks(bits: int) -> Callable[..., Var]:
    return lambda b, x, q, s, *bias: b.linear_blocks(x, q, s, *bias, bits=bits, block=16)


def u8(*shape: int) -> TensorType:
    return TensorType("u8", shape)


# op -> [(operand types, what is built, lowest and highest operand value)]
CASES: dict[str, list[tuple[Any, ...]]] = {
    **{name: [((X,), op(name), -2, 2)] for name in ("neg", "exp", "sin", "cos", "atan", "tanh", "sigmoid", "relu")},
    **{
        name: [((X,), op(name), -2, 2)]
        for name in ("silu", "softplus", "mish", "elu", "erf", "abs", "floor", "stop_gradient")
    },
    **{name: [((X,), op(name), 0.1, 3)] for name in ("log", "sqrt", "rsqrt")},
    "acos": [((X,), op("acos"), -1, 1)],
    **{
        name: [((X, f32(4, 1)), op(name), 0.5, 2), ((IDX, i64(4)), op(name), 1, 5)]
        for name in ("add", "sub", "mul", "maximum", "minimum", "equal", "less", "less_equal", "greater")
    },
    "div": [
        ((X, f32(4, 1)), op("div"), 0.5, 2),
        ((IDX,), lambda b, x: b.div(x, b.constant([3, -3, 2, -2])), -7, 7),
    ],
    "pow": [((X, f32(4, 1)), op("pow"), 0.5, 2)],
    "logical_and": [((BOOL("bool").with_shape([B, 4]),) * 2, op("logical_and"), 0, 1)],
    "logical_or": [((BOOL("bool").with_shape([B, 4]),) * 2, op("logical_or"), 0, 1)],
    "where": [
        ((BOOL("bool").with_shape([B, 4, 1]), X, f32()), op("where"), -2, 2),
        ((BOOL("bool").with_shape([B, 4]), IDX, IDX), op("where"), -2, 2),
        ((BOOL("bool").with_shape([B, 4]),) * 3, op("where"), 0, 1),
    ],
    "gelu": [((X,), op("gelu", approximate=a), -4, 4) for a in ("none", "tanh")],
    "clamp": [((X,), op("clamp", low=-0.5, high=1.0), -2, 2)],
    "cast": [
        ((X,), op("cast", to="i64"), -3, 3),
        ((IDX,), op("cast", to="f32"), -3, 3),
        ((IDX,), op("cast", to="bool"), -1, 1),
        ((BOOL("bool").with_shape([B]),), op("cast", to="f32"), 0, 1),
    ],
    "constant": [
        ((X,), lambda b, x: [x + b.constant(np.arange(6.0)), b.constant([1, 2])], -2, 2),
        ((X,), lambda b, x: [b.constant([True, False]), x], -2, 2),
    ],
    "full": [
        ((X,), op("full", shape=(2,), value=1.5, dtype="f32"), 0, 1),
        ((i64(B),), op("full", shape=(), value=7, dtype="i64", factor=2), 0, 1),
        ((f32(B * 4),), op("full", shape=(2,), value=True, dtype="bool"), 0, 1),
    ],
    "reshape": [((X,), op("reshape", shape=(B * 2, 12)), -2, 2), ((f32(6),), op("reshape", shape=(2, 3)), -2, 2)],
    "transpose": [((X,), op("transpose", perm=(2, 0, 1)), -2, 2)],
    "broadcast_to": [
        ((f32(B, 1, 6),), op("broadcast_to", shape=(B, 4, 6)), -2, 2),
        ((f32(1, 6), X), op("broadcast_to", shape=(B, 4, 6)), -2, 2),
        ((f32(B * 2),), _broadcast_from_nothing, -2, 2),
        ((f32(), i64(B)), op("broadcast_to", shape=(B,)), 0, 2),
    ],
    "concat": [((X, f32(B, 2, 6)), op("concat", axis=1), -2, 2), ((X, X), op("concat", axis=0), -2, 2)],
    "split": [
        ((X,), op("split", axis=1, sizes=(1, 3)), -2, 2),
        ((X,), op("split", axis=-1, sizes=(2, 2, 2)), -2, 2),
        ((f32(B * 2, 3),), op("split", axis=0, sizes=(B, B)), -2, 2),
        ((f32(B * 3, 3),), op("split", axis=0, sizes=(B, B * 2)), -2, 2),
        ((X,), op("split", axis=1, sizes=(4,)), -2, 2),
    ],
    "unbind": [((X,), op("unbind", axis=1), -2, 2), ((f32(B, 1, 2),), op("unbind", axis=1), -2, 2)],
    "slice": [((X,), op("slice", axis=1, start=1, stop=3), -2, 2)],
    "pad": [((X,), op("pad", axis=2, before=1, after=2, value=0.5), -2, 2)],
    "take": [((W, IDX), op("take", axis=0), 0, 4), ((X, i64(3, 2)), op("take", axis=1), 0, 3)],
    "take_along": [((X, i64(B, 2, 6)), op("take_along", axis=1), 0, 3)],
    "scatter_add": [
        ((W, IDX, f32(B, 4, 6)), op("scatter_add", axis=0), 0, 4),
        ((X, i64(3, 2), f32(B, 3, 2, 6)), op("scatter_add", axis=1), 0, 3),
    ],
    "update_slice": [
        ((X, f32(B, 2, 6), i64()), op("update_slice", axis=1), 0, 2),
        ((IDX, i64(B, 1), i64()), op("update_slice", axis=1), 0, 3),
    ],
    **{
        name: [((X,), op(name, axes=(1, 2), keepdims=k), -2, 2) for k in (True, False)]
        for name in ("sum", "mean", "max")
    },
    "softmax": [((X,), op("softmax", axis=1), -2, 2)],
    "log_softmax": [((X,), op("log_softmax", axis=-1), -2, 2)],
    "cross_entropy": [((f32(B, 5), i64(B)), op("cross_entropy"), 0, 4)],
    "argmax": [((X,), op("argmax", axis=1), -2, 2), ((i64(B, 9),), lambda b, x: b.argmax(x * 1.0, axis=1), 0, 2)],
    "logsumexp": [((X,), op("logsumexp", axis=1), -2, 2), ((X,), op("logsumexp", axis=-1), 50, 200)],
    "argsort": [((X,), op("argsort"), -2, 2), ((X,), lambda b, x: b.argsort(b.argsort(x)), -2, 2)],
    "leaky_relu": [((X,), op("leaky_relu", slope=0.2), -2, 2)],
    "top_k": [((X,), op("top_k", k=3), -2, 2)],
    "cumsum": [((X,), op("cumsum", axis=1), -2, 2)],
    "cumprod": [((X,), op("cumprod", axis=axis), -2, 2) for axis in (1, -1)],
    "matmul": [((X, f32(6, 5)), op("matmul"), -2, 2), ((Q, f32(B, 4, 8, 3)), op("matmul"), -2, 2)],
    "linear": [
        ((X, W, f32(5)), op("linear"), -2, 2),
        ((X, W), op("linear"), -2, 2),
        ((f32(B, 6), W), op("linear"), -2, 2),
    ],
    "conv": [
        ((f32(B, 3, 8, 8), f32(5, 3, 2, 2), f32(5)), op("conv", stride=2), -2, 2),
        ((f32(B, 4, 8, 8), f32(6, 2, 3, 3)), op("conv", padding=2, groups=2, dilation=2), -2, 2),
        ((f32(B, 4, 8, 9), f32(6, 4, 3, 2)), op("conv", stride=(1, 2), padding=(1, 0), dilation=(2, 1)), -2, 2),
        ((f32(B, 4, 9), f32(6, 2, 3), f32(6)), op("conv", stride=2, padding=2, groups=2, dilation=2), -2, 2),
        ((f32(B, 2, 4, 5, 6), f32(3, 2, 2, 3, 1), f32(3)), op("conv", stride=(1, 2, 3), padding=(1, 1, 0)), -2, 2),
    ],
    "conv_transpose": [
        (
            (f32(B, 3, 4, 4), f32(3, 5, 3, 3)),
            op("conv_transpose", stride=2, padding=1, output_padding=(1, 0)),
            -2,
            2,
        ),
        ((f32(B, 1, 4, 3), f32(1, 1, 3, 8), f32(1)), op("conv_transpose", stride=(1, 4), padding=(1, 2)), -2, 2),
        ((f32(B, 4, 5), f32(4, 3, 4), f32(6)), op("conv_transpose", stride=2, padding=1, groups=2), -2, 2),
        ((f32(B, 2, 2, 3, 4), f32(2, 3, 2, 2, 1)), op("conv_transpose", stride=(2, 1, 3)), -2, 2),
    ],
    "expert": [
        ((X, X, f32(B, 4, 1), f32(5, 6), f32(5, 6), f32(6, 5)), op("expert"), -1, 1),
        (
            (X, X, f32(B, 4, 1), f32(5, 6), f32(5, 6), f32(6, 5)),
            lambda b, y, x, g, *w: b.expert(b.expert(y, x, b.relu(g), *w), x, b.relu(-b.relu(g)), *w),  # none at all
            -1,
            1,
        ),
    ],
    "experts": [
        ((f32(B, 4, 6), f32(B, 4, 3), f32(3, 5, 6), f32(3, 5, 6), f32(3, 6, 5)), op("experts", per_token=3), -1, 1)
    ],
    "gelu_expert": [
        ((X, X, f32(B, 4, 1), f32(5, 6), f32(5), f32(6, 5), f32(6)), op("gelu_expert"), -1, 1),
        (
            (X, X, f32(B, 4, 1), f32(5, 6), f32(5), f32(6, 5), f32(6)),
            lambda b, y, x, g, *w: b.gelu_expert(b.gelu_expert(y, x, b.relu(g), *w), x, b.relu(-b.relu(g)), *w),
            -1,
            1,
        ),
    ],
    "gelu_experts": [
        (
            (f32(B, 4, 6), f32(B, 4, 3), f32(3, 5, 6), f32(3, 5), f32(3, 6, 5), f32(3, 6)),
            op("gelu_experts", per_token=3),
            -1,
            1,
        )
    ],
    "depthwise_each": [((f32(B, 2, 4, 5), f32(B, 2, 3, 3)), op("depthwise_each"), -2, 2)],
    "pool_choice": [((f32(B, 4, 3), f32(B, 4, 3), f32(3), f32(1)), op("pool_choice", momentum=0.9), 0.1, 1)],
    "posterior_mean": [
        ((f32(B, 3), f32(B, 3), f32(B), i64(B)), op("posterior_mean"), 0.1, 2),
        ((f32(B, 2, 2), f32(B, 2, 2), f32(B)), op("posterior_mean", extra=3.0), 0.1, 1),
    ],
    "noted": [((f32(B), f32(5), f32(5), i64(B)), op("noted", momentum=0.9), 0, 4)],
    "exchanged": [((f32(B, 2, 3), f32(4, 2, 3), i64(B)), op("exchanged"), -1, 3)],
    "running_mean": [((f32(B, 3), f32(1)), op("running_mean", momentum=0.9), -2, 2)],
    "set_from_data": [((f32(3), f32(3), f32(1)), op("set_from_data"), -2, 2)],
    "training_passes": [((f32(1),), op("training_passes", otherwise=7.0), 0.1, 1)],
    "selective_scan": [
        (
            (f32(B, 5, 3), f32(B, 5, 3), f32(3, 2), f32(B, 5, 2), f32(B, 5, 2)),
            lambda b, x, delta, a, *more: b.selective_scan(x, delta, -a, *more),
            0.1,
            1,
        )
    ],
    "embedding": [((W, IDX), op("embedding"), 0, 4)],
    "layer_norm": [((X, f32(6), f32(6))[:n], op("layer_norm", eps=1e-6), -2, 2) for n in (1, 2, 3)],
    "rms_norm": [((X, f32(6))[:n], op("rms_norm", eps=1e-5), -2, 2) for n in (1, 2)],
    "group_norm": [
        ((f32(B, 4, 3, 3), f32(4), f32(4))[:n], op("group_norm", groups=2, eps=1e-5), -2, 2) for n in (1, 2, 3)
    ],
    "batch_norm": [
        ((f32(B, 4, *space), *[f32(4)] * n), op("batch_norm", eps=1e-5, momentum=0.1), 0.1, 2)
        for n in (2, 3, 4)
        for space in ((), (3, 3))
    ],
    "spectral_norm": [
        ((f32(5, *shape), f32(5)), op("spectral_norm", eps=1e-12), 0.1, 2) for shape in ((4,), (2, 3, 3))
    ],
    "mp_silu": [((X,), op("mp_silu"), -2, 2)],
    "mp_sum": [((X, X), op("mp_sum", balance=0.3), -2, 2)],
    "mp_concat": [((X, X), op("mp_concat", axis=1, balance=0.3), -2, 2)],
    "pixel_norm": [((X,), op("pixel_norm", axis=axis, eps=1e-4), -2, 2) for axis in (1, -1)],
    "forced_norm": [((f32(5, *shape),), op("forced_norm", eps=1e-4), -2, 2) for shape in ((4,), (2, 3, 3))],
    "weight_norm": [
        ((f32(5, 3, 2), f32(5 if axis == 0 else 3)), op("weight_norm", axis=axis, output_std=1.0), 0.1, 2)
        for axis in (0, 1)
    ],
    "resize": [
        ((f32(B, 2, 3, 4),), op("resize", size=(2, 5), mode=mode), -2, 2) for mode in ("area", "antialiased", "bicubic")
    ],
    "grid_sample": [
        ((f32(B, 2, 3, 4), f32(B, 2, 5, 2)), op("grid_sample", outside=outside), -2, 2)
        for outside in ("zeros", "border", "reflection")
    ],
    "reflect_pad": [((f32(B, 2, 3, 4),), op("reflect_pad", size=n), -2, 2) for n in (1, 2)],
    "upsample_nearest": [((f32(B, 2, 3, 4),), op("upsample_nearest", factor=n), -2, 2) for n in (2, 3)],
    **{
        name: [
            ((f32(B, 2, 6, 4),), op(name, size=2), -2, 2),
            ((f32(B, 2, 6),), op(name, size=3), -2, 2),
            ((f32(B, 2, 4, 6, 4),), op(name, size=(1, 3, 2)), -2, 2),
        ]
        for name in ("avg_pool", "max_pool")
    },
    "attention": [
        ((Q, Q, Q), op("attention", causal=False, scale=None), -2, 2),
        ((Q, Q, Q), op("attention", causal=True, scale=None), -2, 2),
        ((Q, K, K), op("attention", causal=False, scale=0.3), -2, 2),
        ((f32(B, 4, 7, 8), K, K), op("attention", causal=True, scale=None), -2, 2),
        ((Q, K, K, f32(5, 7)), op("attention", causal=False, scale=None), -2, 2),
        *(
            ((Q, K, K, f32(*mask)), op("attention", causal=False, scale=None), -2, 2)
            for mask in [(B, 1, 5, 7), (B, 1, 1, 7), (1, 1, 1, 7), (B, 4, 1, 1), (1, 7), (4, 5, 7), (5, 1), (7,)]
        ),
        (
            (Q, K, K, i64(B, 1, 1, 7)),  # which keys are padding, per sample
            lambda b, q, k, v, m: b.attention(q, k, v, b.less(m, b.constant(2)), causal=False, scale=None),
            0,
            2,
        ),
        (
            (f32(B, 4, 1, 8), K, K, i64()),
            lambda b, q, k, v, i: b.attention(
                q, k, v, b.less_equal(b.constant(np.arange(7)), i), causal=False, scale=None
            ),
            1,
            2,
        ),
    ],
    "rotary": [
        ((Q, f32(5, 4), f32(5, 4)), op("rotary", interleaved=True), -1, 1),
        ((f32(B * 2, 2, 1, 8), f32(1, 4), f32(1, 4)), op("rotary", interleaved=False), -1, 1),
        ((Q, f32(B, 1, 5, 4), f32(B, 1, 5, 4)), op("rotary", interleaved=True), -1, 1),
        ((Q, f32(B, 1, 5, 4), f32(B, 1, 5, 4)), op("rotary", interleaved=False), -1, 1),
    ],
    "quantize": [
        ((X, f32()), lambda b, x, s, to=to: b.cast(b.quantize(x, s, to=to), to="f32"), 0.1, 3)
        for to in ("i8", "u8", "f8e4m3")
    ]
    + [((X, f32(4)), lambda b, x, s: b.cast(b.quantize(x, s, to="i8", axis=1), to="f32"), 0.1, 3)],
    "dequantize": [((X, f32()), lambda b, x, s, to=to: _through(b, x, s, to), 0.1, 3) for to in ("i8", "u8", "f8e4m3")]
    + [((f32(B, 4, 32), f32(4)), lambda b, x, s: _through(b, x, s, "i8", axis=1), 0.1, 3)],
    "block_scales": [((f32(4, 6), f32()), lambda b, x, s: b.block_scales(b.quantize(x, s, to="f8e4m3"), s), 0.1, 3)],
    "linear_int8": [((X, f32(6, 5), f32(), f32(5), f32(5))[: 4 + biased], _int8_product, 0.1, 3) for biased in (0, 1)],
    "linear_int8_dynamic": [
        ((X, f32(6, 5), f32(5), f32(5))[: 3 + biased], _dynamic_product, 0.1, 3) for biased in (0, 1)
    ],
    "linear_blocks": [
        ((f32(B, 4, 32), u8(5, 2, bits * 2), f32(5, 2), f32(5))[: 3 + biased], _blocks(bits), 1, 3)
        for bits in (4, 8)
        for biased in (0, 1)
    ],
    "timestep_embedding": [((f32(B),), op("timestep_embedding", dim=16, max_period=10000.0), 0, 3)],
}
FLAT = [(name, i) for name, cases in CASES.items() for i in range(len(cases))]


@pytest.mark.parametrize(("name", "case"), FLAT)
def test_lowering_means_what_the_row_means(name: str, case: int) -> None:
    types, build, low, high = CASES[name][case]
    rng = np.random.default_rng(case)
    module = module_of(types, build)
    compare(module, [array(t, low, high, rng) for t in types])


@pytest.mark.parametrize("name", ["attention", "rotary", "rms_norm", "gelu", "group_norm", "grid_sample"])
@pytest.mark.parametrize("opset", [18, 20])
def test_older_opsets_get_the_decomposition(name: str, opset: int) -> None:
    for types, build, low, high in CASES[name]:
        compare(module_of(types, build), [array(t, low, high, np.random.default_rng(1)) for t in types], opset)


def test_every_op_has_a_case_and_every_gap_is_listed() -> None:
    training = {"dropout", "drop_path", "training_noise", "auxiliary_loss", "fake_quantize", "fake_quantize_weight"}
    of_tensorrt = {"fake_quantize_nvfp4"}
    training |= {"fake_quantize_blocks"}
    assert set(CASES) == set(OPS) - training - of_tensorrt
    # Ops without a lowering at the default opset; each has a decomposition.
    assert missing_lowerings() == {name for name in OPS if OPS[name].sugar} | {
        *("cross_entropy", "depthwise_each", "experts", "gelu_experts", "forced_norm", "logsumexp", "spectral_norm"),
        *("exchanged", "noted", "posterior_mean", "running_mean", "set_from_data", "training_passes", "weight_norm"),
    }
    older = {"attention", "rotary", "rms_norm", "group_norm", "gelu", "gelu_expert", "grid_sample"}
    assert missing_lowerings(18) == missing_lowerings() | older
    assert all(OPS[name].decompose is not None for name in missing_lowerings(18))
    assert set(TABLE) <= set(OPS)


def test_control_a_wrong_scale_is_found() -> None:
    right = module_of((Q, Q, Q), op("attention", causal=False, scale=None))
    wrong = module_of((Q, Q, Q), op("attention", causal=False, scale=0.36))
    inputs = [array(Q, rng=np.random.default_rng(i)) for i in range(3)]
    expected = Interpreter(right).run("main", *inputs)[0]
    assert np.abs(run_onnx(wrong, inputs)[0] - expected).max() > TOLERANCE * np.abs(expected).max()


@settings(max_examples=25, deadline=None)
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    ones=st.lists(st.booleans(), min_size=3, max_size=3),
    name=st.sampled_from(["add", "sub", "mul", "maximum", "less", "where"]),
    batched=st.booleans(),
)
def test_broadcasting(shape: list[int], ones: list[bool], name: str, batched: bool) -> None:
    full: list[Any] = [*([B] if batched else []), *shape]
    part = [1 if one else d for d, one in zip(shape, ones, strict=False)]
    types = [f32(*full), f32(*part)]
    if name == "where":
        types = [f32(*full).with_dtype("bool"), f32(*part), f32()]
    compare(module_of(types, op(name)), [array(t) for t in types])


def test_a_batch_is_free() -> None:
    """One model takes any batch."""
    module = module_of(
        (X, W), lambda b, x, w: b.split(b.concat(b.linear(x, w), b.linear(x, w), axis=0), axis=0, sizes=(B, B))
    )
    model = onnx_from_module(flat_module(module, "main"), "main", InlineTensors(lambda path, param: np.zeros(())))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for batch in (1, 5):
        out = session.run(None, {"x0": np.ones((batch, 4, 6), np.float32), "x1": np.ones((5, 6), np.float32)})
        assert out[0].shape == (batch, 4, 5)
    assert session.get_inputs()[0].shape == ["B", 4, 6]


def test_a_run_of_reshapes_is_one() -> None:
    """A shape that no node needs is not taken: between two layers of rank 3 there is no reshape."""
    module = module_of(
        (X, f32(8, 6), f32(6, 8)),
        lambda b, x, w, v: b.reshape(b.linear(b.gelu(b.linear(x, w), approximate="tanh"), v), shape=(B, 24)),
    )
    model = onnx_from_module(flat_module(module, "main"), "main", InlineTensors(lambda path, param: np.zeros(())))
    assert [n.op_type for n in model.graph.node] == ["Reshape", "Gemm", "Gelu", "Gemm", "Reshape"]
    compare(module, [array(v.type, rng=np.random.default_rng(i)) for i, v in enumerate(module.entry("main").inputs)])
