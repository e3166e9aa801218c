"""LlamaGen-B, 256 tokens with guidance, batch 1: engines against the emitted PyTorch loop over key-value caches.

    python benchmarks/llamagen.py [--rounds N] [--threads N] [--paths eager,compiled,bf16,…]

Random weights of the real sizes (how fast it is does not depend on them). Every path draws all 256 tokens from the
same class and the same uniform numbers; they take turns in one run, so the ratios hold where the seconds do not.
Figures are medians. `compiled` is torch.compile of the decoding step, fp32. The share is of the time that reading the
weights a token takes at this machine's rate, which a large sum measures in the same run.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import random_bundle, random_weights, turns, verdict

from latentc.emit import project_from_lowered
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.weights import materialise
from latentc_runtime import load

TOKENS = 256
TOKENS_ALONE = ["data.first_stage=null"]  # without the decoder that makes pixels of them
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
BYTES = {"eager": 4, "compiled": 4, "fp32": 4, "bf16": 2, "int8": 1, "int8-bf16": 1, "int4": 0.5, "onnxruntime": 4}
BYTES |= {"onnxruntime-int8": 1, "onnxruntime-dynamic": 1}
GOALS = {"bf16": 2.0, "int8": 3.0, "int8-bf16": 3.0, "int4": 3.0, "onnxruntime-int8": 3.0, "onnxruntime-dynamic": 3.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--paths", default="eager,compiled,bf16")
    parser.add_argument("--set", action="append", default=[], help="as `latentc compile` takes it, for every engine")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    lowered = lower(load_spec("llamagen", "B", TOKENS_ALONE))
    weights = random_weights(lowered)
    read = sum(int(np.prod(e.shape)) for path, e in weights["main"].items() if not path.endswith("embeddings.weight"))
    u = np.random.default_rng(1).random((TOKENS, 1), np.float32)
    calls: dict[str, Callable[[], Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in args.paths.split(","):
            begin = time.perf_counter()
            make = _pytorch if name in ("eager", "compiled") else _engine
            calls[name] = make(name, lowered, weights, u, Path(folder), args)
            calls[name]()
            print(f"{name}: {time.perf_counter() - begin:.1f} s until the first sample is done", flush=True)
        rate = _bytes_per_second()
        seconds = {name: statistics.median(taken) for name, taken in turns(calls, args.rounds).items()}
    print(
        f"LlamaGen-B, {TOKENS} tokens, batch 1; weights read a token: {read / 1e6:.1f} M; memory {rate / 1e9:.1f} GB/s"
    )
    for name, taken in seconds.items():
        floor = read * BYTES[name] / rate
        share = floor * TOKENS / taken
        print(f"  {name:12} {taken:.3f} s, {1e3 * taken / TOKENS:.2f} ms a token, {share:.0%} of it reading weights")
    for base in ("eager", "compiled"):
        for name, goal in GOALS.items():
            if base in seconds and name in seconds:
                print(verdict(f"{name} against the emitted loop, {base} fp32", seconds[base] / seconds[name], goal))


def _pytorch(name: str, lowered: Any, weights: Any, u: np.ndarray, folder: Path, args: Any) -> Callable[[], Any]:
    """The emitted project as its user runs it, one for each path: torch.compile replaces a method."""
    project_from_lowered(lowered, load_spec("llamagen", "B", TOKENS_ALONE), folder / name)
    sys.path.insert(0, str(folder / name))
    for module in ("model", "sampler"):
        sys.modules.pop(module, None)
    model, sampler = importlib.import_module("model"), importlib.import_module("sampler")
    sys.path.pop(0)
    made, nets = sampler.PROGRAMS["sample"][TOKENS], []
    for network in made.networks:
        net = model.NETWORKS[network]().eval()
        own = {path: torch.from_numpy(np.array(materialise(weights[network][path]))) for path in net.state_dict()}
        net.load_state_dict(own)
        nets.append(net)
    if name == "compiled":
        nets[0].decode = torch.compile(nets[0].decode)
    inputs = (torch.tensor([1]), torch.tensor([2.0]), torch.from_numpy(u))

    def sample() -> np.ndarray:
        with torch.inference_mode():
            result: np.ndarray = made.sample(*nets, *inputs).numpy()
        return result

    return sample


def _engine(name: str, lowered: Any, weights: Any, u: np.ndarray, folder: Path, args: Any) -> Callable[[], Any]:
    manifest = random_bundle(folder / name, "llamagen", "B", [*TOKENS_ALONE, *ENGINES[name], *args.set])
    print(f"{name}: form {manifest.programs[0].form}, {manifest.programs[0].why}")
    pipe = load(folder / name, threads=args.threads, verify=False)
    return lambda: pipe.sample([1], guidance=2.0, noise={"u": u})


def _bytes_per_second() -> float:
    """What reading memory gives: the best of ten sums of 1 GB."""
    data = torch.ones(1 << 28)
    best = min(turns({"sum": lambda: data.sum()}, 10)["sum"])
    return data.nbytes / best


if __name__ == "__main__":
    main()
