"""Probes show inner results in order; errors and costs are what their definitions say."""

from __future__ import annotations

import numpy as np
import pytest
from bundles import TINY_DIT

from latentc.ir.builder import B, ModuleBuilder, f32, module_class
from latentc.ir.core import parameters
from latentc.ir.costs import flops
from latentc.ir.interpret import Interpreter
from latentc.ir.verify import verify
from latentc.lower import lower
from latentc.measure.memory import available_memory
from latentc.measure.metrics import relative_error
from latentc.measure.probe import calls_shown
from latentc.spec import load_spec


@module_class("Half")
def half(b, x):
    return x * 0.5


@module_class("Twice")
def twice(b, x):
    x = b.sub("first", half, x)
    return b.sub("second", half, x + 1.0)


def test_results_of_a_call_with_twice_the_batch() -> None:
    """What is shown of a callee has the batch of the call."""
    mb = ModuleBuilder()
    inner = mb.define(twice, [f32(B, 2)], {})
    b = mb.function("main")
    x = b.input("x", f32(B, 2))
    b.output(b.call(inner, "net", b.concat(x, x, axis=0)))
    mb.entries["main"] = b.finish()
    shown, paths = calls_shown(mb.finish(), "main")
    verify(shown)
    assert paths == ["net.first", "net.second", "net"]
    assert [np.shape(out) for out in Interpreter(shown, {}).run("main", np.ones((3, 2)))] == [(6, 2)] * 4


def test_results_of_calls_in_the_order_they_end() -> None:
    mb = ModuleBuilder()

    @module_class("Net")
    def net(b, x):
        for i in range(2):
            x = b.sub(f"blocks.{i}", twice, x)
        return x

    mb.entries["main"] = mb.define(net, [f32(B, 2)], {})
    module, paths = calls_shown(mb.finish(), "main")
    assert paths == ["blocks.0.first", "blocks.0.second", "blocks.0", "blocks.1.first", "blocks.1.second", "blocks.1"]
    out, *inner = Interpreter(module).run("main", np.full((1, 2), 4.0))
    assert [float(a[0, 0]) for a in inner] == [2, 1.5, 1.5, 0.75, 0.875, 0.875]
    assert float(out[0, 0]) == 0.875


@pytest.mark.parametrize(("variant", "published"), [("S/2", 6.06), ("XL/2", 118.64)])
def test_flops_are_twice_the_published_multiply_adds(variant: str, published: float) -> None:
    lowered = lower(load_spec("dit", variant))
    assert flops(lowered.module, "main.forward") == pytest.approx(2e9 * published, rel=0.005)


def test_flops_of_a_sampler_count_steps_and_branches() -> None:
    lowered = lower(load_spec("digits_dit", None, list(TINY_DIT)))
    ratio = flops(lowered.module, lowered.programs[0].entry) / flops(lowered.module, "main.forward")
    assert ratio == pytest.approx(2 * 6, rel=0.01)


def test_relative_error() -> None:
    reference = np.array([1.0, -4.0])
    assert relative_error(np.array([1.0, -3.0]), reference) == 0.25
    assert relative_error(np.array([1, 2, 3]), np.array([1, 2, 4])) == pytest.approx(1 / 3)
    assert relative_error(np.array([np.nan, 1.0]), reference) == float("inf")
    assert relative_error(np.array([1.0]), reference) == float("inf")
    assert relative_error(np.zeros(2), np.zeros(2)) == 0.0
    assert relative_error(np.ones(2), np.zeros(2)) == float("inf")
    assert available_memory() > 0


def test_flops_do_not_cost_what_the_depth_unfolds_to() -> None:
    deep = lower(load_spec("digits_dit", None, ["backbone.depth=40"]))
    assert len(parameters(deep.module, deep.module.entries["main.forward"])) > 300
    assert len(deep.module.functions) < 20
