"""One forward of a network, random weights, its blocks quantised: every scheme of both CPU engines.

    python benchmarks/quantised.py [--engine NAME] [--rounds N] [--threads N] [--batch N]
        [--spec dit] [--variant S/2] [--set A.B=VALUE …] [--schemes int8 …]

All paths take turns in one run; times are the least of all rounds, on one thread those of the processor, so that other
work does not count. Scales of activations are made up, so figures are of time alone; how good samples are is what
`latentc compile` measures.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from common import feed_of, turns, verdict

from latentc.checkpoint import buffer, computed, network_params
from latentc.engines import ENGINES
from latentc.export.bundle import onnx_from_network
from latentc.ir.core import own_parameters
from latentc.lower import lower
from latentc.passes.quantize.forms import fits
from latentc.passes.quantize.plan import LARGEST, Layer, LayerQuant, Quantization, quantizable
from latentc.pipeline import optimised
from latentc.spec import load_spec
from latentc.weights import Array, Expr
from latentc_runtime.backends import open_backend

REACH = 5.0  # of every activation, made up
# engine -> the precision that is timed, and how many times as fast int8 is to be
GOALS = {"onnxruntime": ("fp32", 2.0), "openvino": ("bf16", 1.25)}


@dataclass(frozen=True)
class Case:
    """What is timed."""

    spec: str
    variant: str | None
    overrides: tuple[str, ...]
    batch: int
    threads: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=list(GOALS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--spec", default="dit")
    parser.add_argument("--variant", help="of the spec; of dit S/2 if left out")
    parser.add_argument("--set", nargs="+", default=[], metavar="A.B=VALUE", help="overrides of the spec")
    parser.add_argument("--schemes", nargs="+", help="all by default")
    args = parser.parse_args()
    variant = args.variant or ("S/2" if args.spec == "dit" else None)
    case = Case(args.spec, variant, tuple(args.set), args.batch, args.threads)
    clock = time.process_time if args.threads == 1 else time.perf_counter
    for engine in [args.engine] if args.engine else GOALS:
        precision, goal = GOALS[engine]
        schemes = args.schemes or ENGINES[engine].quantised.schemes
        with tempfile.TemporaryDirectory() as folder:
            calls = {
                scheme: _call(case, engine, precision, scheme, Path(folder) / scheme)
                for scheme in (precision, *schemes)
            }
            for call in calls.values():  # opens, allocates, warms up
                call()
            times = turns(calls, args.rounds, clock=clock)
        least = {name: min(taken) for name, taken in times.items()}
        print(f"{case.spec} {case.variant or ''} {' '.join(case.overrides)}, batch {case.batch}, {engine}")
        for name, taken in least.items():
            print(f"  {name:14} {taken:.4f} s  {least[precision] / taken:.2f} ×")
        if "int8" in least:
            print(verdict(f"{engine}: int8 against {precision}", least[precision] / least["int8"], goal), flush=True)


def _call(case: Case, engine: str, precision: str, scheme: Any, folder: Path) -> Callable[[], Any]:
    target = f"target={{engine: {engine}, precision: {precision}}}"
    spec = load_spec(case.spec, case.variant, [*case.overrides, target])
    lowered = lower(spec)
    layers = quantizable(optimised(lowered, spec, "tidy").module) if scheme in ENGINES[engine].quantised.schemes else {}
    # Of the blocks: layers of one row per sample are little work, and the first and last layers are kept as they are.
    chosen = [path for path, layer in layers.items() if fits(layer, scheme, engine) and _of_blocks(path, layer)]
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
    opened = open_backend("cpu", case.threads, engine, precision).engine(model, external)
    outputs = [o.name for o in onnx.load(str(model), load_external_data=False).graph.output]
    ports = lowered.networks["main"].methods["forward"].inputs
    feed = feed_of(ports, {port.name for port in ports if port.role == "time"}, case.batch)
    return lambda: opened.run(feed, outputs)


def _of_blocks(path: str, layer: Layer) -> bool:
    """True for layers that see many rows per sample, but for those that a sample enters and leaves by."""
    outer = ("embedder", "final", "enter", "outputs.")
    return all(site.value.type.rank > 2 for site in layer.sites) and not any(word in path for word in outer)


if __name__ == "__main__":
    main()
