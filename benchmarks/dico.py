"""One forward of DiCo against one of DiT with as many parameters, random weights, in engines at full width.

    python benchmarks/dico.py [--size S] [--batch N] [--rounds N] [--threads N] [--only TEXT]

At 256 x 256 and 512 x 512 (latents of 32 and 64), in ONNX Runtime and OpenVINO. Both take turns in one run, two calls a
turn of which the second counts. With one thread a time is that of the processor, which other programs disturb least;
with several it is that of the clock. It is the least of all rounds.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import random_weights, verdict

from latentc.export.bundle import onnx_from_network
from latentc.ir.costs import flops
from latentc.lower import lower
from latentc.pipeline import optimised
from latentc.spec import load_spec
from latentc_runtime.backends import open_backend

PAIRS = {"S": ("S", "S/2"), "B": ("B", "B/2"), "L": ("L", "L/2"), "XL": ("XL", "XL/2")}
ENGINES = (("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"))
GOAL = 1.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=PAIRS, default="S")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    for side in (32, 64):
        for engine, precision in ENGINES:
            if args.only in f"{engine} {precision}":
                _compare(args, side, engine, precision)


def _compare(args: Any, side: int, engine: str, precision: str) -> None:
    clock = time.process_time if args.threads == 1 else time.perf_counter
    with tempfile.TemporaryDirectory() as folder:
        calls: dict[str, Callable[[], Any]] = {}
        work = {}
        for name, variant in zip(("dico", "dit"), PAIRS[args.size], strict=True):
            place = Path(folder) / name
            place.mkdir()
            calls[name], work[name] = _forward(args, name, variant, side, engine, precision, place)
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(args.rounds):
            for name, call in calls.items():
                call()
                begin = clock()
                call()
                times[name].append(clock() - begin)
    best = {name: min(taken) for name, taken in times.items()}
    words = ", ".join(f"{n} {best[n] * 1e3:.1f} ms ({work[n] / 2e9:.2f} G multiply-adds)" for n in best)
    print(f"{side * 8} x {side * 8}, {engine} {precision}, batch {args.batch}: {words}", flush=True)
    print("  " + verdict("DiCo against DiT", best["dit"] / best["dico"], GOAL), flush=True)


def _forward(
    args: Any, name: str, variant: str, side: int, engine: str, precision: str, place: Path
) -> tuple[Callable[[], Any], float]:
    """A network's forward in an engine, and its floating-point operations per sample."""
    import onnx

    sizes = [f"data.shape=[4, {side}, {side}]", f"target.engine={engine}", f"target.precision={precision}"]
    spec = load_spec(name, variant, sizes)
    lowered = lower(spec)
    weights = random_weights(lowered)["main"]
    model, external = onnx_from_network(optimised(lowered, spec), "main", "forward", weights, place)
    backend = open_backend("cpu", args.threads, engine, precision)
    opened = backend.engine(model, external)
    (output,) = [o.name for o in onnx.load(str(model), load_external_data=False).graph.output]
    rng = np.random.default_rng(0)
    feed = {
        "x": rng.standard_normal((args.batch, 4, side, side)).astype(np.float32),
        "t": np.linspace(0, 999, args.batch).astype(np.float32),
        "y": np.arange(args.batch),
    }
    work = float(flops(lowered.module, lowered.networks["main"].methods["forward"].function))
    return lambda: np.array(backend.array(opened.run(feed, [output])[output])), work


if __name__ == "__main__":
    main()
