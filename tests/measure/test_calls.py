"""Calls of networks are found and shown in the order they happen, in nested loops and of several networks."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from latentc.ir.builder import B, ModuleBuilder, f32, i64, module_class
from latentc.ir.core import Module
from latentc.ir.interpret import Interpreter
from latentc.ir.verify import verify
from latentc.measure.calls import Call, Watched, calls_of, operands_shown, spread

METHODS = {"Outer.forward": "forward", "Inner.step": "step"}
TRIPS = 5, 3


@module_class("Outer")
def outer(b, x, t):
    return x * 0.5 + t


@module_class("Inner", "step")
def inner(b, x, place):
    return x + b.cast(place, to="f32")


def nested() -> Module:
    """`main` once per trip of a loop, and `head` once per trip of a loop inside that; then `main` once more."""
    mb = ModuleBuilder()
    fn = mb.define(outer, [f32(B, 2), f32()], {})
    step = mb.define(inner, [f32(B, 2), i64()], {})

    def within(b, i, kept, state, rows):
        return (b.call(step, "head", b.add(state[0], rows[0]), i),), (state[0],)

    def body(b, i, kept, state, rows):
        x = b.call(fn, "main", state[0], rows[0])
        table = b.constant(np.arange(3.0))
        last, stack = b.loop("within", TRIPS[1], within, carried=[x], tables=[table])
        return (last,), (b.sum(stack, axes=(0,), keepdims=False),)

    b = mb.function("sample")
    x = b.input("x", f32(B, 2))
    last, stack = b.loop("body", TRIPS[0], body, carried=[x], tables=[b.constant(np.linspace(0, 1, TRIPS[0]))])
    b.output(b.call(fn, "main", last, b.constant(2.0)), stack)
    mb.entries["sample"] = b.finish()
    return verify(mb.finish(), "expanded")


def expected(x: np.ndarray) -> tuple[list[np.ndarray], dict[str, list[tuple[np.ndarray, float]]]]:
    """Results of `nested`, and the operands of each network's calls."""
    found: dict[str, list[tuple[np.ndarray, float]]] = {"main.forward": [], "head.step": []}
    stacks = []
    for t in np.linspace(0, 1, TRIPS[0]):
        found["main.forward"].append((x, t))
        x = x * 0.5 + t
        stacks.append(np.zeros_like(x))
        for i in range(TRIPS[1]):
            stacks[-1] = stacks[-1] + x
            found["head.step"].append((x + i, i))
            x = x + i + i
    found["main.forward"].append((x, 2.0))
    return [x * 0.5 + 2.0, np.stack(stacks)], found


def test_calls_come_in_the_order_they_happen() -> None:
    calls = calls_of(nested(), "sample", METHODS)
    assert [call.path for call in calls] == sorted(call.path for call in calls)
    assert [call.entry for call in calls] == [*["main.forward", *["head.step"] * 3] * 5, "main.forward"]


def test_watching_sees_the_same_calls() -> None:
    module, x = nested(), np.array([[1.0, -2.0], [0.25, 3.0]])
    seen: list[tuple[Call, list[np.ndarray]]] = []
    watched = Watched(module, METHODS, {}, lambda call, xs: seen.append((call, list(xs))))
    outs = watched.run("sample", x)
    results, operands = expected(x)
    for got, want in zip(outs, results, strict=True):
        np.testing.assert_allclose(got, want)
    assert [call for call, _ in seen] == calls_of(module, "sample", METHODS)
    for entry, found in operands.items():
        for (_, got), want in zip([pair for pair in seen if pair[0].entry == entry], found, strict=True):
            for a, b in zip(got, want, strict=True):
                np.testing.assert_allclose(a, b)


def test_a_loop_that_ends_early_makes_fewer_calls() -> None:
    mb = ModuleBuilder()
    fn = mb.define(outer, [f32(B, 2), f32()], {})

    def body(b, i, kept, state, rows):
        return (b.call(fn, "main", state[0], b.constant(0.0)), b.greater(i, 1)), ()

    b = mb.function("sample")
    x, _ = b.loop("body", 5, body, carried=[b.input("x", f32(B, 2)), b.constant(False)], until=1)
    b.output(b.call(fn, "main", x, b.constant(2.0)))
    mb.entries["sample"] = b.finish()
    module, seen = verify(mb.finish(), "expanded"), list[Call]()
    Watched(module, METHODS, {}, lambda call, xs: seen.append(call)).run("sample", np.ones((1, 2)))
    every = calls_of(module, "sample", METHODS)
    assert (len(every), seen) == (6, [*every[:3], every[-1]])


def test_engines_make_calls_in_place_of_the_interpreter() -> None:
    engines = {"head.step": lambda xs: [0.0 * xs[0]]}
    last, _ = Watched(nested(), METHODS, {}, lambda *call: None, engines).run("sample", np.ones((1, 2)))
    np.testing.assert_allclose(last, 2.0)


@pytest.mark.parametrize("count", [1, 2, 4, 100])
def test_operands_are_those_of_the_chosen_calls(count: int) -> None:
    module = nested()
    chosen = spread(calls_of(module, "sample", METHODS), count)
    shown = verify(operands_shown(module, "sample", chosen), "expanded")
    x = np.array([[1.0, -2.0], [0.25, 3.0]])
    results, operands = expected(x)
    outs = Interpreter(shown).run("sample", x)
    for got, want in zip(outs, results, strict=False):
        np.testing.assert_allclose(got, want)
    rest = iter(outs[len(results) :])
    for entry, all_of_it in operands.items():
        places = sorted({round(i) for i in np.linspace(0, len(all_of_it) - 1, min(count, len(all_of_it)))})
        operands[entry] = [all_of_it[i] for i in places]
    queues = {entry: iter(found) for entry, found in operands.items()}
    for call in chosen:
        for want in next(queues[call.entry]):
            np.testing.assert_allclose(next(rest), want)
    assert not list(rest) and not any(list(queue) for queue in queues.values())


def test_nothing_is_stacked_over_the_steps() -> None:
    """Each operand that is shown has the shape it has in the call."""
    module = nested()
    chosen = spread(calls_of(module, "sample", METHODS), 3)
    shapes = partial(map, lambda v: v.type.rank)
    assert set(shapes(operands_shown(module, "sample", chosen).entry("sample").outputs[2:])) == {0, 2}
