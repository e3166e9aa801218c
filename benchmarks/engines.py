"""One forward of DiT-S/2 at batch 8, random weights: this compiler's graph against PyTorch and its exporter.

    python benchmarks/engines.py [--export] [--only TEXT] [--rounds N] [--threads N]

All paths take turns in one run, two calls a turn of which the second counts, so the ratios hold where the seconds do
not. `--export` adds the emitted model through torch.onnx.export, in ONNX Runtime and OpenVINO; it needs
`pip install onnxscript`. `--only bf16` leaves out what does not have that in its name, but for PyTorch in fp32, which
errors are relative to. `torch.compile` gets weights and inputs in bf16. Times are the least of all rounds, which other
programs disturb least. The share is of the rate of PyTorch's own square matrix product in the same dtype, timed among
the others (an engine with better products passes 100 %); a multiply-add counts as 2 operations.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import turns, verdict

from latentc.checkpoint import buffer, computed, network_params
from latentc.emit.model import model_source
from latentc.export.bundle import onnx_from_network
from latentc.ir.costs import flops
from latentc.lower import lower
from latentc.measure.emitted import module_from_source
from latentc.measure.metrics import relative_error
from latentc.pipeline import optimised
from latentc.spec import load_spec
from latentc.weights import Array, materialise
from latentc_runtime.backends import open_backend

BATCH = 8
REFERENCE = "PyTorch eager fp32"
GEMM = 2048  # rows and columns of the product that gives the machine's rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--export", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        calls, work = _paths(Path(folder), args.threads, args.export)
        calls = {n: c for n, c in calls.items() if args.only in n or n == REFERENCE or n.startswith("matrix")}
        results = {name: call() for name, call in calls.items()}  # opens, allocates, warms up
        times = turns(calls, args.rounds, settled=True)
    _report(results, {name: min(taken) for name, taken in times.items()}, work)


def _paths(folder: Path, threads: int, export: bool) -> tuple[dict[str, Callable[[], Any]], float]:
    """{path: its forward}, and the floating-point operations of one."""
    spec = load_spec("dit", "S/2")
    lowered = lower(spec)
    network = lowered.networks["main"]
    rng = np.random.default_rng(0)
    weights: dict[str, Any] = {}
    for path, param in network_params(lowered, network).items():
        shape = [int(d) for d in param.type.shape]  # type: ignore[arg-type]
        random = Array((rng.standard_normal(shape) * 0.03).astype(np.float32))
        weights[path] = buffer(param) if computed(param) else random
    feed = {
        "x": rng.standard_normal((BATCH, 4, 32, 32)).astype(np.float32),
        "t": np.linspace(0, 999, BATCH).astype(np.float32),
        "y": np.arange(BATCH),
    }
    calls: dict[str, Callable[[], Any]] = {}
    for name, engine, precision in (
        ("latentc, ONNX Runtime fp32", "onnxruntime", "fp32"),
        ("latentc, OpenVINO fp32", "openvino", "fp32"),
        ("latentc, OpenVINO bf16", "openvino", "bf16"),
    ):
        target = load_spec("dit", "S/2", [f"target.engine={engine}", f"target.precision={precision}"])
        place = folder / f"{engine}-{precision}"
        place.mkdir()
        model, external = onnx_from_network(optimised(lowered, target), "main", "forward", weights, place)
        calls[name] = _engine_call(engine, precision, threads, model, external, feed)
    net = module_from_source(model_source(lowered), "model").build().eval()  # type: ignore[attr-defined]
    kept = net.state_dict()
    net.load_state_dict({k: torch.from_numpy(np.array(materialise(e))) for k, e in weights.items() if k in kept})
    tensors = tuple(torch.from_numpy(a) for a in feed.values())

    def eager() -> Any:
        with torch.inference_mode():
            return net(*tensors).numpy()

    def autocast() -> Any:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            return net(*tensors).float().numpy()

    half = copy.deepcopy(net).to(torch.bfloat16)
    compiled = torch.compile(half)
    narrow = tuple(a.to(torch.bfloat16) if a.is_floating_point() else a for a in tensors)

    def inductor() -> Any:
        with torch.inference_mode():
            return compiled(*narrow).float().numpy()

    calls[REFERENCE], calls["PyTorch eager bf16"] = eager, autocast
    calls["torch.compile bf16"] = inductor
    if export:
        place = folder / "exported.onnx"
        torch.onnx.export(net, tensors, str(place), dynamo=True, external_data=True, input_names=list(feed))
        calls["torch.onnx.export, ONNX Runtime fp32"] = _engine_call("onnxruntime", "fp32", threads, place, {}, feed)
        calls["torch.onnx.export, OpenVINO bf16"] = _engine_call("openvino", "bf16", threads, place, {}, feed)
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a = torch.randn(GEMM, GEMM).to(dtype)
        calls[f"matrix product {name}"] = lambda a=a: a @ a  # type: ignore[misc]
    return calls, float(flops(lowered.module, network.methods["forward"].function)) * BATCH


def _engine_call(
    engine: str, precision: str, threads: int, model: Path, external: dict[str, Path], feed: dict[str, Any]
) -> Callable[[], Any]:
    import onnx

    backend = open_backend("cpu", threads, engine, precision)
    opened = backend.engine(model, external)
    (output,) = [o.name for o in onnx.load(str(model), load_external_data=False).graph.output]
    return lambda: np.array(backend.array(opened.run(feed, [output])[output]))


def _report(results: dict[str, Any], seconds: dict[str, float], work: float) -> None:
    rate = {p: 2 * GEMM**3 / seconds[f"matrix product {p}"] for p in ("fp32", "bf16")}
    reference = results[REFERENCE]
    print(f"DiT-S/2, batch {BATCH}, {work / 1e9:.1f} GFLOP; PyTorch's matrix product: {_shown(rate)}")
    for name, taken in seconds.items():
        if name.startswith("matrix"):
            continue
        precision = name.split()[-1]
        error = relative_error(results[name], reference)
        print(f"  {name:38} {taken:.4f} s {work / taken / rate[precision]:4.0%} of the product, error {error:.1e}")
    goals = (
        ("latentc, ONNX Runtime fp32", "torch.onnx.export, ONNX Runtime fp32", 1.05),
        ("latentc, OpenVINO bf16", "torch.onnx.export, OpenVINO bf16", 1.2),
        ("latentc, OpenVINO bf16", "PyTorch eager bf16", 1.5),
        ("latentc, OpenVINO bf16", "torch.compile bf16", 1.5),
        ("latentc, OpenVINO fp32", "PyTorch eager fp32", 1.0),
    )
    for ours, theirs, goal in goals:
        if ours in seconds and theirs in seconds:
            print(verdict(f"{ours} against {theirs}", seconds[theirs] / seconds[ours], goal))


def _shown(rate: dict[str, float]) -> str:
    return ", ".join(f"{name} {value / 1e12:.2f} TFLOP/s" for name, value in rate.items())


if __name__ == "__main__":
    main()
