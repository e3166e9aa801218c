"""`gradient` and `jvp` through calls, weights shared by them, and loops, against central differences."""

import numpy as np
import pytest
from gradients import directional, grad, numeric, pushed, weights_of
from ir_parse import module_from_text

from latentc.ir.builder import ModuleBuilder, module_class
from latentc.ir.core import parameters
from latentc.ir.interpret import Interpreter
from latentc.ir.ops import OpError
from latentc.ir.text import text_from_module
from latentc.ir.types import B, f32, i64
from latentc.ir.verify import verify

RNG = np.random.default_rng(5)


@module_class("Mix")
def mix(b, x, c, *, dim):
    """Two outputs, one of which a caller may not use."""
    h = b.tanh(b.dense("fc", x, dim) + c)
    return h * x, b.sum(h * h, axes=(-1,), keepdims=False)


@module_class("Block")
def block(b, x, c, *, dim):
    y, size = b.sub("mix", mix, b.layer_norm(x, eps=1e-5), c, dim=dim)
    return x + y + b.reshape(size, shape=(*size.shape, 1)) * 0.1


@module_class("Net")
def net(b, x, c, y, *, dim, depth):
    """The same block again and again, and one of them under two names; y is integers."""
    c = c + b.embedding(b.param("table.weight", f32(3, dim), "normal"), y)
    for i in range(depth):
        x = b.sub(f"blocks.{i}", block, x, c, dim=dim)
    return b.sub("blocks.0", block, x, c, dim=dim), c * c


def network(depth=2):
    mb = ModuleBuilder()
    mb.entries["main"] = mb.define(net, [f32(B, 4), f32(B, 4), i64(B)], {"dim": 4, "depth": depth})
    return verify(mb.finish())


INPUTS = (RNG.standard_normal((3, 4)), RNG.standard_normal((3, 4)), np.array([0, 2, 1]))


def check(module, function, inputs, wrt, of=0, params=None):
    """Returns the module with the derivative, which agrees with central differences and survives the text form.

    So does the derivative in forward mode, along random tangents.
    """
    derived, name = grad(module, function, wrt, of)
    again = module_from_text(text_from_module(verify(derived)))
    found = Interpreter(again, params).run(name, *inputs)
    for i, g in zip(wrt, found, strict=True):
        assert np.allclose(g, numeric(module, function, inputs, i, of, params), rtol=1e-6, atol=1e-7)
    forward, forward_name = pushed(module, function, wrt, of)
    tangents = [RNG.standard_normal(inputs[i].shape) for i in wrt]
    (tangent,) = Interpreter(verify(forward), params).run(forward_name, *inputs, *tangents)
    assert np.allclose(
        tangent, directional(module, function, inputs, dict(zip(wrt, tangents, strict=True)), of, params)
    )
    return derived, name


@pytest.mark.parametrize(("wrt", "of"), [([0, 1], 0), ([1], 0), ([1, 0], 1), ([0], 1)])
def test_through_calls(wrt, of):
    module = network()
    check(module, "main", INPUTS, wrt, of, weights_of(module, "main"))


def test_weights_are_the_same_and_nothing_grows_with_depth():
    shallow, name = grad(network(2), "main", [0, 1])
    deep, _ = grad(network(40), "main", [0, 1])
    assert parameters(shallow, name).keys() <= parameters(network(2), "Net.forward").keys()
    # The call of a block that wants a gradient of both inputs, and the first ones, which may want fewer.
    assert len(deep.functions) == len(shallow.functions)
    assert len(deep.functions[name].nodes) < 40 * 8


def test_second_derivative():
    module = network()
    params = weights_of(module, "main")
    first, name = grad(module, "main", [0])
    check(first, name, INPUTS, [0, 1], 0, params)


