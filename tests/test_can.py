"""CAN: layers whose weights depend on the condition, against networks with those weights put in sample by sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from latentc.diagnostics import DiagnosticError
from latentc.ir.builder import BlockBody, ModuleBuilder
from latentc.ir.core import parameters
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B, TensorType, f32
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.systems.can.generated import generated_depthwise, generated_linear, generated_patches

E = 5  # size of the condition
LAYERS: dict[str, tuple[BlockBody, TensorType, dict[str, int], Any]] = {
    "linear": (generated_linear(True, "xavier"), f32(B, 4, 6), {"features": 7}, F.linear),
    "depthwise": (
        generated_depthwise(3),
        f32(B, 3, 4, 4),
        {"channels": 3},
        lambda x, w, bias: F.conv2d(x, w, bias, padding=1, groups=3),
    ),
    "patches": (
        generated_patches,
        f32(B, 3, 6, 6),
        {"size": 6, "patch": 2, "channels": 3, "width": 8},
        lambda x, w, bias: F.conv2d(x, w, bias, stride=2).flatten(1).T,
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_each_sample_has_the_weights_of_its_condition(name: str) -> None:
    body, type, static, reference = LAYERS[name]
    mb = ModuleBuilder()
    b = mb.function("main")
    b.output(b.sub("layer", body, b.input("x", type), b.input("c", f32(B, E)), **static))
    mb.entries["main"] = b.finish()
    module = mb.finish()
    rng = np.random.default_rng(0)
    weights = {path: rng.standard_normal(p.type.shape) for path, p in parameters(module, "main").items()}
    x, c = rng.standard_normal((3, *map(int, type.shape[1:]))), rng.standard_normal((3, E))
    (found,) = Interpreter(module, weights).run("main", x, c)
    w = {path.removeprefix("layer."): torch.from_numpy(array) for path, array in weights.items()}
    for i in range(3):
        own = F.linear(F.silu(torch.from_numpy(c[i])), w["generate.weight"], w["generate.bias"])
        weight = w["weight"] + own.view_as(w["weight"])
        wanted = reference(torch.from_numpy(x[i]), weight, w["bias"])
        np.testing.assert_allclose(found[i], wanted.numpy(), rtol=1e-9, atol=1e-9)


CAN = ["data={kind: npz, classes: 5, shape: [4, 4, 4]}", "sampler.steps=4"]
CAN += ["backbone.width=8", "backbone.depth=2", "backbone.patch=1", "backbone.block.mixer.heads=2"]


@pytest.mark.parametrize("mixer", ["attention", "linear_attention"])
def test_it_starts_as_the_network_without(mixer: str) -> None:
    """The maps of the condition start at zero, and all other weights are those of the plain network."""
    options = {"attention": "heads: 2", "linear_attention": "heads: 2, kernel: 3, shared_kernel: false"}[mixer]
    plain, generated = (f"backbone.block.mixer={{kind: {kind}, {options}}}" for kind in (mixer, f"generated_{mixer}"))
    plain = lower(load_spec("dit", overrides=[*CAN, plain]))
    spec = load_spec("dit", overrides=[*CAN, generated, "backbone.kind=can_transformer"])
    can = lower(spec)
    rng = np.random.default_rng(0)
    entry = can.networks["main"].methods["forward"].function
    params = parameters(can.module, entry)
    weights = {
        path: np.zeros(p.type.shape) if ".generate." in path else rng.standard_normal(p.type.shape)
        for path, p in params.items()
    }
    own = parameters(plain.module, plain.networks["main"].methods["forward"].function)
    assert own.keys() == {path for path in params if ".generate." not in path}
    given = (rng.standard_normal((2, 4, 4, 4)), np.array([3.0, 70.0]), np.array([1, 4]))
    (found,) = Interpreter(can.module, weights).run(entry, *given)
    (wanted,) = Interpreter(plain.module, weights).run(plain.networks["main"].methods["forward"].function, *given)
    np.testing.assert_allclose(found, wanted, rtol=1e-8, atol=1e-8)


def test_blocks_that_do_not_tell_the_mixer_are_refused() -> None:
    with pytest.raises(DiagnosticError, match="these blocks do not pass it") as refused:
        lower(load_spec("uvit", overrides=["backbone.block.mixer.kind=generated_attention"]))
    assert "backbone.block.mixer.kind=generated_attention" in str(refused.value)
