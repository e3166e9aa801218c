"""Lists of lists of modules, such as the levels of a U-Net: a double loop over a table of what varies."""

from __future__ import annotations

import random
import re
from typing import Any

import numpy as np
import pytest
import torch
from tiny_systems import SYSTEMS
from torch_module import error, loaded, random_weights, side_file, tensors

from latentc.components.parts import dense
from latentc.emit.lists import flat, nested
from latentc.emit.model import model_file, networks_file
from latentc.emit.text import Call
from latentc.ir.builder import ModuleBuilder, f32, items, module_class
from latentc.ir.core import Module
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B
from latentc.lower import lower
from latentc.spec import load_spec


@module_class("Block", x="B channels", c="B width")
def block(b: Any, x: Any, c: Any, *, channels: int, features: int, width: int) -> Any:
    """Maps x under the condition c."""
    return b.tanh(b.dense("fc", x, features)) * b.dense("affine", c, features)


@module_class("Other", x="B channels")
def other(b: Any, x: Any, *, channels: int) -> Any:
    return x + b.tanh(b.dense("fc", x, channels))


def network(seed: int) -> Module:
    """Levels of blocks, there and back, with some of the irregularities that a U-Net may have."""
    rng = random.Random(seed)
    levels = rng.randint(2, 4)
    features = [rng.choice((2, 3, 4)) for _ in range(levels)]
    counts = [rng.randint(2, 3)] * levels if rng.random() < 0.7 else [rng.randint(1, 3) for _ in range(levels)]
    joint, back = rng.choice(("module", "layer", "op", "none")), rng.choice(("pops", "ends", "plain", "none"))
    odd = rng.randrange(levels) if rng.random() < 0.4 else -1  # a level with a node more
    kept = rng.randrange(levels) if rng.random() < 0.3 else -1  # a level whose result is read at the end
    carries, reads = rng.random() < 0.3, rng.random() < 0.5
    own = rng.random() < 0.3  # each level has a condition of its own
    twice = rng.random() < 0.3  # the ends of levels are read twice
    branches = rng.random() < 0.1  # another run begins with a skip

    @module_class("Net", x="B channels")
    def body(b: Any, x: Any, c: Any, *, channels: int, width: int) -> Any:
        """There and back."""

        def joined(name: str, x: Any) -> Any:
            if joint == "module":
                return b.sub(name, other, x, channels=x.shape[1], out="x")
            return b.dense(name, x, x.shape[1], out="x") if joint == "layer" else x * 0.5 if joint == "op" else x

        def mapped(name: str, x: Any, size: int, c: Any) -> Any:
            sizes = {"channels": x.shape[1], "features": size * width, "width": width}
            return b.sub(name, block, x, c, out="x", **sizes)

        cs = [b.dense(f"embed.{level}", c, width, out="c") if own else c for level in range(levels)]
        skips, ends, sums, total = [], [], [], c
        for level in range(levels):
            x = joined(f"down.{level - 1}", x) if level and back != "ends" else x
            x = b.tanh(x) if level == odd else x
            for name in items(f"enc.{level}", counts[level]):
                x = mapped(name, x, features[level], cs[level])
                skips.append(x)
            sums += [x] if level == kept else []
            total = total + b.mean(x, axes=(1,), keepdims=True) if carries else total
            if back == "ends":
                ends.append(x)
                x = joined(f"down.{level}", x)
        entered = skips[0]
        for level in reversed(range(levels)) if back != "none" else ():
            if back == "ends":
                x = joined(f"up.{level}", x)
                x = b.concat(x, *[ends.pop()] * (1 + twice), axis=1, out="x")
            for name in items(f"dec.{level}", counts[level]):
                x = b.concat(x, skips.pop(), axis=1, out="x") if back == "pops" else x
                x = mapped(name, x, features[level], cs[level])
            x = joined(f"up.{level - 1}", x) if level and back != "ends" else x
        x = b.concat(x, skips[0], axis=1) if reads and skips else x
        side = entered
        for name in items("side", 2) if branches else ():
            side = mapped(name, side, 2, c)
        sums += [side] if branches else []
        return b.concat(x, total, *sums, axis=1)

    mb = ModuleBuilder()
    mb.entries["main"] = mb.define(body, [f32(B, 4), f32(B, 2)], {"channels": 4, "width": 2})
    return mb.finish()


def emitted(module: Module, count: int = 2) -> str:
    """The text, which computes what the oracle does."""
    file = networks_file(module, {"main": [module.entries["main"]]})
    weights = random_weights(module, [module.entries["main"]])
    model = loaded(file.text, torch.float64, **side_file(file.constants))["build"]().double().eval()
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    inputs = [np.random.default_rng(1).standard_normal((3, size)) for size in (4, 2)[:count]]
    with torch.no_grad():
        actual = model(*tensors(inputs, torch.float64))
    assert error(actual, Interpreter(module, weights).run("main", *inputs)[0]) < 1e-9, file.text
    return file.text


def test_levels_compute_what_they_say() -> None:
    texts = [emitted(network(seed)) for seed in range(90)]
    assert sum("for block in level:" in text for text in texts) > 20
    assert any("reversed(self.dec" in text for text in texts)
    assert any(re.search(r"skips\.pop\(\)\], dim=1\)\n            for block in level:", text) for text in texts)
    assert any(re.search(r"for level, c_i in zip\(self\.enc, ", text) for text in texts)


