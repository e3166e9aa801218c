"""Passes before ONNX: golden texts before and after, the same numbers after, the same object where nothing changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_runs import assert_close, module_of, weights_of

from latentc.ir.builder import Builder, ModuleBuilder, Var, module_class
from latentc.ir.core import Module, parameters
from latentc.ir.interpret import Interpreter
from latentc.ir.ops import OpError
from latentc.ir.text import text_from_module
from latentc.ir.types import B, f32, i64
from latentc.ir.verify import VerifyError, verify
from latentc.lower import lower
from latentc.passes.decompose import decompose
from latentc.passes.expand_guidance import expand_guidance
from latentc.passes.inline import inline
from latentc.passes.to_inference import to_inference
from latentc.spec import load_spec

Golden = Callable[[Path | str, str], None]


@module_class("Layer")
def layer(b: Builder, x: Var, *, width: int) -> Any:
    """A layer with dropout."""
    return b.dropout(b.gelu(b.dense("fc", x, width), approximate="tanh"), p=0.1) + x


@module_class("Net")
def net(b: Builder, x: Var, y: Var, *, width: int, depth: int) -> Any:
    """Layers conditioned on the class."""
    x = x + b.embedding(b.param("y.weight", f32(11, width), "normal", std=0.5), y)
    for i in range(depth):
        x = b.sub(f"layers.{i}", layer, x, width=width)
    return b.rms_norm(x, b.param("norm.weight", f32(width), "ones"), eps=1e-5)


def example() -> Module:
    """Two guided steps over a net of two layers."""
    mb = ModuleBuilder()
    fn = mb.define(net, [f32(B, 4), i64(B)], {"width": 4, "depth": 2})

    def build(b: Builder, x: Var, y: Var, scale: Var) -> Any:
        null = b.full(y, shape=(), value=10, dtype="i64")

        def body(b: Builder, i: Var, kept: Any, state: Any, rows: Any) -> Any:
            (y, null, scale), (x,), (a,) = kept, state, rows
            e = b.guided(fn, "main", [x, y], ["shared", "conditional"], [null], scale, channels=3)
            return [x + e * a], [b.max(e, axes=(1,), keepdims=False)]

        return b.loop("step", 2, body, invariants=[y, null, scale], carried=[x], tables=[b.constant([0.5, 0.25])])

    return module_of((f32(B, 4), i64(B), f32(B)), build, mb)


PASSES: dict[str, tuple[str, Callable[[Module], Module]]] = {
    "to_inference": ("inference", to_inference),
    "expand_guidance": ("expanded", lambda m: expand_guidance(to_inference(m))),
    "expand_guidance_sequential": ("expanded", lambda m: expand_guidance(to_inference(m), "sequential")),
    "decompose": ("train", lambda m: decompose(m, {"gelu", "rms_norm"})),
    "inline": ("inlined", lambda m: inline(expand_guidance(to_inference(m)), "main")),
    "inline_unroll": ("inlined", lambda m: inline(expand_guidance(to_inference(m)), "main", unroll=True)),
}


def run(module: Module) -> list[Any]:
    weights = weights_of(parameters(example(), "main"))
    x = np.linspace(-1, 1, 12).reshape(3, 4)
    return list(Interpreter(module, weights).run("main", x, [1, 2, 3], [0.0, 1.0, 2.5]))


@pytest.mark.parametrize("name", PASSES)
def test_a_pass_keeps_the_meaning(name: str, golden: Golden) -> None:
    stage, apply = PASSES[name]
    before = example()
    after = verify(apply(before), stage)
    for got, want in zip(run(after), run(before), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)
    assert parameters(after, after.entries["main"]).keys() == parameters(before, "main").keys()
    sections = [f"# {name}", "## Before", _block(before), "## After", _block(after)]
    golden(f"passes/{name}.md", "\n\n".join(sections) + "\n")


def _block(module: Module) -> str:
    return f"```\n{text_from_module(module, full=False)}```"


def test_nothing_to_do_gives_the_same_object() -> None:
    module = expand_guidance(to_inference(example()))
    assert to_inference(module) is module
    assert expand_guidance(module) is module
    assert decompose(module, {"attention"}) is module


def test_stages_are_checked() -> None:
    with pytest.raises(VerifyError, match="dropout may not appear"):
        verify(example(), "inference")
    with pytest.raises(VerifyError, match="guided may not appear"):
        verify(to_inference(example()), "expanded")
    with pytest.raises(OpError, match="no decomposition"):
        decompose(example(), {"embedding"})


def test_off_is_the_conditional_call() -> None:
    off = verify(expand_guidance(to_inference(example()), "off"), "expanded")
    weights = weights_of(parameters(example(), "main"))
    x = np.linspace(-1, 1, 12).reshape(3, 4)
    ones = Interpreter(example(), weights).run("main", x, [1, 2, 3], np.ones(3))
    for got, want in zip(Interpreter(off, weights).run("main", x, [1, 2, 3], np.full(3, 7.0)), ones, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12)


def test_shared_weights_are_one_param() -> None:
    """One layer called twice under one name: the flat function binds it once."""

    def build(b: Builder, x: Var) -> Any:
        return b.sub("layer", layer, b.sub("layer", layer, x, width=4), width=4)

    module = to_inference(module_of((f32(B, 4),), build))
    flat = verify(inline(module, "main"), "inlined")
    assert [p.name for p in flat.entry("main").params] == ["layer.fc.weight", "layer.fc.bias"]
    weights = weights_of(parameters(module, "main"))
    x = np.ones((2, 4))
    got, want = (Interpreter(m, weights).run("main", x)[0] for m in (flat, module))
    assert_close(got.astype(np.float32), want)


def test_passes_before_inline_do_not_depend_on_depth() -> None:
    """The function count is that of the distinct blocks; only inlining writes a block out as often as it is called."""
    counts = []
    for depth in (2, 40):
        spec = load_spec("digits_dit", None, [f"backbone.depth={depth}", "sampler.steps=3"])
        module = lower(spec).module
        entry = next(name for name in module.entries if name.startswith("sample"))
        alone = expand_guidance(to_inference(module.with_(entries={entry: module.entries[entry]})))
        flat = inline(alone, entry)
        counts.append((len(alone.functions), sum(len(f.nodes) for f in flat.functions.values())))
    assert counts[0][0] == counts[1][0]
    assert counts[1][1] > 10 * counts[0][1]
