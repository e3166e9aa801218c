"""Hoist: golden before and after; the oracle and the engine give the same with it; what it costs and what it leaves."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gradients import weights_of
from ir_parse import module_from_text

import latentc_runtime
from latentc.export.bundle import bundle_from_lowered
from latentc.ir.builder import B, ModuleBuilder, f32, i64, module_class
from latentc.ir.core import parameters
from latentc.ir.inits import INITS
from latentc.ir.interpret import Interpreter
from latentc.ir.report import weights_read
from latentc.ir.text import text_from_module
from latentc.ir.types import Sym
from latentc.ir.verify import verify
from latentc.lower import lower
from latentc.passes.cleanup import cleanup
from latentc.passes.hoist import LEAST_STEPS, hoist, hoist_report
from latentc.passes.split import Splitter
from latentc.pipeline import optimised
from latentc.spec import load_spec, resolved_yaml
from latentc.weights import Array

TINY = ("backbone.width=32", "backbone.depth=2")
DDPM = "sampler={kind: ddpm, steps: 12, guidance: {scale: 2.0, interval: [0.3, 0.8]}}"


@module_class("Layer")
def layer(b, x, c, *, dim):
    scale = b.reshape(b.dense("modulate", b.silu(c), dim), shape=(x.shape[0], 1, dim))
    return x + b.dense("fc", x, dim) * (scale + 1.0)


@module_class("Net")
def net(b, x, t, y, *, dim, depth):
    table = b.param("y.weight", f32(4, dim), "normal", std=0.5)
    c = b.embedding(table, y) + b.timestep_embedding(t, dim=dim, max_period=10000.0)
    for i in range(depth):
        x = b.sub(f"layers.{i}", layer, x, c, dim=dim)
    return x


def sampler(depth: int = 2, trip: int = 6, dim: int = 32, guided: bool = True, indexed: bool = False) -> Any:
    """Euler steps over a net conditioned on the time and a class, with batched guidance written out."""
    mb = ModuleBuilder()
    fn = mb.define(net, [f32(B, 3, dim), f32(B), i64(B)], {"dim": dim, "depth": depth})
    b = mb.function("sample")
    x, y = b.input("x", f32(B, 3, dim)), b.input("y", i64(B))

    def body(b, i, kept, state, rows):
        (y,), (x,), (t, a) = kept, state, rows
        if indexed:
            t = t + b.cast(i, to="f32") * 10.0
        time = b.broadcast_to(t, y, shape=y.shape, out="time")
        if not guided:
            return [x + b.call(fn, "main", x, time, y) * a], [b.max(x, axes=(1, 2), keepdims=False)]
        null = b.broadcast_to(b.constant(3), y, shape=y.shape, out="null")
        both = [b.concat(p, q, axis=0) for p, q in ((x, x), (time, time), (y, null))]
        cond, free = b.split(b.call(fn, "main", *both), axis=0, sizes=(x.shape[0], x.shape[0]))
        return [x + (free + (cond - free) * 1.5) * a], [b.max(x, axes=(1, 2), keepdims=False)]

    tables = [b.constant(np.linspace(900, 0, trip), out="t"), b.constant(np.linspace(0.5, 0.1, trip), out="a")]
    b.output(*b.loop("sample.step", trip, body, invariants=[y], carried=[x], tables=tables))
    mb.entries["sample"] = b.finish()
    return verify(mb.finish(), "expanded")


def inputs_of(fn: Any, batch: int = 3) -> list[Any]:
    rng = np.random.default_rng(0)
    made = []
    for v in fn.inputs:
        shape = [batch * d.factor if isinstance(d, Sym) else int(d) for d in v.type.shape]
        made.append(rng.integers(0, 4, shape) if v.type.dtype == "i64" else rng.standard_normal(shape))
    return made


def assert_same(before: Any, after: Any, entry: str) -> None:
    verify(after, "expanded")
    params, inputs = weights_of(before, entry), inputs_of(before.entry(entry))
    old, new = (Interpreter(m, params).run(entry, *inputs) for m in (before, after))
    for p, q in zip(old, new, strict=True):
        assert np.abs(p - q).max() <= 1e-10 * np.abs(p).max()


@functools.cache
def lowered_of(*overrides: str, name: str = "digits_dit") -> Any:
    spec = load_spec(name, None, list(overrides))
    lowered = lower(spec)
    return spec, lowered, optimised(lowered, spec, "expand_guidance").module


def test_golden(golden):
    parts = ["# The pass `hoist`\n"]
    for title, module in {
        "Batched guidance: rows are steps × batch, and for the null branch the steps": sampler(1),
        "Tables that do not fit are made for some of the steps at a time": sampler(1, trip=48, indexed=True),
    }.items():
        after, report = hoist_report(module, 1, 0)
        assert hoist(after, 1, 0) is after
        why = "; ".join(f"{r.kind}: {r.chunk} steps at a time, {r.why}" for r in report)
        before, after = text_from_module(module), text_from_module(cleanup(after))
        assert text_from_module(verify(module_from_text(after), "expanded")) == after
        parts.append(f"## {title}\n\n{why}\n\nBefore\n\n```\n{before}```\n\nAfter\n\n```\n{after}```\n")
    golden("passes/hoist.md", "\n".join(parts))


@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize(("trip", "limit"), [(6, 1 << 30), (48, 0)])
def test_meaning_is_kept(guided: bool, indexed: bool, trip: int, limit: int) -> None:
    before = sampler(trip=trip, guided=guided, indexed=indexed)
    after, (decision,) = hoist_report(before, 2, limit)
    assert decision.chunk >= LEAST_STEPS and (decision.chunk == trip) == bool(limit)
    assert_same(before, after, "sample")
    assert parameters(after, "sample").keys() == parameters(before, "sample").keys()


@pytest.mark.parametrize(
    "sampler_",
    [
        "sampler.steps=5",
        DDPM,
        "sampler={kind: dpm_solver_pp, steps: 5, guidance: {scale: 2.0}}",
        "sampler={kind: unipc, steps: 5, guidance: {scale: 2.0}}",
        "sampler={kind: heun, steps: 6, guidance: {scale: 2.0}}",
    ],
)
@pytest.mark.parametrize("guidance", ["batched", "sequential"])
def test_samplers(sampler_: str, guidance: str) -> None:
    _, lowered, before = lowered_of(*TINY, sampler_, f"optimize.guidance={guidance}")
    after, report = hoist_report(before, 4)
    assert any(r.kind == "steps" and r.chunk for r in report)
    assert_same(before, after, lowered.programs[0].entry)
    assert hoist(after, 4) is after, "nothing is left to do"


@pytest.mark.parametrize(("name", "data"), [("dit", "[4, 8, 8]"), ("sit", "[4, 8, 8]")])
def test_published_systems(name: str, data: str) -> None:
    """A learned variance with its noise; a flow by Heun's method."""
    small = ("backbone.width=32", "backbone.depth=2", "backbone.block.mixer.heads=2", f"data.shape={data}")
    _, lowered, before = lowered_of(*small, "data.classes=4", "sampler.steps=8", name=name)
    after, report = hoist_report(before, 4)
    assert report[0].chunk
    assert_same(before, after, lowered.programs[0].entry)


