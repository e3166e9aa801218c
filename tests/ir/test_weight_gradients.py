"""Gradients by weights: through loops, of weights that are used twice, and of the trained networks alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from latentc.ir.builder import Builder, ModuleBuilder, Var, module_class
from latentc.ir.core import Module
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B, f32
from latentc.ir.verify import verify
from latentc.ir.weight_gradients import weight_gradients


@module_class("Layer", x="B channels")
def layer(b: Builder, x: Var, *, channels: int) -> Var:
    """A layer with a residual."""
    return x + b.tanh(b.dense("fc", x, channels))


@module_class("Net", x="B channels")
def net(b: Builder, x: Var, *, channels: int) -> Var:
    """Two layers, the first of them twice, then one in every trip of a loop."""
    x = b.sub("first", layer, x, channels=channels)
    x = b.sub("second", layer, x, channels=channels)
    x = b.sub("first", layer, x, channels=channels)

    def step(b: Builder, i: Var, kept: Any, state: Any, rows: Any) -> Any:
        return [b.sub("looped", layer, state[0] + kept[0], channels=channels)], []

    (x,) = b.loop("steps", 3, step, invariants=[x], carried=[x])
    return x


def module() -> Module:
    """A loss of network `main` with a teacher of the same class, whose part stops the gradient."""
    mb = ModuleBuilder()
    name = mb.define(net, [f32(B, 4)], {"channels": 4}, ["x"])
    b = mb.function("loss")
    x = b.input("x", f32(B, 4))
    y, taught = b.call(name, "main", x), b.call(name, "teacher", x)
    stopped = b.stop_gradient(y * taught)
    b.output(b.mean((y - stopped) * y, axes=(0, 1), keepdims=False), b.mean(taught, axes=(0, 1), keepdims=False))
    mb.entries = {"loss": b.finish()}
    return verify(mb.finish(), "train")


def weights(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {"weight": (4, 4), "bias": (4,)}
    return {
        f"{network}.{part}.fc.{name}": 0.5 * rng.standard_normal(shape)
        for network in ("main", "teacher")
        for part in ("first", "second", "looped")
        for name, shape in shapes.items()
    }


def test_gradients_are_those_of_central_differences() -> None:
    held, x = weights(0), np.random.default_rng(1).standard_normal((3, 4))
    lowered = module()
    found = weight_gradients(lowered, "loss", ["main"])
    verify(found.module, "train")
    assert set(found.paths) == {path for path in held if path.startswith("main.")}
    outs = Interpreter(found.module, held).run(found.function, x, *(held[path] for path in found.paths))
    plain = Interpreter(lowered, held).run("loss", x)
    assert np.allclose(outs[:2], plain, rtol=1e-13)

    def loss(changed: dict[str, np.ndarray]) -> float:
        """The loss, with what stops the gradient kept."""
        ran = Interpreter(lowered, {**held, **changed})
        y, fixed, taught = (run.run("Net.forward", x, prefix=n)[0] for run, n in
                            ((ran, "main"), (Interpreter(lowered, held), "main"), (ran, "teacher")))  # fmt: skip
        return float(np.mean((y - fixed * taught) * y))

    for path, gradient in zip(found.paths, outs[2:], strict=True):
        assert gradient.shape == held[path].shape and np.abs(gradient).max() > 1e-3
        for index in [(0,) * gradient.ndim, tuple(n - 1 for n in gradient.shape)]:
            sides = []
            for sign in (1, -1):
                moved = held[path].copy()
                moved[index] += sign * 1e-5
                sides.append(loss({path: moved}))
            assert gradient[index] == pytest.approx((sides[0] - sides[1]) / 2e-5, rel=1e-5, abs=1e-8), path


def test_a_network_that_is_not_called_has_no_gradients() -> None:
    assert weight_gradients(module(), "loss", ["other"]).paths == ()
