"""Every op row against PyTorch: types, values, decompositions, derivatives, costs."""

import contextlib

import numpy as np
import pytest
import torch
from gradients import grad, pushed
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_parse import module_from_text
from op_cases import CASES, TORCH, Draw
from torch.utils.flop_counter import FlopCounterMode

from latentc.ir.builder import ModuleBuilder
from latentc.ir.interpret import Interpreter
from latentc.ir.ops import OPS, OpError
from latentc.ir.stubs import STUB, stub_text
from latentc.ir.text import text_from_module
from latentc.ir.types import NUMPY, TensorType, f32, i64, unify
from latentc.ir.verify import verify

EXAMPLES = settings(max_examples=15, deadline=None, derandomize=True)


def tensors(case):
    return [torch.as_tensor(o.array, dtype=TORCH[o.type.dtype]).requires_grad_(o.type.is_float) for o in case.operands]


def as_list(outputs):
    return list(outputs) if isinstance(outputs, tuple | list) else [outputs]


def module_of(op, case, decomposed=False):
    """A function that applies the op, or its decomposition."""
    mb = ModuleBuilder()
    b = mb.function("f")
    operands = [b.input("x", o.type) for o in case.operands]
    b.output(OPS[op].decompose(b, operands, case.attrs) if decomposed else b.op(op, *operands, **case.attrs))
    mb.entries["f"] = b.finish()
    return mb.finish()


def close(actual, expected, tolerance=1e-9):
    expected = np.asarray(expected)
    assert actual.shape == expected.shape
    assert np.all(np.abs(actual - expected) <= tolerance * max(1.0, np.abs(expected).max(initial=0)))


def test_every_op_has_a_case():
    assert set(CASES) == set(OPS)


@pytest.mark.parametrize("op", sorted(OPS))
@EXAMPLES
@given(data=st.data())
def test_values_types_and_text(op, data):
    case = CASES[op](Draw(data))
    arrays = [o.array for o in case.operands]
    expected = [y.detach().numpy() for y in as_list(case.torch(*tensors(case)))]
    module = verify(module_of(op, case))
    again = module_from_text(text_from_module(module))
    assert text_from_module(again) == text_from_module(module)
    for float_dtype in ("f64", "f32"):
        results = Interpreter(again, float_dtype=float_dtype).run("f", *arrays)
        for result, output, value in zip(results, again.entry("f").outputs, expected, strict=True):
            assert result.dtype == (NUMPY[float_dtype] if output.type.is_float else NUMPY[output.type.dtype])
            assert unify(output.type, TensorType(output.type.dtype, result.shape), {})
            close(result.astype(np.float64), value.astype(np.float64), 1e-9 if float_dtype == "f64" else 1e-3)
    if OPS[op].decompose:
        module = verify(module_of(op, case, decomposed=True))
        for result, value in zip(Interpreter(module).run("f", *arrays), expected, strict=True):
            close(result, value)
    node = module_of(op, case).entry("f").nodes[-1]
    cost = OPS[op].cost([v.type for v in node.inputs], [v.type for v in node.outputs], node.attrs)
    assert isinstance(cost, int) and cost >= 0


SMOOTH = sorted(n for n, row in OPS.items() if not row.train_only and not row.engine_only and n != "constant")


@pytest.mark.parametrize("op", SMOOTH)
@EXAMPLES
@given(data=st.data())
def test_derivative(op, data):
    """Of sum(weights * output), through the grad pass; zero for an op that says it is flat."""
    draw = Draw(data)
    case = CASES[op](draw)
    wrt = [i for i, o in enumerate(case.operands) if o.type.is_float]
    outputs = as_list(case.torch(*tensors(case)))
    smooth = [k for k, y in enumerate(outputs) if y.dtype == torch.float64]
    if not wrt or not smooth:
        return
    of = draw.choose(smooth)
    mb = ModuleBuilder()
    b = mb.function("f")
    operands = [b.input("x", o.type) for o in case.operands]
    ys = as_list(b.op(op, *operands, **case.attrs))
    weight = b.input("weight", ys[of].type)
    b.output(ys[of] * weight)
    b.finish()
    plain = mb.finish()
    module, name = grad(plain, "f", wrt)
    verify(module)
    xs = tensors(case)
    y = as_list(case.torch(*xs))[of]
    weights = draw.rng.standard_normal(tuple(y.shape))
    total = (y * torch.as_tensor(weights)).sum()
    found = Interpreter(module).run(name, *(o.array for o in case.operands), weights)
    if total.requires_grad:
        wanted = torch.autograd.grad(total, [xs[i] for i in wrt], allow_unused=True)
    else:
        wanted = [None] * len(wrt)
    gradients = [
        np.zeros_like(case.operands[i].array) if w is None else w.numpy() for i, w in zip(wrt, wanted, strict=True)
    ]
    for g, w in zip(found, gradients, strict=True):
        close(g, w, 1e-7)
    # Forward mode: the sum of the tangent is the gradient along the tangents.
    module, name = pushed(plain, "f", wrt)
    tangents = [draw.rng.standard_normal(g.shape) for g in gradients]
    (tangent,) = Interpreter(verify(module)).run(name, *(o.array for o in case.operands), weights, *tangents)
    along = [np.sum(g * t) for g, t in zip(gradients, tangents, strict=True)]
    assert abs(np.sum(tangent) - sum(along)) <= 1e-7 * max(1.0, *np.abs(along))


