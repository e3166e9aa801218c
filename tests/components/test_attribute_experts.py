"""Experts that the condition chooses: merged layers against the authors', mixtures against PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from parity_data import error, load
from random_weights import random_weights
from torch.nn import functional as F

from latentc.components.blocks.feed_forwards.attribute_experts import AttributeExperts, merged_linear
from latentc.diagnostics import DiagnosticError
from latentc.ir.builder import ModuleBuilder
from latentc.ir.core import parameters
from latentc.ir.interpret import Interpreter
from latentc.ir.types import f32
from latentc.spec import load_spec


@pytest.mark.parametrize("name", ["fused_experts", "mergelayer"])
def test_merged_layers_of_the_authors(name: str) -> None:
    numbers = load(f"uni_perceiver.{name}")
    experts = [f"deepspeed_experts.{i}" for i in range(4)]
    stacks = [np.stack([numbers.weights[f"{e}.{part}"] for e in experts]) for part in ("weight", "bias")]
    gates = np.zeros((2, 4))
    gates[:, 1], gates[:, 3] = numbers.inputs["p1"], numbers.inputs["p2"]
    mb = ModuleBuilder()
    b = mb.function("merged")
    inputs = {"x": f32(2, 5, 16), "gates": f32(2, 4), "weight": f32(4, 16, 16), "bias": f32(4, 16)}
    b.output(merged_linear(b, *(b.input(key, type) for key, type in inputs.items())))
    mb.entries["merged"] = b.finish("Merged experts.")
    (found,) = Interpreter(mb.finish(), {}).run("merged", numbers.inputs["x"], gates, *stacks)
    assert error(found, numbers.outputs["out"]) < 1e-5


def test_a_sample_goes_through_the_experts_of_its_condition() -> None:
    """The two experts of the highest scores, whose sum each layer is."""
    config = AttributeExperts(kind="attribute_experts", experts=3, chosen=2)
    mb = ModuleBuilder()
    b = mb.function("f")
    x, c = b.input("x", f32(4, 5, 8)), b.input("c", f32(4, 8))
    b.output(config.apply(b, "mlp", x, "xavier", c, dim=8, **config.static(8)))
    mb.entries["f"] = b.finish()
    module, rng = mb.finish(), np.random.default_rng(0)
    weights = random_weights(parameters(module, "f"), rng, 0.5)
    given, condition = rng.standard_normal((4, 5, 8)), rng.standard_normal((4, 8))
    (found,) = Interpreter(module, weights).run("f", given, condition)

    w = {path.removeprefix("mlp."): torch.from_numpy(array) for path, array in weights.items()}
    tag = F.linear(torch.from_numpy(condition), w["router.transform.weight"], w["router.transform.bias"])
    tag = F.layer_norm(tag, (8,), w["router.norm.weight"], w["router.norm.bias"])
    best, chosen = (tag @ w["router.gate.weight"].T).softmax(-1).topk(2)
    assert len({tuple(sorted(experts)) for experts in chosen.tolist()}) > 1
    for i in range(4):
        h = torch.from_numpy(given[i])
        for layer in ("fc1", "fc2"):
            each = [F.linear(h, w[f"{layer}.weight"][e], w[f"{layer}.bias"][e]) for e in chosen[i]]
            h = best[i, 0] * each[0] + best[i, 1] * each[1]
            h = F.gelu(h) if layer == "fc1" else h
        np.testing.assert_allclose(found[i], h.numpy(), rtol=1e-9, atol=1e-10)


def test_blocks_that_do_not_tell_the_condition_are_refused() -> None:
    tarflow = ["backbone.block.feed_forward={kind: attribute_experts}"]
    with pytest.raises(DiagnosticError, match="depends on the condition"):
        load_spec("digits_tarflow", None, tarflow)