def loop_module(steps=4):
    """A loop with an invariant, two carried floats, a carried integer, tables and a scanned output; it has weights."""
    mb = ModuleBuilder()
    b = mb.function("f")
    x, v, c, n = b.input("x", f32(B, 3)), b.input("v", f32(B, 3)), b.input("c", f32(3)), b.input("n", i64())
    table = b.input("table", f32(steps, 3))

    def body(b, i, invariants, carried, rows):
        (c,), (x, v, n), (row,) = invariants, carried, rows
        force = b.sin(b.linear(x, b.param("force.weight", f32(3, 3), "normal")) + c * row)
        time = b.cast(i + n, to="f32")
        v = v * 0.9 + force * b.cos(time)
        return [x + v * row, v, n + 1], [b.sum(x * v, axes=(1,), keepdims=False), row * c]

    x, v, n, energy, rows = b.loop("steps", steps, body, invariants=[c], carried=[x, v, n], tables=[table])
    b.output(x * v, b.sum(energy, axes=(0,), keepdims=False) + b.mean(rows, axes=(0, 1), keepdims=False))
    mb.entries["f"] = b.finish()
    return verify(mb.finish())


LOOP_INPUTS = (
    RNG.standard_normal((2, 3)),
    RNG.standard_normal((2, 3)),
    RNG.standard_normal(3),
    np.array(7),
    RNG.standard_normal((4, 3)),
)


@pytest.mark.parametrize("of", [0, 1])
@pytest.mark.parametrize("wrt", [[0, 1, 2, 4], [2], [4], [1]])
def test_through_loops(wrt, of):
    module = loop_module()
    check(module, "f", LOOP_INPUTS, wrt, of, weights_of(module, "f"))


def test_through_nested_loops_and_calls_in_them():
    mb = ModuleBuilder()
    b = mb.function("f")
    x, c = b.input("x", f32(B, 4)), b.input("c", f32(B, 4))

    def outer(b, i, invariants, carried, rows):
        (c,), (x,) = invariants, carried

        def inner(b, j, invariants, carried, rows):
            (c,), (x,), (a,) = invariants, carried, rows
            return [x + b.sub("block", block, x, c, dim=4) * a], []

        table = b.constant(np.linspace(0.1, 0.3, 3))
        (y,) = b.loop("inner", 3, inner, invariants=[c * x], carried=[x], tables=[table])
        return [b.tanh(y)], [y]

    x, ys = b.loop("outer", 2, outer, invariants=[c], carried=[x])
    b.output(x + b.sum(ys, axes=(0,), keepdims=False))
    b.finish()
    module = verify(mb.finish())
    params = weights_of(module, "f")
    derived, name = check(module, "f", INPUTS[:2], [0, 1], 0, params)
    check(derived, name, INPUTS[:2], [1], 0, params)


def test_batch_mean_and_unused_inputs():
    mb = ModuleBuilder()
    b = mb.function("f")
    x, y, z = b.input("x", f32(B, 2)), b.input("y", f32(B, 2)), b.input("z", f32(B, 2))
    b.output(b.mean(x * x * b.stop_gradient(y), axes=(0, 1), keepdims=False), x, b.floor(z))
    b.finish()
    module = mb.finish()
    inputs = [RNG.standard_normal((3, 2)) for _ in range(3)]
    x_grad, y_grad, z_grad = _values(module, [0, 1, 2], 0, inputs)
    assert np.allclose(x_grad, 2 * inputs[0] * inputs[1] / 6)
    assert not y_grad.any() and not z_grad.any()
    (ones,) = _values(module, [0], 1, inputs)
    assert np.array_equal(ones, np.ones((3, 2)))
    (flat,) = _values(module, [2], 2, inputs)
    assert not flat.any()


def _values(module, wrt, of, inputs):
    derived, name = grad(module, "f", wrt, of)
    return Interpreter(verify(derived)).run(name, *inputs)


def test_what_has_no_derivative_says_so():
    module = network()
    with pytest.raises(OpError, match=r"input 2 of Net\.forward is i64"):
        grad(module, "main", [2])
    with pytest.raises(OpError, match="no output 2; it has 2"):
        grad(module, "main", [0], of=2)
    mb = ModuleBuilder(module)
    b = mb.function("guided")
    x, c, y, scale = b.input("x", f32(B, 4)), b.input("c", f32(B, 4)), b.input("y", i64(B)), b.input("s", f32(B))
    kinds, guides = ("shared", "shared", "conditional"), ("guided", "guided")
    b.output(b.guided("Net.forward", "main", [x, c, y], kinds, [y], scale, guides))
    b.finish()
    with pytest.raises(OpError, match="expand_guidance first"):
        grad(mb.finish(), "guided", [0])