def test_stubs_are_current(request):
    """Editors and mypy read the signatures of `b.NAME(...)` from a file that the op rows determine."""
    if request.config.getoption("--bless"):
        STUB.write_text(stub_text(), encoding="utf-8")
    assert STUB.read_text(encoding="utf-8") == stub_text(), "run python -m latentc.ir.stubs"


def test_training_ops_are_differentiated_as_in_inference():
    mb = ModuleBuilder()
    b = mb.function("f")
    b.output(b.exp(b.dropout(b.input("x", f32(2)), p=0.5)))
    b.finish()
    module, name = grad(mb.finish(), "f", [0])
    (found,) = Interpreter(verify(module)).run(name, [0.0, 1.0])
    close(found, np.exp([0.0, 1.0]))


@pytest.mark.parametrize(
    ("op", "types", "attrs", "call"),
    [
        ("matmul", [f32(3, 4, 5), f32(3, 5, 6)], {}, torch.matmul),
        ("linear", [f32(7, 4), f32(5, 4)], {}, torch.nn.functional.linear),
        (
            "conv",
            [f32(2, 4, 8, 8), f32(6, 2, 3, 3)],
            {"stride": 2, "padding": 1, "groups": 2},
            lambda x, w: torch.nn.functional.conv2d(x, w, stride=2, padding=1, groups=2),
        ),
        (
            "conv_transpose",
            [f32(2, 4, 8, 8), f32(4, 6, 3, 3)],
            {"stride": 2, "padding": 1, "groups": 1, "output_padding": (1, 1)},
            lambda x, w: torch.nn.functional.conv_transpose2d(x, w, stride=2, padding=1, output_padding=1),
        ),
        (
            "attention",
            [f32(2, 3, 5, 4)] * 3,
            {"causal": False},
            lambda q, k, v: q @ k.mT @ v,  # the fused kernel of the CPU is not counted
        ),
    ],
)
def test_flops_are_those_pytorch_counts(op, types, attrs, call):
    out = OPS[op].types(types, attrs)
    with FlopCounterMode(display=False) as counter:
        call(*(torch.zeros(t.shape) for t in types))
    assert OPS[op].cost(types, out, attrs) == counter.get_total_flops()


def test_integers_divide_towards_minus_infinity():
    mb = ModuleBuilder()
    b = mb.function("f")
    x, y = b.input("x", i64(4)), b.input("y", i64(4))
    b.output(x / y)
    b.finish()
    (out,) = Interpreter(mb.finish()).run("f", [7, -7, 7, -7], [2, 2, -2, -2])
    assert out.tolist() == [3, -4, -4, 3]


@pytest.mark.parametrize(
    ("op", "types", "attrs", "message"),
    [
        ("add", [f32(2)], {}, "takes 2 operands, got 1"),
        ("add", [f32(2), f32(3)], {}, "do not broadcast"),
        ("add", [f32(2), i64(2)], {}, "cast one"),
        ("exp", [i64(2)], {}, "takes floats"),
        ("softmax", [f32(2)], {}, "attribute axis is missing"),
        ("softmax", [f32(2)], {"axis": 1}, "axis 1 is outside rank 1"),
        ("softmax", [f32(2)], {"axis": "last"}, "type rule"),
        ("softmax", [f32(2)], {"axis": 0, "dim": 0}, "no attribute dim"),
        ("linear", [f32(2), f32(3, 4)], {}, r"wants f32\[out, 2\]"),
        ("concat", [], {"axis": 0}, "1 or more operands"),
        ("layer_norm", [f32(2)] * 4, {"eps": 1e-5}, "takes 1 to 3 operands"),
        ("reshape", [f32(2, 3)], {"shape": (7,)}, "differ in the number of elements"),
        ("conv", [f32(1, 3, 2, 2), f32(4, 3, 3, 3)], {}, "kernel 3x3 does not fit"),
        ("conv", [f32(1, 3, 9), f32(4, 3, 3)], {"stride": (1, 1)}, "one for each of 1 spatial axes"),
        ("conv", [f32(1, 3, 9), f32(4, 3, 3)], {"dilation": 0}, "dilation and groups are positive"),
        ("conv", [f32(1, 3), f32(4, 3)], {}, "1 to 3 spatial axes"),
        ("conv_transpose", [f32(1, 3, 9), f32(3, 4, 3)], {"output_padding": 1}, "less than the stride"),
        ("attention", [f32(1, 3, 4, 8), f32(1, 2, 4, 8), f32(1, 2, 4, 8)], {"causal": True}, "do not divide"),
    ],
)
def test_an_op_says_what_it_wants(op, types, attrs, message):
    with pytest.raises(OpError, match=message):
        OPS[op].types(types, attrs)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(data=st.data())
def test_wrong_operands_raise_op_errors_only(data):
    """Any operands and any attribute values: types, or an OpError."""
    row = OPS[data.draw(st.sampled_from(sorted(OPS)))]
    dims = st.lists(st.integers(1, 4), max_size=4).map(tuple)
    types = data.draw(st.lists(st.builds(TensorType, st.sampled_from(["f32", "i64", "bool"]), dims), max_size=4))
    value = st.one_of(
        st.none(), st.integers(-3, 5), st.floats(), st.text(max_size=3), st.lists(st.integers(-3, 5), max_size=4)
    )
    attrs = {name: data.draw(value) for name in row.attrs}
    with contextlib.suppress(OpError):
        assert all(isinstance(t, TensorType) for t in row.types(types, attrs))