@pytest.mark.parametrize("system", ["edm", "edm-ve", "adm", "edm2", "score_sde", "mean_flow_cifar10"])
def test_a_u_net_has_as_many_blocks_as_it_is_built_with(system: str) -> None:
    tiny = SYSTEMS[system]
    main = "networks.main" if any(size.startswith("networks.main") for size in tiny.sizes) else "backbone"

    def shapes(blocks: int, built: int) -> dict[str, list[int]]:
        levels = [f"{main}.blocks={blocks}", f"{main}.multipliers=[1, 2, 2]", f"{main}.attention=[1]"]
        file = model_file(lower(load_spec(tiny.spec, tiny.variant, [*tiny.sizes, *levels])))
        assert "for block in level:" in file.text, file.text
        net = loaded(file.text, **side_file(file.constants))["build"](blocks=built)
        return {name: [*value.shape] for name, value in net.state_dict().items()}

    assert shapes(2, 3) == shapes(3, 3) != shapes(2, 2)


@pytest.mark.parametrize("system", ["dico", "diffit_image"])
def test_a_staged_u_net_has_the_depths_it_is_built_with(system: str) -> None:
    tiny = SYSTEMS[system]
    windows = ["backbone.block.mixer.size=1"] if system == "diffit_image" else []

    def shapes(*depths: int, **built: int) -> dict[str, list[int]]:
        levels = ["backbone.multipliers=[1, 2, 2, 2, 1]", f"backbone.depths={[*depths]}", *windows]
        file = model_file(lower(load_spec(tiny.spec, tiny.variant, [*tiny.sizes, *levels])))
        assert file.text.count("for block in level:") == 2 and file.text.count("skips.pop()") == 1, file.text
        assert "for layer in self.merge:" in file.text
        net = loaded(file.text, **side_file(file.constants))["build"](**built)
        return {name: [*value.shape] for name, value in net.state_dict().items()}

    assert shapes(2, 2, 2, 2, 2, encoder_1_depth=3, decoder_0_depth=4) == shapes(2, 3, 2, 2, 4)


def test_layers_that_begin_alike() -> None:
    """A list is walked through if all its layers begin alike, and are called by no other name."""

    def text(first: int, *others: str) -> str:
        @module_class("Net", x="B channels")
        def body(b: Any, x: Any, *, channels: int) -> Any:
            for i in range(first, first + 3):
                x = b.tanh(dense(b, f"layers.{i}", x, channels, True, "xavier"))
            for name in others:
                x = b.tanh(dense(b, name, x, channels, True, "xavier" if name == "head" else "normal"))
            return x

        mb = ModuleBuilder()
        mb.entries["main"] = mb.define(body, [f32(B, 4)], {"channels": 4})
        return emitted(mb.finish(), 1)

    assert "for layer in self.layers:" in text(0)
    assert "for layer in self.layers:" in text(0, "tail")
    for own in (text(0, "head"), text(0, "layers.3"), text(1)):
        assert "for layer in (self.layers[" in own


def test_tables_of_arguments() -> None:
    def made(function: str = "A", *args: str, **keywords: str) -> Call:
        return Call(function, {**dict(enumerate(args)), **keywords})

    first, others = made(n="w", k="2 * w"), [made(n="2 * w", k="2 * w")] * 2
    rows, same = [[first, *others], [made(n="2 * w", k="w", flag="True")] * 3], [("m", "m - 1")] * 2
    text = "nn.ModuleList(nn.ModuleList(A(n=n if i == 0 else 2 * w, k=k, flag=flag) for i in range(m)) "
    assert nested(rows, same, {"A"}) == f"{text}for n, k, flag in ((w, 2 * w, False), (2 * w, w, True)))"
    assert nested(rows, same, set()) is None  # nobody knows what A does without the argument
    differ = nested([[made("A", "w")] * 2, [made("A", "w")] * 3], [("a_depth", "a_depth - 1"), ("b_depth", "")], {"A"})
    assert differ == "nn.ModuleList(nn.ModuleList(A(w) for _ in range(depth)) for depth in (a_depth, b_depth))"
    assert nested([[made("A", "w"), made("A", "v")] * 2] * 2, same, {"A"}) is None
    assert nested([[made("A", "w"), made("C", "w")]] * 2, same, {"A"}) is None
    assert flat([[made("A", text)] for text in "wvw"], {"A"}) is None  # as short without a table
    words = ({"other_words": f"{k} * size", "more_words": "size", "again": "some * size"} for k in (2, 3, 4))
    table = flat([[made("A", "size"), made("C", **each)] for each in words], {"A"})
    assert table is not None and table.endswith("for other_words in (2 * size, 3 * size, 4 * size))")
    pair = [made(input_features=f"{size} * width", other_argument="size", another_argument="width") for size in (2, 3)]
    assert f"{flat(pair, {'A'})}".endswith("for input_features in (2 * width, 3 * width))")
    assert flat([pair[0], made(**pair[1].given, flag="True")], {"A"}) is None  # clearer one by one