def test_tokens_stay_as_they_are() -> None:
    _, _, before = lowered_of("backbone.depth=2", name="digits_llamagen")
    assert hoist(before, 64) is before


def test_weights_read_a_step() -> None:
    """The modulation is read once before the loop for each branch, and no more in it."""
    _, lowered, before = lowered_of(*TINY, "sampler.steps=10")
    entry = lowered.programs[0].entry
    old, new = weights_read(before, entry), weights_read(hoist(before), entry)
    moved = sum(
        int(np.prod([int(n) for n in p.type.shape])) * 4
        for path, p in parameters(before, entry).items()
        if "adaLN" in path or "t_embedder" in path
    )
    assert old.loops[0].bytes - new.loops[0].bytes == moved and new.once - old.once == 2 * moved
    assert new.data()["total"] == new.once + 10 * new.loops[0].bytes and "per step × 10" in new.text()


def test_what_is_the_same_in_every_step_is_computed_once() -> None:
    _, _, before = lowered_of(*TINY, "sampler.steps=5")
    mb = ModuleBuilder(before)
    b = mb.function("constant_time")
    x, y = b.input("x", f32(B, 1, 8, 8)), b.input("y", i64(B))

    def body(b, i, kept, state, rows):
        time = b.broadcast_to(b.constant(7.0), kept[0], shape=kept[0].shape)
        return [b.call(before.entries["main.forward"], "main", state[0], time, kept[0])], []

    b.output(*b.loop("step", 3, body, invariants=[y], carried=[x]))
    mb.entries = {"constant_time": b.finish()}
    module = verify(mb.finish(), "expanded")
    after, (decision,) = hoist_report(module)
    assert (decision.kind, decision.tensors) == ("invariant", 3)
    assert_same(module, after, "constant_time")


def test_a_block_is_split_once_for_all_its_calls() -> None:
    deep = sampler(depth=40)
    splitter = Splitter(ModuleBuilder(deep), 1, steps=True)
    split = splitter.split("Net.forward", (False, True, True))
    assert split is not None and splitter.split("Net.forward", (False, True, True)) is split
    assert len(splitter.functions) == len(deep.functions) + 4, "two halves of the net and of its layer"
    assert len(splitter.functions[split.early].outputs) == 40


