"""Sizes by identity: arithmetic on them, and their names across calls."""

from __future__ import annotations

from typing import Any

import pytest

from latentc.ir.builder import ModuleBuilder, items, module_class
from latentc.ir.ops import OpError
from latentc.ir.types import B, Named, f32, source_of

H, W = Named(8, "H"), Named(6, "width")


@pytest.mark.parametrize(
    ("size", "expr"),
    [
        ((H + 2 - 3) // 1 + 1, "H"),
        (H // 2 // 2, "H // 4"),
        (2 * (2 * W), "4 * width"),
        (W * 1 + 0, "width"),
        (3 * W + W - 1, "4 * width - 1"),
        (2 * W - W + H, "width + H"),
        ((W + 1) * 2, "(width + 1) * 2"),
        (1 - W, "1 - width"),
        (W - (W - 1), "width - (width - 1)"),
        (W + (H - W) + (H - W), "H + H - width"),
        (H - W + W, "H"),
    ],
)
def test_arithmetic_folds_constants(size: int, expr: str) -> None:
    assert source_of(size) == expr
    assert int(size) == eval(expr, {"H": 8, "width": 6})


@module_class("Leaf", x="B channels H W", c="B condition")
def leaf(b: Any, x: Any, c: Any, *, channels: int, condition: int, features: int) -> Any:
    c = b.reshape(b.dense("fc", c, channels), shape=(B, channels, 1, 1))
    w = b.param("w", f32(features, x.shape[1], 3, 3), "zeros")
    return b.conv(x + c, w, stride=1, padding=1, groups=1)


@module_class("Net", x="B 3 side side")
def net(b: Any, x: Any, *, side: int, width: int, depth: int) -> Any:
    c = b.reshape(b.sum(x, axes=(1, 2), keepdims=False), shape=(B, side))
    for name in items("blocks", depth):
        sizes = {"channels": x.shape[1], "condition": c.shape[1], "features": 2 * width}
        x = b.sub(name, leaf, x, c, **sizes)
    return x


def lowered(side: int, width: int) -> Any:
    mb = ModuleBuilder()
    mb.entries["main"] = mb.define(net, [f32(B, 3, side, side)], {"side": side, "width": width, "depth": 2})
    return mb.finish()


@pytest.mark.parametrize("sizes", [(8, 5), (6, 3), (4, 8), (3, 4)])
def test_equal_sizes_are_different_symbols(sizes: tuple[int, int]) -> None:
    module = lowered(*sizes)
    top = module.entry("main")
    assert [source_of(d) for d in top.outputs[0].type.shape[1:]] == ["2 * width", "side", "side"]
    for node in (n for n in top.nodes if n.op == "call"):
        fn = module.functions[node.attrs["fn"]]
        x, c = (list(map(str, map(source_of, v.type.shape[1:]))) for v in fn.inputs)
        assert (x, c) == (["channels", "H", "W"], ["condition"])
        assert [source_of(d) for d in fn.outputs[0].type.shape[1:]] == ["features", "H", "W"]
        assert source_of(node.attrs["count"]) == "depth"
    calls = [n.attrs["args"] for n in top.nodes if n.op == "call"]
    assert [source_of(a["channels"]) for a in calls] == ["3", "2 * width"]


def test_a_shape_that_is_not_the_declared_one() -> None:
    mb = ModuleBuilder()
    with pytest.raises(OpError, match="declared side = 5"):
        mb.define(net, [f32(B, 3, 4, 4)], {"side": 5, "width": 2, "depth": 1})


def test_a_declared_name_that_is_no_argument_is_named() -> None:
    @module_class("Stack", x="B layers")
    def stack(b: Any, x: Any, *, width: int) -> Any:
        return x

    with pytest.raises(OpError, match=r"`layers` is not an expression of the static arguments \(width\)"):
        ModuleBuilder().define(stack, [f32(B, 3)], {"width": 3})
