"""Blocks that differ in optional parts are one class, whose constructor says which parts it has."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from tiny_systems import SYSTEMS
from torch_module import error, loaded, random_weights, tensors

from latentc.emit.model import model_source, networks_file
from latentc.emit.specialise import specialised
from latentc.ir.builder import ModuleBuilder, f32, module_class
from latentc.ir.core import Module
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B
from latentc.lower import lower
from latentc.spec import load_spec


def block_of(skip: bool, attends: bool, way: str, slope: float = 0.1, noisy: bool = False) -> Any:
    @module_class("Mixer", x="B T features")
    def mixer(b: Any, x: Any, *, features: int) -> Any:
        return x + b.tanh(b.dense("fc", x, features))

    @module_class("Block", x="B T channels")
    def block(b: Any, x: Any, *, channels: int, features: int, heads: int = 0, **_: Any) -> Any:
        h = b.dense("fc1", b.leaky_relu(x, slope=slope), features)
        if way != "same":
            h, x = ((b.tanh if way == "down" else b.sigmoid)(v, out=out) for v, out in ((h, "h"), (x, "x")))
        if noisy:
            h = b.tanh(h, out="h")
        if skip:
            x = b.dense("skip", x, features, out="x")
        x = b.add(h, x, out="x")
        return b.sub("mixer", mixer, x, features=features) if attends else x

    return block


def network(*blocks: tuple[int, Any, dict[str, Any]]) -> Module:
    """Blocks one after the other, each with its output's width and static arguments."""

    @module_class("Net", x="B T width")
    def net(b: Any, x: Any, *, width: int) -> Any:
        for i, (factor, block, static) in enumerate(blocks):
            x = b.sub(f"block_{i}", block, x, channels=x.shape[2], features=factor * width, **static)
        return x

    mb = ModuleBuilder()
    mb.entries["main"] = mb.define(net, [f32(B, 6, 4)], {"width": 4})
    return mb.finish()


PLAIN, WIDER = (1, block_of(False, False, "same"), {}), (2, block_of(True, False, "same"), {})


def text_of(module: Module) -> str:
    return networks_file(module, {"main": [module.entries["main"]]}).text


def classes(text: str) -> list[str]:
    return re.findall(r"^class (\w+)\(nn\.Module\)", text, re.M)


def check(module: Module) -> None:
    weights = random_weights(module, [module.entries["main"]])
    model = loaded(text_of(module), torch.float64)["build"]().double().eval()
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    x = np.random.default_rng(0).standard_normal((2, 6, 4))
    with torch.no_grad():
        actual = model(*tensors([x], torch.float64))
    assert error(actual, Interpreter(module, weights).run("main", x)[0]) < 1e-9


def shows(text: str, *lines: str) -> None:
    """The text has each of these, whatever its line breaks."""
    for line in lines:
        assert line in " ".join(text.split()), text


def test_optional_members_and_flags_are_arguments_of_one_class() -> None:
    module = network(
        PLAIN,
        WIDER,
        (2, block_of(False, True, "same"), {"heads": 2}),
        (2, block_of(False, False, "down"), {"down": True}),
        (1, block_of(True, True, "up"), {"up": True, "heads": 2}),
        (1, block_of(False, False, "up"), {"up": True}),
    )
    text = text_of(module)
    assert classes(text) == ["Mixer", "Block", "Net"], text
    shows(
        text,
        "heads: int | None = None, down: bool = False, up: bool = False, skip: bool = False",
        "self.skip = nn.Linear(channels, features) if skip else None",
        "self.mixer = Mixer(features) if heads else None",
        "if self.skip is not None:",
        "elif self.up:",
        "self.block_1 = Block(channels=width, features=2 * width, skip=True)",
    )
    check(module)


def test_other_numbers_and_nodes_without_a_name_stay_classes_of_their_own() -> None:
    for other in (block_of(True, False, "same", slope=0.2), block_of(True, False, "same", noisy=True)):
        module = network(PLAIN, WIDER, (1, other, {}))
        assert classes(text_of(module)) == ["Block", "Block2", "Block3", "Net"]
        check(module)