@pytest.mark.parametrize("mixed", [True, False])
def test_rows_that_see_each_other_stay(mixed: bool) -> None:
    """A mean over the batch is not the same over the rows of all steps."""
    mb = ModuleBuilder()
    b = mb.function("f")
    x, y = b.input("x", f32(B, 64)), b.input("y", f32(B, 64))

    def body(b, i, kept, state, rows):
        c = kept[0] * rows[0]
        if mixed:
            c = c - b.mean(c, axes=(0,), keepdims=True)
        weight = b.param("w", f32(64, 64), "normal", std=0.1)
        return [state[0] * b.linear(c, weight)], []

    b.output(*b.loop("step", 5, body, invariants=[y], carried=[x], tables=[b.constant(np.arange(5.0))]))
    mb.entries["f"] = b.finish()
    module = verify(mb.finish(), "expanded")
    assert (hoist(module, 8) is module) == mixed
    assert_same(module, hoist(module, 8), "f")


def test_a_call_with_rows_of_two_sizes_stays() -> None:
    """Rows of B and of 2 * B samples are no rows of one batch."""

    @module_class("Pair")
    def pair(b, x, both):
        return b.tanh(b.dense("fc", x, 64)), b.tanh(both)

    mb = ModuleBuilder()
    b = mb.function("f")
    x, y, both = b.input("x", f32(B, 64)), b.input("y", f32(B, 64)), b.input("both", f32(2 * B, 64))

    def body(b, i, kept, state, rows):
        h, doubled = b.sub("pair", pair, kept[0] * rows[0], kept[1] * rows[0])
        return [state[0] * b.dense("fc", h, 64)], [doubled]

    tables = [b.constant(np.arange(5.0))]
    b.output(*b.loop("step", 5, body, invariants=[y, both], carried=[x], tables=tables))
    mb.entries["f"] = b.finish()
    module = verify(mb.finish(), "expanded")
    assert_same(module, hoist(module, 8, 1 << 40), "f")


def test_an_inner_loop_is_relieved_too() -> None:
    module = sampler(1, trip=4)
    mb = ModuleBuilder(module)
    b = mb.function("outer")
    x, y = b.input("x", f32(B, 3, 32)), b.input("y", i64(B))

    def body(b, i, kept, state, rows):
        return [b.call("sample", "", state[0], kept[0])[0]], []

    b.output(*b.loop("again", 5, body, invariants=[y], carried=[x]))
    mb.entries = {"outer": b.finish()}
    module = verify(mb.finish(), "expanded")
    after, report = hoist_report(module)
    assert [r.kind for r in report if r.chunk]
    assert_same(module, after, "outer")


@pytest.mark.parametrize("form", ["unroll", "loop", "host"])
@pytest.mark.parametrize(
    ("sampler_", "limit"), [("sampler.steps=4", 1 << 30), ("sampler.steps=24", 0), (DDPM, 1 << 30)]
)
def test_engines_agree_with_the_oracle(form: str, sampler_: str, limit: int) -> None:
    spec, lowered, module = lowered_of(*TINY, sampler_)
    after, report = hoist_report(module, 8, limit)
    assert any(r.chunk for r in report)
    entry = lowered.programs[0].entry
    kinds = {path: p.kind for path, p in parameters(module, entry).items()}
    arrays = {k.removeprefix("main."): v for k, v in weights_of(module, entry).items() if kinds[k] == "weight"}
    weights = {"main": {k: Array(np.asarray(v, np.float32)) for k, v in arrays.items()}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "bundle")
        changed = replace(lowered, module=cleanup(after))
        bundle_from_lowered(changed, spec, weights, folder, spec_text=resolved_yaml(spec), form=form, max_batch=8)
        pipe = latentc_runtime.load(folder, device="cpu", threads=1)
        noise: dict[str, Any] = {}
        inputs = []
        for v in lowered.module.entry(entry).inputs:
            shape = [3 if isinstance(d, Sym) else int(d) for d in v.type.shape]
            made = np.random.default_rng(len(inputs)).standard_normal(shape).astype("f4")
            if v.name in ("x", "noise"):
                noise[v.name] = made
            inputs.append(np.array([1, 0, 7]) if v.name == "y" else np.full(3, 2.0) if v.name == "scale" else made)
        got = pipe.sample([1, 0, 7], seeds=5, guidance=2.0, noise=noise)
    params = {f"main.{k}": np.asarray(v, np.float32) for k, v in arrays.items()}
    for path, p in parameters(module, entry).items():
        if p.kind != "weight":
            shape = tuple(int(n) for n in p.type.shape)
            params[path] = INITS[p.init.kind](np.random.default_rng(0), shape, **p.init.args)
    want = Interpreter(lowered.module, params).run(entry, *inputs)[0]
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()
