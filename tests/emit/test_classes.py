"""Classes of modules written by hand: what each was once emitted wrongly for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch_module import loaded, side_file

from latentc.emit.classes import Classes
from latentc.emit.functions import Functions
from latentc.emit.helpers import helper_source
from latentc.emit.members import EmitError
from latentc.emit.model import ModelFile, imports, networks_file
from latentc.emit.text import code_key
from latentc.ir.builder import ModuleBuilder, f32, i64, items, module_class
from latentc.ir.core import parameters
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B, Named


def emitted(block: Any, types: Any, static: dict[str, int]) -> tuple[ModelFile, Any, str]:
    mb = ModuleBuilder()
    fn = mb.define(block, types, static)
    mb.entries["main"] = fn
    module = mb.finish()
    return networks_file(module, {"main": [fn]}), module, fn


def agrees(file: ModelFile, module: Any, fn: str, *inputs: Any, **sizes: int) -> Any:
    """The emitted network, built at `sizes`, after a comparison with the oracle."""
    model = loaded(file.text, **side_file(file.constants))["build"](**sizes).eval()
    weights = {path: np.asarray(w.detach().double()) for path, w in model.state_dict().items()}
    assert set(parameters(module, fn)) <= set(weights)
    (expected,) = Interpreter(module, weights).run("main", *inputs)
    tensors = [torch.as_tensor(x) for x in inputs]
    actual = model(*(t.float() if t.is_floating_point() else t for t in tensors))
    assert np.allclose(actual.detach().numpy(), expected, rtol=1e-5, atol=1e-5), file.text
    return model


@module_class("Numbers", x="B width")
def numbers(b: Any, x: Any, *, width: int) -> Any:
    positive = b.where(b.greater(x, 0.0), b.constant(1.0), b.constant(0.0))
    table = b.constant(np.sin(np.arange(300.0)), out="sines")
    return (
        x * positive
        + b.mean(table, axes=(0,), keepdims=False)
        + b.sum(b.constant([0.5, 0.25]), axes=(0,), keepdims=False)
    )


def test_constants_are_buffers_and_floats_stay_floats() -> None:
    file, module, fn = emitted(numbers, [f32(B, 3)], {"width": 3})
    assert set(file.constants) == {"sines"} and "0.841" not in file.text
    assert "from latentc_support.constants import CONSTANTS\n" in file.text
    assert 'self.register_buffer("sines", CONSTANTS["sines"].float(), persistent=False)' in file.text
    agrees(file, module, fn, np.random.default_rng(0).standard_normal((2, 3)))


@module_class("Dilated", x="B width L")
def dilated(b: Any, x: Any, *, width: int, dilation: int) -> Any:
    weight = b.param("conv.weight", f32(width, width, 3), "kaiming_normal")
    return x + b.conv(x, weight, padding=dilation, dilation=dilation)


@module_class("Cycle", x="B width L")
def cycle_of_dilations(b: Any, x: Any, *, width: int, depth: int, cycle: int) -> Any:
    for name in items("layers", depth):
        x = b.sub(name, dilated, x, width=width, dilation=2 ** (name.i % cycle))
    return x


def test_arguments_may_depend_on_the_place_in_a_list() -> None:
    """As many layers as there are, each with a dilation of its own, are one class and one loop."""
    file, module, fn = emitted(cycle_of_dilations, [f32(B, 2, 16)], {"width": 2, "depth": 5, "cycle": 3})
    lists = "nn.ModuleList(Dilated(width=width, dilation=2 ** (i % cycle)) for i in range(depth))"
    assert lists in file.text and "for layer in self.layers:" in file.text
    assert file.text.count("class ") == 2
    agrees(file, module, fn, np.random.default_rng(0).standard_normal((2, 2, 16)))
    deeper = emitted(cycle_of_dilations, [f32(B, 2, 16)], {"width": 2, "depth": 7, "cycle": 2})[0]
    assert deeper.text.replace('"depth": 7, "cycle": 2', '"depth": 5, "cycle": 3') == file.text


@module_class("Carried")
def carrying(b: Any, x: Any) -> Any:
    return x + 1.0


def test_a_carried_output_is_not_guided() -> None:
    mb = ModuleBuilder()
    fn = mb.define(carrying, [f32(B, 2)], {})
    b = mb.function("sample")
    x, scale = b.input("x", f32(2 * B, 2)), b.input("scale", f32(B))
    b.output(b.guided(fn, "main", [x], ["carried"], [], scale, ["carried"]))
    mb.entries["sample"] = b.finish()
    functions = Functions(mb.finish())
    functions.add("sample")
    text = "\n".join([helper_source(list(functions.helpers)), *functions.texts])
    assert "guide(" not in text
    sample = loaded("\n".join([*imports(text), text]))["sample"]
    assert torch.equal(sample(lambda x: x + 1, torch.zeros(4, 2), torch.ones(2)), torch.ones(4, 2))


@module_class("Tied", tokens="B T")
def tied(b: Any, tokens: Any, *, vocabulary: int, width: int) -> Any:
    table = b.param("tokens.weight", f32(vocabulary, width), "normal")
    x = b.embedding(table, tokens) * b.param("out.norm.scale", f32(width), "ones")
    return b.linear(x, table)


def test_tied_and_dotted_weights() -> None:
    file, module, fn = emitted(tied, [i64(B, Named(4, "T"))], {"vocabulary": 5, "width": 3})
    for line in ("self.tokens = nn.Embedding(vocabulary, width)", "F.linear(", ", self.tokens.weight)"):
        assert line in file.text, file.text
    agrees(file, module, fn, np.array([[0, 1, 2, 4]]))


@module_class("Attention", x="B T width")
def attention(b: Any, x: Any, *, width: int, heads: int) -> Any:
    batch, positions, _ = x.shape
    qkv = b.reshape(b.dense("qkv", x, 3 * width), shape=(batch, positions, 3, heads, width // heads))
    q, k, v = (b.transpose(part, perm=(0, 2, 1, 3)) for part in b.unbind(qkv, axis=2))
    h = b.transpose(b.attention(q, k, v, causal=False), perm=(0, 2, 1, 3))
    h = h * b.broadcast_to(b.param("gate", f32(1, 1), "ones"), shape=(heads, 1))
    return b.reshape(h, shape=(batch, positions, width))


@module_class("Parts", x="B width")
def parts(b: Any, x: Any, *, width: int, one: int, other: int) -> Any:
    first, second = b.split(b.dense("fc", x, one + other), axis=1, sizes=(one, other))
    return b.concat(first * 2.0, second, axis=1)


@pytest.mark.parametrize(
    ("block", "few", "more"),
    [
        (attention, {"heads": 1}, {"heads": 2}),
        (parts, {"one": 2, "other": 2}, {"one": 2, "other": 3}),
    ],
)
def test_sizes_that_happen_to_be_equal_or_1_are_no_shorthand(
    block: Any, few: dict[str, int], more: dict[str, int]
) -> None:
    """A class that was emitted where two sizes are equal is the same class where they are not."""
    types = [f32(B, 3, 4)] if block is attention else [f32(B, 4)]
    file, _, _ = emitted(block, types, {"width": 4, **few})
    _, module, fn = emitted(block, types, {"width": 4, **more})
    x = np.random.default_rng(0).standard_normal([2, *types[0].shape[1:]])
    agrees(file, module, fn, x, **more)


def scaled(factor: float) -> Any:
    """A block inside a block inside a network, with a number that no argument of theirs is."""

    @module_class("Scaled", x="B width")
    def inner(b: Any, x: Any, *, width: int) -> Any:
        return b.dense("fc", x, width) * factor

    @module_class("Block", x="B width")
    def block(b: Any, x: Any, *, width: int) -> Any:
        return x + b.sub("scaled", inner, x, width=width)

    @module_class("Network", x="B width")
    def network(b: Any, x: Any, *, width: int) -> Any:
        return b.sub("blocks.0", block, x, width=width)

    return network


def test_networks_that_differ_in_a_number_below_them_do_not_share_classes() -> None:
    mb = ModuleBuilder()
    networks = {name: mb.define(scaled(factor), [f32(B, 3)], {"width": 3}) for name, factor in FACTORS.items()}
    file = networks_file(mb.finish(), {name: [fn] for name, fn in networks.items()})
    made = loaded(file.text)
    models = {"main": made["build"](), "guide": made["build_guide_"](), "other": made["build_other"]()}
    x = torch.ones(1, 3)
    for name, model in models.items():
        fc = model.blocks[0].scaled.fc
        assert torch.allclose(model(x), x + fc(x) * FACTORS[name]), file.text
    assert type(models["main"]) is type(models["other"]) is not type(models["guide"])


FACTORS = {"main": 2.0, "guide": 3.0, "other": 2.0}


def test_a_class_that_nothing_creates_is_not_written() -> None:
    mb = ModuleBuilder()
    fn = mb.define(scaled(2.0), [f32(B, 3)], {"width": 3})
    classes = Classes(mb.finish(), {"main": [fn]})
    name = classes.of(fn).name
    classes.check_used(f"return {name}()")
    with pytest.raises(EmitError, match=name):
        classes.check_used("")


def test_code_is_the_same_but_for_comments_and_names_of_locals() -> None:
    one = "def f(self, h_2, x):\n    y = x + h_2  # [B]\n    return y * h"
    assert code_key(one) == code_key("def f(self, a, b):\n    '''Adds.'''\n    c = b + a\n    return c * h")
    for other in ("h_3 + x", "x - h_3", "x + self.h_3", "x + h"):
        assert code_key(one) != code_key(f"def f(self, h_3, x):\n    y = {other}\n    return y * h"), other
    assert code_key("def f(h, h_2):\n    return h - h_2") != code_key("def f(h, h_2):\n    return h_2 - h")
    named = [code_key(f"def f({x}):\n    return -{x}", named=True) for x in ("h_2", "h_3", "x")]
    assert named[0] == named[1] != named[2]


@module_class("Gains", x="B width")
def gains(b: Any, x: Any, *, width: int) -> Any:
    gain = b.rsqrt(b.scalar(width, x), out="gain")
    scale = b.mul(b.exp(gain * 0.5) + b.log(b.scalar(width, x)), b.sqrt(b.scalar(2 * width, x)), out="scale")
    ones = b.full(x, shape=(), value=1, dtype="i64")
    index = b.cast(b.op("sub", b.cumsum(ones, axis=0), 1), to="f32")

    def body(b: Any, i: Any, kept: Any, state: Any, rows: Any) -> Any:
        return [b.tanh(state[0] * kept[0]) + b.sqrt(kept[0])], []

    (x,) = b.loop("turns", 2, body, invariants=[gain], carried=[x])
    return x * scale + b.reshape(index, shape=(x.shape[0], 1)) + b.broadcast_to(gain, x, shape=x.shape)


def test_what_depends_on_sizes_alone_is_a_number() -> None:
    file, module, fn = emitted(gains, [f32(B, 3)], {"width": 3})
    assert "gain = self.width ** -0.5" in file.text and "torch.arange(B, device=x.device)" in file.text
    assert "torch.sqrt" not in file.text and "torch.exp" not in file.text and "cumsum" not in file.text
    x = np.random.default_rng(0).standard_normal((4, 3))
    agrees(file, module, fn, x)
    _, module, fn = emitted(gains, [f32(B, 5)], {"width": 5})
    agrees(file, module, fn, np.random.default_rng(0).standard_normal((4, 5)), width=5)
