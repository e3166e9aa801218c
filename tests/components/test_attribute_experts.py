"""Experts that the condition chooses: merged layers are those of the authors, and a sample's own mixture of experts."""

from __future__ import annotations

import numpy as np
import pytest
from parity_data import error, load

from latentc.checkpoint import network_params
from latentc.components.blocks.feed_forwards.attribute_experts import merged_linear
from latentc.diagnostics import DiagnosticError
from latentc.ir.builder import ModuleBuilder
from latentc.ir.interpret import Interpreter
from latentc.ir.types import f32
from latentc.lower import lower
from latentc.spec import load_spec

TINY = ["data={kind: digits}", "backbone.width=8", "backbone.depth=1", "backbone.block.mixer.heads=2"]
TINY += ["sampler.guidance.channels=null"]
EXPERTS = "backbone.block.feed_forward={kind: attribute_experts, experts: 3, chosen: 2, ratio: 2}"


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


def test_a_sample_goes_through_the_experts_of_its_class() -> None:
    lowered, rng = lower(load_spec("dit", None, [*TINY, EXPERTS])), np.random.default_rng(0)
    params = network_params(lowered, lowered.networks["main"])
    weights = {n: 0.5 * rng.standard_normal([int(d) for d in p.type.shape]) for n, p in params.items()}  # type: ignore[arg-type]
    oracle = Interpreter(lowered.module, weights)
    x, t, y = rng.standard_normal((3, 1, 8, 8)), np.full(3, 5.0), np.array([1, 2, 1])
    (both,) = oracle.run("main.forward", x, t, y)
    for i in range(3):
        (alone,) = oracle.run("main.forward", x[i : i + 1], t[i : i + 1], y[i : i + 1])
        np.testing.assert_allclose(both[i : i + 1], alone, atol=1e-10)


def test_blocks_that_do_not_tell_the_condition_are_refused() -> None:
    tarflow = ["backbone.block.feed_forward={kind: attribute_experts}"]
    with pytest.raises(DiagnosticError, match="depends on the condition"):
        load_spec("digits_tarflow", None, tarflow)
