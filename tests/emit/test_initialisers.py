"""Initialisers are formulas: the emitted text has no number that a size gave, and starts weights as numpy does."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch_module import loaded

from latentc.emit.model import networks_file
from latentc.ir.builder import ModuleBuilder, f32, module_class
from latentc.ir.inits import INITS
from latentc.ir.types import B

INITIALISERS: dict[str, tuple[str, dict[str, Any]]] = {
    "xavier": ("xavier_uniform", {"gain": 0.5}),
    "matrix": ("xavier_uniform", {"of": "matrix"}),
    "xavier_normal": ("xavier_normal", {"gain": math.sqrt(0.2)}),
    "he": ("kaiming_normal", {}),
    "he_out": ("kaiming_uniform", {"mode": "fan_out", "gain": 1.0}),
    "scaled": ("kaiming_normal", {"gain": 1e-3}),
}


def source(name: str, rows: int, columns: int) -> str:
    kind, args = INITIALISERS[name]

    @module_class("Layer", x="B columns 8 8", stack="B columns")
    def layer(b: Any, x: Any, *, rows: int, columns: int) -> Any:
        bias = b.param("shift", f32(rows), "linear_default", fan_in=columns)
        stack = b.param("stack", f32(3, columns, columns), "xavier_uniform", of="each")
        x = x + b.sum(stack, axes=(0, 1, 2), keepdims=False)
        return b.conv(x, b.param("w", f32(rows, columns, 3, 3), kind, **args), bias, stride=1, padding=0, groups=1)

    mb = ModuleBuilder()
    fn = mb.define(layer, [f32(B, columns, 8, 8)], {"rows": rows, "columns": columns})
    mb.entries["main"] = fn
    return networks_file(mb.finish(), {"main": [fn]}).text


@pytest.mark.parametrize("name", INITIALISERS)
def test_weights_start_as_numpys(name: str) -> None:
    text = source(name, 48, 40)
    assert text.split("def build(")[0] == source(name, 6, 5).split("def build(")[0]
    torch.manual_seed(0)
    model = loaded(text)["build"]()
    kind, args = INITIALISERS[name]
    expected = INITS[kind](np.random.default_rng(0), (48, 40, 3, 3), **args)
    for mine, theirs in ((model.w, expected), (model.shift, np.array([40**-0.5 / math.sqrt(3)]))):
        std = theirs.std() if theirs.size > 1 else theirs[0]
        assert math.isclose(mine.detach().std().item(), std, rel_tol=0.15 if theirs.size == 1 else 0.02)
    assert math.isclose(model.stack.detach().std().item(), math.sqrt(2 / 80), rel_tol=0.05)


def test_what_starts_differently_is_of_another_class() -> None:
    def shifted(start: str) -> Any:
        @module_class("Shift", x="B columns")
        def shift(b: Any, x: Any, *, columns: int) -> Any:
            return x + b.param("shift", f32(columns), start)

        return shift

    @module_class("Both", x="B columns")
    def both(b: Any, x: Any, *, columns: int) -> Any:
        for name, start in (("first", "zeros"), ("second", "ones")):
            x = b.sub(name, shifted(start), x, columns=columns)
        return x

    mb = ModuleBuilder()
    fn = mb.define(both, [f32(B, 3)], {"columns": 3})
    mb.entries["main"] = fn
    model = loaded(networks_file(mb.finish(), {"main": [fn]}).text)["build"]()
    assert (model.first.shift.tolist(), model.second.shift.tolist()) == ([0.0] * 3, [1.0] * 3)


def test_points_are_uniform_in_a_disc() -> None:
    """A quarter of them within half of the radius, in every direction, by numpy and by the emitted text."""

    @module_class("Points", x="B n")
    def points(b: Any, x: Any, *, n: int) -> Any:
        return x * b.sum(b.param("places", f32(n, 2), "disc", "state", radius=3.0), axes=(1,), keepdims=False)

    mb = ModuleBuilder()
    fn = mb.define(points, [f32(B, 20_000)], {"n": 20_000})
    mb.entries["main"] = fn
    torch.manual_seed(0)
    made = loaded(networks_file(mb.finish(), {"main": [fn]}).text)["build"]().places.numpy()
    for places in (made, INITS["disc"](np.random.default_rng(0), (20_000, 2), radius=3.0)):
        length = np.linalg.norm(places, axis=1)
        assert length.max() <= 3.0 and abs(np.mean(length < 1.5) - 0.25) < 0.02
        assert np.abs(np.mean(places > 0, axis=0) - 0.5).max() < 0.02
