"""`gradient` and `jvp` in emitted code: values, and gradients of a loss that contains them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch_module import error, loaded

from latentc.emit.functions import Functions
from latentc.emit.helpers import helper_source
from latentc.emit.model import imports, networks_file
from latentc.ir.builder import ModuleBuilder, f32, i64, module_class
from latentc.ir.core import parameters
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B

RNG = np.random.default_rng(3)


@module_class("Discriminator")
def discriminator(b: Any, x: Any, y: Any, *, channels: int) -> Any:
    """Logits [B] of images for classes, and features that the loss does not use."""
    h = b.conv(x, b.param("conv.weight", f32(channels, 2, 3, 3), "normal"), padding=1)
    h = b.mean(b.silu(h), axes=(2, 3), keepdims=False)
    table = b.param("embed.weight", f32(5, channels), "normal")
    return b.sum(h * h * b.embedding(table, y), axes=(1,), keepdims=False), h


@module_class("Velocity")
def velocity(b: Any, z: Any, r: Any, t: Any, *, width: int) -> Any:
    """One attention over two tokens, conditioned on the times."""
    h = b.dense("fc", z, width) + b.reshape(b.sin(r) + t * t, shape=(z.shape[0], 1, 1))
    h = b.reshape(h, shape=(z.shape[0], 1, z.shape[1], width))
    h = b.attention(h, h, h, causal=False)
    return b.dense("out", b.reshape(h, shape=(z.shape[0], z.shape[1], width)), z.shape[-1])


def penalty_module() -> tuple[Any, str]:
    """A gradient penalty (Gulrajani et al. 2017) on the discriminator."""
    mb = ModuleBuilder()
    net = mb.entries["main"] = mb.define(discriminator, [f32(B, 2, 4, 4), i64(B)], {"channels": 3})
    b = mb.function("penalty")
    x, y = b.input("x", f32(B, 2, 4, 4)), b.input("y", i64(B))
    logits, gradient = b.gradient(net, "main", [x * 2.0, y], out="logits gradient")
    norm = b.sqrt(b.sum(gradient * gradient, axes=(1, 2, 3), keepdims=False) + 1e-12)
    b.output(b.mean((norm - 1.0) * (norm - 1.0), axes=(0,), keepdims=False), logits)
    mb.entries["loss"] = b.finish()
    return mb.finish(), net


def mean_flow_module() -> tuple[Any, str]:
    """The target of MeanFlow: v - (t - r) du/dt along (v, 0, 1)."""
    mb = ModuleBuilder()
    net = mb.entries["main"] = mb.define(velocity, [f32(B, 2, 3), f32(B), f32(B)], {"width": 4})
    b = mb.function("mean_flow")
    z, v, r, t = b.input("z", f32(B, 2, 3)), b.input("v", f32(B, 2, 3)), b.input("r", f32(B)), b.input("t", f32(B))
    tangents = [v, b.fill_like(t, 1.0)]
    u, dudt = b.jvp(net, "main", [z, r, t], tangents, wrt=(0, 2), out="u dudt")
    target = v - b.reshape(t - r, shape=(t.shape[0], 1, 1)) * dudt
    difference = u - target
    b.output(b.mean(difference * difference, axes=(0, 1, 2), keepdims=False), dudt)
    mb.entries["loss"] = b.finish()
    return mb.finish(), net


def arrays(module: Any) -> list[np.ndarray]:
    def one(v: Any) -> np.ndarray:
        shape = [4 if d == B else int(d) for d in v.type.shape]
        return RNG.standard_normal(shape) if v.type.is_float else RNG.integers(0, 5, shape)

    return [one(v) for v in module.entry("loss").inputs]


def emitted(module: Any, net: str) -> tuple[Any, Any, str]:
    """The network in float64 and the loss, executed, with its text."""
    functions = Functions(module)
    name = functions.add(module.entries["loss"], "loss")
    code = "\n\n".join([helper_source(list(functions.helpers)), *functions.texts])
    text = "\n".join([*imports(code), "", "", code])
    model = loaded(networks_file(module, {"main": [net]}).text, torch.float64)["build"]().double()
    return model, loaded(text, torch.float64)[name], text


@pytest.mark.parametrize("make", [penalty_module, mean_flow_module])
def test_values_and_gradients_by_the_weights(make: Any) -> None:
    module, net = make()
    shapes = {path: tuple(map(int, p.type.shape)) for path, p in parameters(module, net).items()}
    weights = {path: RNG.standard_normal(shape) for path, shape in shapes.items()}
    inputs = arrays(module)
    model, loss, _ = emitted(module, net)
    model.load_state_dict({path: torch.as_tensor(value) for path, value in weights.items()})

    def oracle(weights: dict[str, np.ndarray]) -> list[np.ndarray]:
        return Interpreter(module, {f"main.{k}": w for k, w in weights.items()}).run("loss", *inputs)

    found = loss(model, *map(torch.as_tensor, inputs))
    for value, expected in zip(found, oracle(weights), strict=True):
        assert error(value.detach(), expected) < 1e-10
    found[0].backward()
    with torch.no_grad():
        for value, expected in zip(loss(model, *map(torch.as_tensor, inputs)), oracle(weights), strict=True):
            assert error(value, expected) < 1e-10 and not value.requires_grad
    for path, parameter in model.named_parameters():
        direction = RNG.standard_normal(shapes[path])
        ends = [oracle(weights | {path: weights[path] + sign * 1e-5 * direction})[0] for sign in (1, -1)]
        slope = (ends[0] - ends[1]) / 2e-5
        assert abs(float((parameter.grad.numpy() * direction).sum()) - slope) < 1e-6 * max(1.0, abs(slope)), path


def test_the_text_reads_as_torch() -> None:
    module, net = penalty_module()
    text = emitted(module, net)[2]
    assert "logits, gradient = value_and_gradient(lambda x: model(x, y)[0], x * 2)" in text, text
    module, net = mean_flow_module()
    text = emitted(module, net)[2]
    assert "u, dudt = jvp(lambda z, t: model(z, r, t), (z, t), (v, " in text, text
