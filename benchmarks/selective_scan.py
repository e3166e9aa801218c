"""The selective scan of one direction of a DiS block: forms for engines against each other, and against PyTorch's.

    python benchmarks/selective_scan.py [--width E] [--tokens L] [--batch B] [--rounds N]

`scan` is ONNX Scan, token by token; `chunked` is the form of latentc.ir.ops.scan, `associative` the other parallel one.
Times are the least of all rounds, which take turns; errors are relative to the sequential reference in float64.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from latentc.ir.builder import ModuleBuilder
from latentc.ir.ops import OPS, scan
from latentc.ir.types import B, f32
from latentc.measure.execute import executable
from latentc_runtime.backends import open_backend


def associative(b: Any, ins: Sequence[Any]) -> Any:
    """Doubles the span of tokens that a state includes: ceil(log2 L) steps on all tokens (Hillis and Steele 1986)."""
    x, delta, a, enter, leave = ins
    batch, length, channels = x.shape
    size, states = int(length), a.shape[1]
    column = (batch, length, channels, 1)
    decay = b.exp(b.reshape(delta, shape=column) * a)
    state = b.reshape(delta * x, shape=column) * b.reshape(enter, shape=(batch, length, 1, states))
    span = 1
    while span < size:
        earlier = b.slice(state, axis=1, start=0, stop=size - span)
        earlier = b.pad(earlier, axis=1, before=span, after=0, value=0.0)
        state = state + decay * earlier
        if 2 * span < size:
            reach = b.slice(decay, axis=1, start=0, stop=size - span)
            decay = decay * b.pad(reach, axis=1, before=span, after=0, value=1.0)
        span *= 2
    y = b.matmul(state, b.reshape(leave, shape=(batch, length, states, 1)))
    return b.reshape(y, shape=(batch, length, channels))


FORMS: dict[str, Callable[[Any, Sequence[Any]], Any]] = {
    "scan": lambda b, ins: b.selective_scan(*ins),
    "chunked": scan.chunked,
    "associative": associative,
}
NAMES = ("x", "delta", "a", "b", "c")


def module_of(form: str, width: int, tokens: int, states: int) -> Any:
    mb = ModuleBuilder()
    b = mb.function("main")
    types = (f32(B, tokens, width), f32(B, tokens, width), f32(width, states), *[f32(B, tokens, states)] * 2)
    b.output(FORMS[form](b, [b.input(name, type) for name, type in zip(NAMES, types, strict=True)]))
    mb.entries["main"] = b.finish()
    return mb.finish()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=2048, help="channels: 2048 are those of DiS-L")
    parser.add_argument("--tokens", type=int, default=258, help="258 are those of DiS at 256 x 256")
    parser.add_argument("--states", type=int, default=16)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    tokens = (args.batch, args.tokens)
    given = {
        "x": rng.standard_normal((*tokens, args.width)),
        "delta": np.exp(rng.uniform(np.log(1e-3), np.log(0.1), (*tokens, args.width))),
        "a": -np.broadcast_to(np.arange(1.0, args.states + 1), (args.width, args.states)),
        "b": rng.standard_normal((*tokens, args.states)),
        "c": rng.standard_normal((*tokens, args.states)),
    }
    (wanted,) = OPS["selective_scan"].evaluate([given[name] for name in NAMES], {})  # type: ignore[misc]
    feed = {name: array.astype(np.float32) for name, array in given.items()}
    calls = {
        (engine, form): executable(
            module_of(form, args.width, args.tokens, args.states),
            "main",
            {},
            backend=open_backend("cpu", engine=engine),
        )
        for engine in ("onnxruntime", "openvino")
        for form in FORMS
    }
    times: dict[tuple[str, str], float] = {}
    for _ in range(args.rounds):
        for key, call in calls.items():
            start = time.perf_counter()
            (out,) = call(feed)
            times[key] = min(times.get(key, np.inf), time.perf_counter() - start)
            error = np.abs(out - wanted).max() / np.abs(wanted).max()
            assert error < 1e-5, (key, error)
    for engine, form in times:
        print(f"{engine:12} {form:12} {times[engine, form] * 1e3:8.1f} ms")


if __name__ == "__main__":
    main()