def test_a_block_that_calls_its_like_is_no_variant_of_it() -> None:
    inner = block_of(False, False, "same")

    @module_class("Block", x="B T channels")
    def outer(b: Any, x: Any, *, channels: int, features: int) -> Any:
        return b.sub("inner", inner, x, channels=channels, features=features)

    module = network(PLAIN, (1, outer, {}))
    assert classes(text_of(module)) == ["Block", "Block2", "Net"]
    check(module)


def level(projects: int, down: bool, count: int = 2) -> Any:
    """A level of residual blocks whose first one projects the shortcut if the level is given `skip=1`."""

    @module_class("Level", x="B T channels")
    def body(b: Any, x: Any, *, channels: int, features: int, skip: int, **_: Any) -> Any:
        for i in range(count):
            sizes = {"channels": x.shape[2], "features": features, "skip": skip if i == 0 else 0}
            x = b.sub(f"blocks.{i}", block_of(bool(sizes["skip"]), False, "same"), x, **sizes)
        return b.dense("down", b.tanh(x), features, out="x") if down else x

    return body, {"skip": projects, "down": down}


def test_a_level_decides_for_its_blocks() -> None:
    """Levels are one class, whether their first block projects or not, and whether a layer follows the blocks."""
    levels = [level(0, True), level(1, True), level(1, False)]
    module = network(*((factor, *one) for factor, one in zip((1, 2, 3), levels, strict=True)))
    text = text_of(module)
    assert classes(text) == ["Block", "Level", "Net"], text
    shows(
        text,
        "Block(channels=channels, features=features, skip=skip)",
        "Block(channels=features, features=features)",
        "self.block_0 = Level(channels=width, features=width, skip=0, down=True)",
        "self.block_2 = Level(channels=2 * width, features=3 * width, skip=1)",
        "for block in self.blocks:",
    )
    check(module)


ONE = """
class @CLASS@(nn.Module):
    def __init__(self, dim: int, skip: bool = False):
        super().__init__()
        self.fc = nn.Linear(dim, dim)
        self.skip = nn.Linear(dim, dim) if skip else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        if self.skip is not None:
            x = self.skip(x)
        return h * 0.5 + x
"""
ALONE = """
class @CLASS@(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.fc = nn.Linear(dim, dim)
        self.skip = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) * 0.5 + self.skip(x)
"""


def test_a_class_of_optional_parts_is_compared_with_each_choice_of_them() -> None:
    optional = {"skip": "bool"}
    assert specialised(ONE, {"skip": True}, optional) == specialised(ALONE)
    assert specialised(ONE, {}, optional) != specialised(ALONE)
    for was, other in (("0.5", "0.25"), ("nn.Linear(dim, dim)\n\n", "nn.Linear(dim, dim, bias=False)\n\n")):
        assert specialised(ONE, {"skip": True}, optional) != specialised(ALONE.replace(was, other))
    assert specialised(ONE, {"skip": True}, optional) != specialised(ALONE.replace("+ self.skip(x)", "+ self.skip(h)"))


def test_loops_of_classes_are_compared() -> None:
    loop = "        for layer in self.layers:\n            x = layer(x, x)\n"
    text = ALONE.replace("        return", f"{loop}        return")
    renamed = text.replace("layer in", "block in").replace("layer(x, x)", "block(x, x)")
    assert specialised(text) == specialised(renamed) != text
    for was, other in (("self.layers", "self.others"), ("layer(x, x)", "layer(x, x) + 1"), ("x = layer", "h = layer")):
        assert specialised(text) != specialised(text.replace(was, other))
    last = re.sub(r"return .*", "return h", text.replace("x = layer(x, x)", "h = layer(x)"))
    assert "return h" in last
    for was, other in (("self.layers", "self.others"), ("layer(x)", "layer(x) + 1")):
        assert specialised(last) != specialised(last.replace(was, other))


@pytest.mark.parametrize(
    ("system", "most"), [("edm", 5), ("edm-ve", 5), ("edm-adm", 5), ("adm", 5), ("score_sde", 5), ("edm2", 10)]
)
def test_classes_of_unets(system: str, most: int) -> None:
    tiny = SYSTEMS[system]
    text = model_source(lower(load_spec(tiny.spec, tiny.variant, list(tiny.sizes))))
    assert len(re.findall(r"^class ", text, re.M)) <= most, classes(text)
