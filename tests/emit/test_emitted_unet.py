"""A U-Net and a U-ViT: long skips are a stack, and classes do not depend on the sizes they were built at."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch_module import error, loaded, random_weights, tensors
from unet import unet

from latentc.emit.model import networks_file
from latentc.ir.builder import ModuleBuilder, f32, items, module_class
from latentc.ir.core import Module
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B, Named


def text_of(module: Module) -> str:
    return networks_file(module, {"main": [module.entries["main"]]}).text


def check(text: str, module: Module, inputs: list[Any], **sizes: int) -> None:
    """The emitted text, built at `sizes`, is the oracle of `module`."""
    weights = random_weights(module, [module.entries["main"]])
    model = loaded(text, torch.float64)["build"](**sizes).double().eval()
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    with torch.no_grad():
        actual = model(*tensors(inputs, torch.float64))
    assert error(actual, Interpreter(module, weights).run("main", *inputs)[0]) < 1e-9


def images(side: int) -> list[Any]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal((2, 3, side, side)), rng.standard_normal(2), np.array([1, 7])]


def test_skips_are_pushed_and_popped_in_loops() -> None:
    text = text_of(unet(multipliers=(1, 2, 2)))
    forward = text[text.index("class SongUNet") :]
    assert forward.count("skips = [x]") == 1 and forward.count("skips.pop()") == 3 == forward.count(
        "for block in self.dec"
    )
    assert not re.search(r"\bx_\d", forward)
    assert len(re.findall(r"^class ", text, re.M)) <= 9
    check(text, unet(multipliers=(1, 2, 2)), images(32))


@pytest.mark.parametrize(("side", "width"), [(16, 12), (32, 4), (16, 8)])
def test_classes_do_not_depend_on_sizes(side: int, width: int) -> None:
    built, other = unet(16, 8, (1, 2), 2), unet(side, width, (1, 2), 2)
    assert text_of(built).split("class SongUNet")[0] == text_of(other).split("class SongUNet")[0]
    if side == 16:  # the names of blocks contain the side
        check(text_of(built), other, images(16), width=width)


@module_class("Block", x="B T width")
def block(b: Any, x: Any, *, width: int) -> Any:
    return x + b.tanh(b.dense("fc", x, width))


@module_class("SkipBlock", x="B T width", skip="B T width")
def skip_block(b: Any, x: Any, skip: Any, *, width: int) -> Any:
    return b.dense("join", b.concat(x, skip, axis=2), width)


@module_class("UViT", x="B T width")
def uvit(b: Any, x: Any, *, width: int, half: int) -> Any:
    skips = []
    for name in items("in_blocks", half):
        x = b.sub(name, block, x, width=width)
        skips.append(x)
    x = b.sub("mid_block", block, x, width=width)
    for name in items("out_blocks", half):
        x = b.sub(name, skip_block, x, skips.pop(), width=width)
    return x


def transformer(width: int, half: int) -> Module:
    mb = ModuleBuilder()
    mb.entries["main"] = mb.define(uvit, [f32(B, Named(5, "T"), width)], {"width": width, "half": half})
    return mb.finish()


def test_long_skips_of_a_transformer() -> None:
    text = text_of(transformer(6, 3))
    for line in ("skips.append(x)", "x = out_block(x, skips.pop())", "for _ in range(half)"):
        assert line in text, text
    check(text, transformer(4, 7), [np.random.default_rng(0).standard_normal((2, 5, 4))], width=4, half=7)


@module_class("Crossed", x="B T width")
def crossed(b: Any, x: Any, *, width: int, half: int) -> Any:
    skips = []
    for name in items("in_blocks", half):
        x = b.sub(name, block, x, width=width)
        skips.append(x)
    for name, skip in zip(items("out_blocks", half), skips, strict=True):  # in the order in which they were made
        x = b.sub(name, skip_block, x, skip, width=width)
    return x


def test_skips_in_another_order_are_no_stack() -> None:
    mb = ModuleBuilder()
    mb.entries["main"] = mb.define(crossed, [f32(B, Named(5, "T"), 4)], {"width": 4, "half": 3})
    module = mb.finish()
    assert ".pop()" not in text_of(module)
    check(text_of(module), module, [np.random.default_rng(0).standard_normal((2, 5, 4))])
