"""Samplers that draw a picture piece by piece: engines against the emitted PyTorch loop with its key-value caches.

    python benchmarks/token_samplers.py [--systems llamagen,mar,…] [--batches 1,8] [--paths eager,compiled,bf16,…]

Random weights of the real sizes (how fast it is does not depend on them), guidance as published, from the same classes,
noise and weights, without the decoder that makes pixels of the result. The paths take turns in one run, so the ratios
hold where the seconds do not. Figures are medians. `eager` is the emitted loop in PyTorch, which evaluates the networks
as their authors' code does; `compiled` has every method of its networks under torch.compile; both in fp32, or in bf16
with `-bf16`. An engine is in the form that the compiler chooses, or in that of its ending: `bf16-host`, `bf16-loop`.
MAR takes 8 steps of 5 diffusion steps each instead of 256 of 100, MaskGIT 8 instead of 32, and TarFlow has two of its
eight equal flows, so that eager is done in a minute.

`--roofline` compares the time per token with what reading the weights takes at the machine's rate of a large sum,
measured in the same run: the limit of a network that evaluates one token at a time, at batch 1.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import compile_methods, random_bundle, random_weights, turns, verdict

from latentc.lower import lower
from latentc.measure.emitted import Emitted
from latentc.spec import load_spec
from latentc.weights import materialise
from latentc_runtime import load


@dataclass(frozen=True)
class System:
    """A shipped spec, its variant and overrides; `tokens`: how many are evaluated one after the other, if so."""

    variant: str
    overrides: tuple[str, ...] = ()
    tokens: int | None = None


BARE = "data.first_stage=null"
SYSTEMS = {
    "var": System("d16", (BARE,)),
    "llamagen": System("B", (BARE,), 256),
    "mar": System("B", (BARE, "sampler.steps=8", "sampler.diffusion.respacing=5")),
    "maskgit": System("B-256", (BARE, "sampler.steps=8")),
    "tarflow": System("imagenet64-patch4", ("backbone.flows=2",)),
}
ENGINES = {
    "fp32": ["target.engine=openvino"],
    "bf16": ["target.engine=openvino", "target.precision=bf16"],
    "int8": ["target.engine=openvino", "optimize.quantize.scheme=int8_weights"],
    "int8-bf16": ["target.engine=openvino", "target.precision=bf16", "optimize.quantize.scheme=int8_weights"],
    "int4": ["target.engine=openvino", "optimize.quantize.scheme=int4_weights"],
    "onnxruntime": ["target.engine=onnxruntime"],
    "onnxruntime-int8": ["target.engine=onnxruntime", "optimize.quantize.scheme=int8_weights"],
    "onnxruntime-dynamic": ["target.engine=onnxruntime", "optimize.quantize.scheme=int8_dynamic"],
}
FORMS = ("-host", "-loop", "-unroll")
PYTORCH = {"eager", "compiled", "eager-bf16", "compiled-bf16"}
BYTES = {"fp32": 4, "bf16": 2, "int8": 1, "int4": 0.5, "dynamic": 1}
GOALS = {"eager": 2.0, "compiled": 1.3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--batches", default="1")
    parser.add_argument("--paths", default="eager,compiled,bf16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], help="as `latentc compile` takes it, for all paths")
    parser.add_argument("--roofline", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rate = _bytes_per_second() if args.roofline else None
    for name in args.systems.split(","):
        for batch in map(int, args.batches.split(",")):
            with tempfile.TemporaryDirectory() as folder:
                _measure(name, SYSTEMS[name], batch, rate, Path(folder), args)


def _measure(name: str, system: System, batch: int, rate: float | None, folder: Path, args: Any) -> None:
    spec = load_spec(name, system.variant, [*system.overrides, *args.set])
    weights = {
        f"{network}.{path}": np.array(materialise(e))
        for network, own in random_weights(lower(spec)).items()
        for path, e in own.items()
    }
    calls: dict[str, Callable[[], Any]] = {}
    paths = args.paths.split(",")
    for path in sorted(paths, key=lambda path: path in PYTORCH):  # an engine's bundle says what the inputs are
        begin = time.perf_counter()
        if path not in PYTORCH:
            engine, _, form = path.rpartition("-") if path.endswith(FORMS) else (path, "", "auto")
            overrides = [*system.overrides, *ENGINES[engine], f"target.form={form}", *args.set]
            manifest = random_bundle(folder / path, name, system.variant, overrides)
            pipe = load(folder / path, threads=args.threads, verify=False)
            request = pipe.usual_request(batch)
            calls[path] = lambda pipe=pipe, request=request: pipe.run(request)  # type: ignore[misc]
            print(f"{path}: form {manifest.programs[0].form}, {manifest.programs[0].why}")
        else:
            calls[path] = _pytorch(path, spec, weights, request)
        calls[path]()
        print(f"{path}: {time.perf_counter() - begin:.1f} s until the first sample is done", flush=True)
    seconds = {path: statistics.median(taken) for path, taken in turns(calls, args.rounds).items()}
    print(f"{name} {system.variant}, batch {batch}:")
    for path, taken in seconds.items():
        print(f"  {path:20} {taken:.3f} s", end="")
        if system.tokens:
            print(f", {1e3 * taken / system.tokens:.2f} ms a token", end="")
            if rate:
                floor = _weights_read(weights) * _bytes(path) / rate
                print(f", {floor * system.tokens / taken:.0%} of it reading weights", end="")
        print()
    best = min((path for path in seconds if path not in PYTORCH), key=seconds.__getitem__)
    for base in (path for path in seconds if path in PYTORCH):
        what = f"{name} {system.variant}, batch {batch}: {best} against the emitted loop, {base}"
        print(verdict(what, seconds[base] / seconds[best], GOALS[base.partition("-")[0]]))


def _pytorch(path: str, spec: Any, weights: dict[str, np.ndarray], request: Any) -> Callable[[], Any]:
    """The emitted networks and sampler; torch.compile replaces every method that the sampler calls."""
    lowered = lower(spec)
    emitted = Emitted(lowered, spec, weights)
    sys.modules.update(emitted.modules)  # torch.compile looks up there where the code it traces is defined
    torch._dynamo.config.capture_scalar_outputs = True  # positions are scalars, and would end a graph
    torch._dynamo.config.suppress_errors = True  # what it cannot compile (TarFlow's first token) is as it was
    how, _, precision = path.partition("-")
    if how == "compiled":
        compile_methods(emitted, lowered, torch.compile)
    program = emitted.program(request.entry)
    variables = request.variables()
    operands = [variables[i.name] for i in request.entry.inputs]

    def sample() -> Any:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            return program(operands)

    return sample


def _weights_read(weights: dict[str, np.ndarray]) -> int:
    """How many weights a step reads: all but the rows of embeddings that it looks up."""
    return sum(array.size for path, array in weights.items() if not path.endswith("embeddings.weight"))


def _bytes(path: str) -> float:
    """Bytes per weight."""
    return next((size for part, size in BYTES.items() if part in path), 4)


def _bytes_per_second() -> float:
    """What reading memory gives: the best of ten sums of 1 GB."""
    data = torch.ones(1 << 28)
    best = min(turns({"sum": lambda: data.sum()}, 10)["sum"])
    return data.nbytes / best


if __name__ == "__main__":
    main()
