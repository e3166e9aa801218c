"""Loops, guidance and host programs of small modules built by hand, through ONNX Runtime and the runtime's program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from onnx_runs import array, assert_close, host_program, module_of, run_host, run_onnx, weights_of

from latentc.export.forms import without_early_ends
from latentc.ir.builder import Builder, ModuleBuilder, Var, module_class
from latentc.ir.core import Module, parameters
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B, f32, i64
from latentc.ir.verify import verify
from latentc.passes.expand_guidance import expand_guidance
from latentc_runtime.backends.onnxruntime import OnnxRuntime, OrtEngine
from latentc_runtime.manifest import RESULT, EngineCall, Loop, Rows
from latentc_runtime.program import run_program, ticks


@module_class("Net")
def net(b: Builder, x: Var, y: Var, *, width: int) -> Any:
    """A layer conditioned on the class."""
    c = b.embedding(b.param("y.weight", f32(11, width), "normal", std=0.5), y)
    return b.dense("out", b.silu(x + c), width) + x


@module_class("Pair", "decode")
def pair(b: Builder, x: Var, y: Var, cache: Var, *, width: int) -> Any:
    """A layer with a cache that grows: returns two tensors to guide and the cache."""
    c = b.embedding(b.param("y.weight", f32(11, width), "normal", std=0.5), y)
    new = cache * 0.5 + b.dense("cache", x + c, width)
    return b.dense("out", new, width), x + b.mean(new, axes=(1,), keepdims=True), new


def guided_loop(channels: int | None = None) -> Module:
    """Five steps with guidance, a table, per-step noise and a stacked result."""
    mb = ModuleBuilder()
    fn = mb.define(net, [f32(B, 8), i64(B)], {"width": 8})

    def build(b: Builder, x: Var, y: Var, scale: Var, noise: Var) -> Any:
        null = b.full(y, shape=(), value=10, dtype="i64")

        def body(b: Builder, i: Var, kept: Any, state: Any, rows: Any) -> Any:
            (y, null, scale), (x,), (a, z) = kept, state, rows
            e = b.guided(fn, "main", [x, y], ["shared", "conditional"], [null], scale, channels=channels)
            x = x * a + e * 0.1 + z * b.cast(i, to="f32")
            return [x], [b.mean(x, axes=(1,), keepdims=False)]

        tables = [b.constant(np.linspace(1, 0.1, 5)), noise]
        x, stacked = b.loop("step", 5, body, invariants=[y, null, scale], carried=[x], tables=tables)
        return b.concat(x, b.transpose(stacked, perm=(1, 0)), axis=1)

    return module_of((f32(B, 8), i64(B), f32(B), f32(5, B, 8)), build, mb)


def inputs_of(module: Module) -> list[Any]:
    rng = np.random.default_rng(3)
    return [
        array(v.type, 0 if v.type.dtype == "i64" else -1, 9 if v.type.dtype == "i64" else 1, rng)
        for v in module.entry("main").inputs
    ]


@pytest.mark.parametrize("mode", ["batched", "sequential"])
@pytest.mark.parametrize("channels", [None, 3])
def test_guided_loop_in_every_form(mode: Any, channels: int | None) -> None:
    module, weights = guided_loop(channels), weights_of(parameters(guided_loop(), "main"))
    inputs = inputs_of(module)
    want = Interpreter(module, weights).run("main", *inputs)[0]
    expanded = verify(expand_guidance(module, mode), "expanded")
    for unroll in (False, True):
        assert_close(run_onnx(expanded, inputs, unroll=unroll, weights=weights)[0], want)
    assert_close(run_host(expanded, inputs, {"x3": 5}, weights), want)


def test_control_other_guidance_is_found() -> None:
    module = guided_loop()
    weights = weights_of(parameters(module, "main"))
    inputs = inputs_of(module)
    want = Interpreter(module, weights).run("main", *inputs)[0]
    off = run_onnx(expand_guidance(module, "off"), inputs, weights=weights)[0]
    assert np.abs(off - want).max() > 1e-3 * np.abs(want).max()
    inputs[2] = np.ones_like(inputs[2])  # at scale 1 the conditional branch is all there is
    assert_close(off, Interpreter(module, weights).run("main", *inputs)[0])


@pytest.mark.parametrize("mode", ["batched", "sequential"])
def test_two_guided_outputs_and_a_carried_cache(mode: Any) -> None:
    mb = ModuleBuilder()
    fn = mb.define(pair, [f32(B, 4), i64(B), f32(B, 4)], {"width": 4})

    def build(b: Builder, x: Var, y: Var, scale: Var) -> Any:
        null = b.full(y, shape=(), value=10, dtype="i64")
        cache = b.full(y, shape=(4,), value=0.0, dtype="f32", factor=2)

        def body(b: Builder, i: Var, kept: Any, state: Any, rows: Any) -> Any:
            (y, null, scale), (x, cache) = kept, state
            kinds, guides = ["shared", "conditional", "carried"], ["guided", "guided", "carried"]
            u, v, cache = b.guided(fn, "main", [x, y, cache], kinds, [null], scale, guides)
            return [u * 0.5 + v * 0.5, cache], []

        return b.loop("step", 4, body, invariants=[y, null, scale], carried=[x, cache])

    module = module_of((f32(B, 4), i64(B), f32(B)), build, mb)
    weights, inputs = weights_of(parameters(module, "main")), inputs_of(module)
    want = Interpreter(module, weights).run("main", *inputs)
    expanded = verify(expand_guidance(module, mode), "expanded")
    for got, expected in zip(run_onnx(expanded, inputs, weights=weights), want, strict=True):
        assert_close(got, expected)


def nested() -> Module:
    """A loop of 2 around one of 3: outer state, inner state that starts anew, noise counted through both."""

    def build(b: Builder, x: Var, y: Var, noise: Var) -> Any:
        grouped = b.reshape(noise, shape=(2, 3, B, 4))
        zeros = x * 0.0

        def outer(b: Builder, i: Var, kept: Any, state: Any, rows: Any) -> Any:
            (zeros, y), (x,), (z, a) = kept, state, rows

            def inner(b: Builder, j: Var, kept: Any, state: Any, rows: Any) -> Any:
                (x, _, a), (h, g), (z, k) = kept, state, rows
                h = b.sin(h + x * k + z * a) + b.cast(j, to="f32")
                return [h, h + g], [b.sum(h, axes=(1,), keepdims=False)]

            ks = b.constant([0.1, 0.2, 0.3])
            h, g, sums = b.loop("inner", 3, inner, invariants=[x, y, a], carried=[zeros, zeros], tables=[z, ks])
            return [x + h + g + b.reshape(b.sum(sums, axes=(0,), keepdims=False), shape=(B, 1)) + zeros], []

        (x,) = b.loop("outer", 2, outer, invariants=[zeros, y], carried=[x], tables=[grouped, b.constant([0.5, 0.7])])
        return b.tanh(x + zeros)

    return module_of((f32(B, 4), i64(B), f32(6, B, 4)), build)


def test_nested_loops_in_every_form() -> None:
    module = nested()
    inputs = inputs_of(module)
    (want,) = Interpreter(module).run("main", *inputs)
    for unroll in (False, True):
        assert_close(run_onnx(module, inputs, unroll=unroll)[0], want)
    assert_close(run_host(module, inputs, {"x2": 6}), want)


def test_nested_noise_is_made_a_step_at_a_time() -> None:
    program, _ = host_program(nested(), {"x2": 6})
    (outer,) = [s for s in program if isinstance(s, Loop)]
    (inner,) = [s for s in outer.body if isinstance(s, Loop)]
    assert not outer.noise and list(inner.noise.values()) == [Rows("x2", 0, (3, 1))]
    read = {v for s in (*program, *outer.body, *inner.body) if isinstance(s, EngineCall) for v in s.inputs.values()}
    assert "x2" not in read


@pytest.mark.parametrize("made", ["nothing", "noise", "cache"])
def test_a_loop_inside_a_step_stays_in_its_engine_unless_something_is_made_step_by_step(made: str) -> None:
    def build(b: Builder, x: Var, noise: Var) -> Any:
        def outer(b: Builder, i: Var, kept: Any, state: Any, rows: Any) -> Any:
            def inner(b: Builder, j: Var, kept: Any, state: Any, rows: Any) -> Any:
                (x,), (h, cache) = kept, state
                if made == "cache":
                    cache = b.update_slice(cache, b.reshape(h, shape=(B, 1, 4)), j, axis=1)
                return [b.sin(h + x * rows[0] + b.cast(j, to="f32")) + rows[1], cache], []

            cache = b.full(state[0], shape=(3, 4), value=0.0, dtype="f32")
            z = rows[0] if made == "noise" else b.constant(np.ones((3, 1)))
            tables = [b.constant([0.1, 0.2, 0.3]), z]
            h, cache = b.loop("inner", 3, inner, invariants=state, carried=[state[0] * 0.0, cache], tables=tables)
            return [h + b.sum(cache, axes=(1,), keepdims=False)], []

        return b.loop("outer", 2, outer, carried=[x], tables=[b.reshape(noise, shape=(2, 3, B, 4))])[0]

    module = module_of((f32(B, 4), f32(6, B, 4)), build)
    program, _ = host_program(module, {"x1": 6})
    (outer,) = [s for s in program if isinstance(s, Loop)]
    assert any(isinstance(s, Loop) for s in outer.body) == (made != "nothing")
    inputs = inputs_of(module)
    assert_close(run_host(module, inputs, {"x1": 6}), Interpreter(module).run("main", *inputs)[0])


def test_loops_in_a_row_share_and_keep_their_inputs() -> None:
    """The first state is an input that is read again at the end; states swap; one is never changed."""

    def build(b: Builder, x: Var, noise: Var) -> Any:
        def body(b: Builder, i: Var, kept: Any, state: Any, rows: Any) -> Any:
            (x, last, still), (z,) = state, rows
            return [last * 0.5 + z, x, still], []

        first, last, still = b.loop("a", 3, body, carried=[x, x, x], tables=[noise])
        twice = first + last
        second, _, _ = b.loop("b", 3, body, carried=[twice, first, still], tables=[noise])
        return second + x + still + twice

    module = module_of((f32(B, 4), f32(3, B, 4)), build)
    inputs = inputs_of(module)
    (want,) = Interpreter(module).run("main", *inputs)
    assert_close(run_onnx(module, inputs)[0], want)
    assert_close(run_host(module, inputs, {"x1": 3}), want)


def grouped() -> Module:
    """Noise of 9 rows: one left out, three groups of a row and another, two rows of a loop on its own, one over."""

    def build(b: Builder, x: Var, noise: Var) -> Any:
        def step(b: Builder, i: Var, kept: Any, state: Any, rows: Any) -> Any:
            (x,) = state
            for k, z in enumerate(rows, start=1):
                x = b.sin(x * 0.5 + z * (0.3 * k))
            return [x], []

        pairs = b.reshape(b.slice(noise, axis=0, start=1, stop=7), shape=(3, 2, B, 4))
        tables = [b.reshape(b.slice(pairs, axis=1, start=k, stop=k + 1), shape=(3, B, 4)) for k in (0, 1)]
        (x,) = b.loop("pairs", 3, step, carried=[x], tables=tables)

        def outer(b: Builder, i: Var, kept: Any, state: Any, rows: Any) -> Any:
            return b.loop("inner", 2, step, carried=state, tables=rows), []

        last = b.reshape(b.slice(noise, axis=0, start=6, stop=8), shape=(1, 2, B, 4))
        return b.loop("outer", 1, outer, carried=[x], tables=[last])[0]

    return module_of((f32(B, 4), f32(9, B, 4)), build)


def test_parts_of_noise_are_made_a_step_at_a_time() -> None:
    module = grouped()
    program, _ = host_program(module, {"x1": 9})
    pairs, outer = [s for s in program if isinstance(s, Loop)]
    assert list(pairs.noise.values()) == [Rows("x1", 1, (2,)), Rows("x1", 2, (2,))]
    (inner,) = [s for s in outer.body if isinstance(s, Loop)]
    assert not outer.noise and list(inner.noise.values()) == [Rows("x1", 6, (0, 1))]
    inputs = inputs_of(module)
    (want,) = Interpreter(module).run("main", *inputs)
    assert_close(run_host(module, inputs, {"x1": 9}), want)
    inputs[1][2] += 1  # a control: the rows matter
    assert np.abs(run_host(module, inputs, {"x1": 9}) - want).max() > 1e-3


def test_a_part_of_the_noise_and_a_large_table() -> None:
    big = np.random.default_rng(0).standard_normal((3, 100, 64))

    def build(b: Builder, x: Var, noise: Var) -> Any:
        def body(b: Builder, i: Var, kept: Any, state: Any, rows: Any) -> Any:
            (x,), (z, table) = state, rows
            return [x * 0.5 + z + b.slice(b.slice(table, axis=0, start=0, stop=1), axis=1, start=0, stop=4)], []

        rest = b.slice(noise, axis=0, start=1, stop=4)
        return b.loop("a", 3, body, carried=[x], tables=[rest, b.constant(big)])

    module = module_of((f32(B, 4), f32(4, B, 4)), build)
    inputs = inputs_of(module)
    (want,) = Interpreter(module).run("main", *inputs)
    assert_close(run_host(module, inputs, {"x1": 4}), want)


@pytest.mark.parametrize("unroll", [False, True])
def test_results_that_no_node_makes(unroll: bool) -> None:
    """An input, a constant, one value twice: each is a result of its own."""

    def build(b: Builder, x: Var) -> Any:
        def body(b: Builder, i: Var, kept: Any, state: Any, rows: Any) -> Any:
            (k,), (_, h) = kept, state
            return [h, k], [i, b.constant(2.0), h, h]

        y = b.tanh(x)
        return [x, b.constant([1.0, 2.0]), y, y, *b.loop("a", 2, body, invariants=[y], carried=[x, y])]

    module = module_of((f32(B, 4),), build)
    inputs = inputs_of(module)
    for got, want in zip(
        run_onnx(module, inputs, unroll=unroll), Interpreter(module).run("main", *inputs), strict=True
    ):
        assert_close(got, want)


def test_a_constant_result_and_no_loop_by_the_host() -> None:
    for build in (lambda b, x: b.tanh(x), lambda b, x: x, lambda b, x: b.constant([1.0])):
        module = module_of((f32(B, 4),), build)
        inputs = inputs_of(module)
        assert_close(run_host(module, inputs), Interpreter(module).run("main", *inputs)[0])


@pytest.mark.parametrize("read", ["grown", "before", "carried on"])
def test_a_cache_is_written_in_place_where_only_its_growth_is_read(read: str) -> None:
    def build(b: Builder, x: Var) -> Any:
        def body(b: Builder, i: Var, kept: Any, state: Any, rows: Any) -> Any:
            x, cache, last = state
            grown = b.update_slice(cache, b.reshape(x, shape=(B, 1, 8)), i, axis=1)
            seen = b.sum(cache if read == "before" else grown, axes=(1,), keepdims=False)
            return [x * 0.5 + seen * 0.1, grown, cache if read == "carried on" else last], []

        zeros = b.full(x, shape=(4, 8), value=0.0, dtype="f32")
        outs = b.loop("step", 4, body, carried=[x, zeros, zeros])
        return b.concat(outs[0], b.reshape(outs[1] + outs[2], shape=(B, 32)), axis=1)

    module = module_of((f32(B, 8),), build)
    program, models = host_program(module, {})
    (loop,) = (s for s in program if isinstance(s, Loop))
    (call,) = loop.body
    assert isinstance(call, EngineCall) and bool(call.shared) == (read == "grown")
    (x,) = inputs_of(module)
    want = Interpreter(module).run("main", x)[0]
    backend, places = OnnxRuntime("cpu", 1), set()

    class Spy:
        def __init__(self, session: Any) -> None:
            self.engine = OrtEngine(backend, "step", session)

        def run(self, inputs: Any, outputs: Any, shared: Any) -> Any:
            made = self.engine.run(inputs, outputs, shared)
            places.update((made[o].data_ptr(), inputs[i].data_ptr()) for o, i in shared.items())
            return made

    engines = {name: Spy(model.session) for name, model in models.items()}
    (name,) = (v.name for v in module.entry("main").inputs)
    feeds = {name: backend.value(np.asarray(x, np.float32))}
    run = run_program(program, feeds, engines.__getitem__, lambda name, i: feeds[name], lambda: None)
    assert_close(backend.array(run[RESULT]), np.asarray(want))
    assert all(after == before for after, before in places) and len(places) == (read == "grown")


def test_a_loop_that_may_end_early() -> None:
    """Each sample is doubled until it exceeds its bound: 4 of 9 steps for the last one."""

    def body(b: Builder, i: Var, kept: Any, carried: Any, rows: Any) -> Any:
        (bound,), (x, _) = kept, carried
        x = b.where(b.greater(x, bound), x, x * 2.0)
        left = b.max(bound - x, axes=(0,), keepdims=False)
        return (x, b.less(left, 0.0)), ()

    def build(b: Builder, x: Var, bound: Var) -> Var:
        done = b.constant(False)
        return b.loop("double", 9, body, invariants=[bound], carried=[x, done], names=["x", "done"], until=1)[0]

    module = module_of([f32(B), f32(B)], build)
    inputs = np.array([1.0, 3.0, 1.0]), np.array([1.5, 40.0, 4.5])
    want = [2.0, 48.0, 8.0]
    (node,) = (n for n in module.entry("main").nodes if n.op == "loop")
    assert node.attrs["until"] == 1
    for one in (module, without_early_ends(module)):
        for unroll in (False, True):
            np.testing.assert_array_equal(run_onnx(one, [x.astype(np.float32) for x in inputs], unroll=unroll)[0], want)
        np.testing.assert_array_equal(Interpreter(one).run("main", *inputs)[0], want)
    program, engines = host_program(module, {})
    (loop,) = (s for s in program if isinstance(s, Loop))
    steps = [engines[s.file] for s in loop.body if isinstance(s, EngineCall)]
    runs, told = count_runs(steps), [0]

    def tick() -> None:
        told[0] += 1

    feeds = {v.name: x for v, x in zip(module.entry("main").inputs, inputs, strict=True)}
    run = run_program(program, feeds, engines.__getitem__, lambda name, i: 0, tick)
    np.testing.assert_array_equal(run[RESULT], want)
    assert len(runs) == 4 and told[0] == ticks(program) == 9  # of the steps left out, too


def count_runs(engines: Sequence[Any]) -> list[int]:
    """A list that grows with each run of the engines."""
    runs: list[int] = []
    for engine in engines:

        def counted(*given: Any, run: Any = engine.run) -> Any:
            runs.append(1)
            return run(*given)

        engine.run = counted
    return runs
