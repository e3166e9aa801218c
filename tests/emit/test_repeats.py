"""Calls over a list of modules, from its end to its start, are one loop; values that travel together are one list."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch_module import error, loaded, random_weights, tensors

from latentc.emit.model import networks_file
from latentc.ir.builder import ModuleBuilder, f32, items, module_class
from latentc.ir.core import Module
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B

ORDERS = {"backwards": [3, 2, 1, 0], "there and back": [0, 1, 2, 3, 2, 1, 0], "in no order": [2, 0, 3, 1]}


@module_class("Block", x="B width")
def block(b: Any, x: Any, *, width: int) -> Any:
    return x + b.tanh(b.dense("fc", x, width))


def network(order: list[int]) -> Module:
    @module_class("Network", x="B width")
    def body(b: Any, x: Any, *, width: int, depth: int) -> Any:
        names = items("blocks", depth)
        for i in order:
            x = b.sub(names[i], block, x, width=width)
        return x

    mb = ModuleBuilder()
    mb.entries["main"] = mb.define(body, [f32(B, 3)], {"width": 3, "depth": 4})
    return mb.finish()


def run(module: Module, inputs: list[np.ndarray]) -> str:
    """The emitted text, which computes what the oracle does."""
    text = networks_file(module, {"main": [module.entries["main"]]}).text
    weights = random_weights(module, [module.entries["main"]])
    model = loaded(text, torch.float64)["build"]().double().eval()
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    with torch.no_grad():
        actual = model(*tensors(inputs, torch.float64))
    assert error(actual, Interpreter(module, weights).run("main", *inputs)[0]) < 1e-9
    return text


@pytest.mark.parametrize("case", ORDERS)
def test_modules_in_other_orders(case: str) -> None:
    text = run(network(ORDERS[case]), [np.random.default_rng(0).standard_normal((2, 3))])
    assert ("for block in reversed(self.blocks):" in text) == (case == "backwards")


@module_class("Between", x="B width")
def between(b: Any, x: Any, *, width: int) -> Any:
    """Six modules of one list, with one of another after the second and the fourth."""
    for i in range(6):
        x = b.sub(f"blocks.{i}", block, x, width=width)
        if i in (1, 3):
            x = b.sub(f"others.{i // 2}", block, x, width=width)
    return x


def test_modules_of_two_lists_that_take_turns_unevenly() -> None:
    mb = ModuleBuilder()
    mb.entries["main"] = mb.define(between, [f32(B, 3)], {"width": 3})
    run(mb.finish(), [np.random.default_rng(0).standard_normal((2, 3))])


@module_class("Steps", x="B width")
def steps(b: Any, x: Any, *, width: int) -> Any:
    """A loop inside of a class that carries four values which one call makes."""

    def step(b: Any, i: Any, invariants: Any, state: Any, rows: Any) -> Any:
        (total, *caches), (row,) = state, rows
        grown = b.call(grow, "", *(c + row for c in caches), args={"width": width}, out="cache " * 4)
        return [total + grown[0], *grown], []

    grow = b.module.define(grown_caches, [x.type] * 4, {"width": int(width)}, ["cache"] * 4)
    caches = b.call(grow, "", x, x, x, x, args={"width": width}, out="cache " * 4)
    total, *_ = b.loop("steps", 3, step, carried=[x, *caches], tables=[b.constant(np.arange(3.0))])
    return total


@module_class("Steps", "grow")
def grown_caches(b: Any, *cache: Any, width: int) -> Any:
    return [b.tanh(b.dense("fc", c, width)) * float(i + 1) for i, c in enumerate(cache)]


def test_values_that_travel_together_in_a_loop_of_a_class() -> None:
    mb = ModuleBuilder()
    mb.entries["main"] = mb.define(steps, [f32(B, 3)], {"width": 3})
    run(mb.finish(), [np.random.default_rng(0).standard_normal((2, 3))])


@module_class("Kinds", x="B width")
def kinds(b: Any, x: Any, *, width: int) -> Any:
    """A loop that carries three values of one shape, three of another, and one after them, scaled in each step."""

    def step(b: Any, i: Any, invariants: Any, state: Any, rows: Any) -> Any:
        (total, *caches), (row,) = state, rows
        scaled = [b.tanh(c * row) for c in caches]
        made, *grown = b.call(grow, "", *scaled, args={"width": width}, out=NAMES)
        return [total + made, *grown], []

    wide = b.concat(x, x, axis=1)
    last = b.mean(x, axes=(1,), keepdims=True)
    given = [x, x + 1.0, x * 2.0, wide, wide + 1.0, wide * 2.0, last]
    grow = b.module.define(grown_kinds, [v.type for v in given], {"width": int(width)}, NAMES.split())
    total, *caches = b.call(grow, "", *given, args={"width": width}, out=NAMES)
    total, *_ = b.loop("steps", 3, step, carried=[total, *caches], tables=[b.constant(np.arange(1.0, 4.0))])
    return total


NAMES = "total" + " cache" * 7


@module_class("Kinds", "grow")
def grown_kinds(b: Any, *cache: Any, width: int) -> Any:
    small = b.dense("fc", cache[0] + cache[1] * cache[2], width)
    total = b.sum(cache[3] * cache[4] - cache[5], axes=(1,), keepdims=True) + cache[6]
    return [small + b.tanh(total), *(c + float(k) for k, c in enumerate(cache))]


def test_values_of_several_shapes_that_travel_together() -> None:
    mb = ModuleBuilder()
    mb.entries["main"] = mb.define(kinds, [f32(B, 3)], {"width": 3})
    text = run(mb.finish(), [np.random.default_rng(0).standard_normal((2, 3))])
    assert "caches, caches_2, cache = rest[:3], rest[3:6], rest[6]" in text
    assert "tanhs = [torch.tanh(cache * c) for cache in caches]" in text


@module_class("Pair", "grow", keys="B width")
def pair(b: Any, x: Any, keys: Any, scale: Any, *, width: int) -> Any:
    grown = keys + b.dense("fc", x, width)
    return x + b.tanh(grown * scale), grown


@module_class("Pairs", x="B width")
def pairs(b: Any, x: Any, *, width: int, depth: int) -> Any:
    """Blocks take and return what they call the same, and the network returns it beside what it was given."""
    given = [x * float(i + 2) for i in range(int(depth))]
    scales = [b.mean(x, axes=(1,), keepdims=True) + float(i) for i in range(int(depth))]
    outs = []
    for i, name in enumerate(items("blocks", depth)):
        x, keys = b.sub(name, pair, x, given[i], scales[i], out="x keys", width=width)
        outs += [keys, scales[i]]
    return b.concat(x, *outs, axis=1)


def test_a_list_is_called_otherwise_than_what_the_loop_runs_over() -> None:
    mb = ModuleBuilder()
    mb.entries["main"] = mb.define(pairs, [f32(B, 3)], {"width": 3, "depth": 3})
    text = run(mb.finish(), [np.random.default_rng(0).standard_normal((2, 3))])
    assert "keys_.append(keys)" in text
