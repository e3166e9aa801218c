"""One forward of DiT-S/2 at batch 8, random weights, its blocks quantised: every scheme of both CPU engines.

    python benchmarks/quantised.py [--engine NAME] [--rounds N] [--threads N]

All paths take turns in one run; times are the least of all rounds. Scales of activations are made up, so figures are
of time alone; how good samples are is what `latentc compile` measures.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from common import turns, verdict

from latentc.checkpoint import buffer, computed, network_params
from latentc.engines import ENGINES
from latentc.export.bundle import onnx_from_network
from latentc.ir.core import own_parameters
from latentc.lower import lower
from latentc.passes.quantize import LARGEST, LayerQuant, Quantization, fits, quantizable
from latentc.pipeline import optimised
from latentc.spec import load_spec
from latentc.weights import Array, Expr
from latentc_runtime.backends import open_backend

BATCH = 8
REACH = 5.0  # of every activation, made up
# engine -> the precision that is timed, and how many times as fast int8 is to be
GOALS = {"onnxruntime": ("fp32", 2.0), "openvino": ("bf16", 1.25)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=list(GOALS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    feed = {
        "x": rng.standard_normal((BATCH, 4, 32, 32)).astype(np.float32),
        "t": np.linspace(0, 999, BATCH).astype(np.float32),
        "y": np.arange(BATCH),
    }
    for engine in [args.engine] if args.engine else GOALS:
        precision, goal = GOALS[engine]
        with tempfile.TemporaryDirectory() as folder:
            calls = {
                scheme: _call(engine, precision, scheme, Path(folder) / scheme, feed, args.threads)
                for scheme in (precision, *ENGINES[engine].quantised.schemes)
            }
            for call in calls.values():  # opens, allocates, warms up
                call()
            times = turns(calls, args.rounds)
        least = {name: min(taken) for name, taken in times.items()}
        print(f"DiT-S/2, batch {BATCH}, {engine}")
        for name, taken in least.items():
            print(f"  {name:14} {taken:.4f} s  {least[precision] / taken:.2f} ×")
        print(verdict(f"{engine}: int8 against {precision}", least[precision] / least["int8"], goal))


def _call(
    engine: str, precision: str, scheme: Any, folder: Path, feed: dict[str, Any], threads: int
) -> Callable[[], Any]:
    spec = load_spec("dit", "S/2", [f"target={{engine: {engine}, precision: {precision}}}"])
    lowered = lower(spec)
    layers = quantizable(optimised(lowered, spec, "tidy").module) if scheme in ENGINES[engine].quantised.schemes else {}
    chosen = [path for path, layer in layers.items() if ".blocks." in path and fits(layer, scheme, engine)]
    chosen = [path for path in chosen if ".adaLN" not in path]
    quantization = Quantization({path: LayerQuant(scheme) for path in chosen})
    made = optimised(lowered, spec, None, quantization)
    rng = np.random.default_rng(0)
    weights: dict[str, Expr] = {}
    for path, param in network_params(lowered, lowered.networks["main"]).items():
        shape = [int(d) for d in param.type.shape]  # type: ignore[arg-type]
        random = Array((rng.standard_normal(shape) * 0.03).astype(np.float32))
        weights[path] = buffer(param) if computed(param) else random
    for path, param in own_parameters(made.module, made.module.entries["main.forward"]).items():
        if param.kind == "calibrated":
            weights[path] = Array(np.float32(REACH / LARGEST[scheme]))
    folder.mkdir()
    model, external = onnx_from_network(made, "main", "forward", weights, folder, spec.target.opset)
    opened = open_backend("cpu", threads, engine, precision).engine(model, external)
    (output,) = [o.name for o in onnx.load(str(model), load_external_data=False).graph.output]
    return lambda: opened.run(feed, [output])


if __name__ == "__main__":
    main()
