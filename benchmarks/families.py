"""One forward of a network of every family, random weights: this compiler's graphs against the best of PyTorch's.

    python benchmarks/families.py [--only NAME …] [--out out/families.json] [--work out/families] [--rounds N]

All run on one thread, in turns in one run, two calls a turn of which the second counts; times are medians of the
processor's seconds. Ours: the engine's graph in ONNX Runtime and OpenVINO. Peers, all of the emitted network:
`torch.onnx.export` (dynamo) in both engines, `openvino.convert_model` of `torch.export`'s program, `torch.compile` with
frozen weights, and eager PyTorch. In bf16 there are those that have it. Sizes of a peer's graph are fixed, also the
batch. No output may differ from eager fp32 by more than the tolerance of its precision. The share is of the rate of
a matrix product (PyTorch's or ONNX Runtime's, the faster), for networks of convolutions of PyTorch's 3 × 3 convolution,
timed among the others.

Rows that the file of `--out` has are kept; exported graphs stay in the folder `--work`.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from common import feed_of, turns
from onnx import TensorProto, helper, numpy_helper

from latentc.checkpoint import buffer, computed, network_params
from latentc.emit.numbered import method_of
from latentc.export.bundle import onnx_from_network, result_names
from latentc.ir.costs import flops
from latentc.lower import lower
from latentc.measure.emitted import project_modules
from latentc.measure.metrics import relative_error
from latentc.measure.tolerances import TOLERANCES
from latentc.pipeline import optimised
from latentc.spec import load_spec
from latentc.weights import Array
from latentc_runtime.backends import open_backend

OURS = "latentc"
EAGER = "PyTorch eager"
EXPORTED, CONVERTED = "torch.onnx.export", "openvino.convert_model"
ENGINES = {"ONNX Runtime": "onnxruntime", "OpenVINO": "openvino"}
GEMM, CHANNELS, SIDE = 1024, 256, 32  # of the products and convolutions that give the machine's rates
RATES = {"product": 2.0 * GEMM**3, "convolution": 2.0 * 9 * CHANNELS**2 * SIDE**2}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TOLERANCE = {"fp32": TOLERANCES["fp32"].sampler, "bf16": TOLERANCES["bf16"].sampler}

Call = Callable[[], list[np.ndarray]]


@dataclass(frozen=True)
class Family:
    """A network of a shipped spec, at a size of which one forward takes a fraction of a second."""

    spec: str
    variant: str | None = None
    overrides: tuple[str, ...] = ()
    method: str = "forward"
    batch: int = 1
    rate: str = "product"
    moved: float = 0.02
    """Standard deviation of what is added to the weights that training starts from."""


_UVIT = ("backbone.width=512", "backbone.half=4", "backbone.block.mixer.heads=8", "conditioning.time.frequencies=512")
_DECODER = ("data.shape=[3, 64, 64]", "backbone.width=64")
_FLOW = (
    *("data.shape=[3, 32, 32]", "backbone.width=384", "backbone.block.mixer.heads=6"),
    *("backbone.flows=4", "backbone.depth=4"),
)

FAMILIES = {
    "DiT": Family("dit", "S/2"),
    "EDM": Family("edm", "cifar10", ("backbone.blocks=1",), rate="convolution"),
    "ADM": Family("adm", "64", ("backbone.width=64", "backbone.blocks=1"), rate="convolution"),
    "U-ViT": Family("uvit", "L/2-256", _UVIT),
    "DiCo": Family("dico", "S", rate="convolution"),
    "BigGAN": Family("biggan", "128", ("networks.main.width=64",), rate="convolution"),
    "StyleGAN2": Family("stylegan2", "cifar10", rate="convolution"),
    "sd_vae decoder": Family(
        "sd_vae", "f8", ("data.shape=[3, 64, 64]", "backbone.width=64"), "decode", 1, "convolution"
    ),
    "VAR": Family("var", "d16", ("networks.main.depth=3",), "scale_9"),
    "MAR": Family("mar", "B", ("networks.main.depth=2",)),
    "MaskGIT": Family("maskgit", "T-256"),
    "TarFlow": Family("tarflow", "imagenet64", _FLOW, moved=0.002),
    "DiffWave": Family("diffwave", "base", ("backbone.depth=10",), rate="convolution"),
    "RIN": Family("rin", "imagenet256", ("backbone.blocks=2",)),
    "DiffMoE": Family("diffmoe", "S-E16"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(FAMILIES), default=list(FAMILIES), metavar="NAME")
    parser.add_argument("-o", "--out", type=Path, default=Path("out/families.json"), help="rows as JSON")
    parser.add_argument("--work", type=Path, default=Path("out/families"), help="folder of exported graphs")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--precisions", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    parser.add_argument("--skip", default="", metavar="TEXT", help="contestants to leave out, such as `torch.compile`")
    args = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    for name in args.only:  # a process each, because torch.compile remembers the modules it has traced
        if any(precision not in _kept(args.out).get(name, {}) for precision in args.precisions):
            child = spawn.Process(target=_measure, args=(name, args))
            child.start()
            child.join()
            if child.exitcode:
                raise SystemExit(f"{name} failed with {child.exitcode}")
    print(table(_kept(args.out)))


def _kept(path: Path) -> dict[str, dict[str, Any]]:
    """{family: {precision: row}} of a file, families in the order of `FAMILIES`."""
    rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {name: rows[name] for name in FAMILIES if name in rows}


def _measure(name: str, args: argparse.Namespace) -> None:
    """Adds the missing rows of a family to the file."""
    torch.set_num_threads(1)
    network = Network(FAMILIES[name])
    for precision in args.precisions:
        rows = _kept(args.out)
        if precision not in rows.setdefault(name, {}):
            rows[name][precision] = _row(network, precision, args.work / name, args.skip, args.rounds)
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(rows, indent=1), encoding="utf-8")
        print(_shown(name, precision, rows[name][precision]), flush=True)


def _row(network: Network, precision: str, work: Path, skip: str, rounds: int) -> dict[str, Any]:
    """{"gflop": of one forward, "rate": FLOP/s of the machine, "ms": {contestant: …}, "error": {…}, "failed": {…}}."""
    work.mkdir(parents=True, exist_ok=True)
    reference = network.eager("fp32")()
    error: dict[str, float] = {}
    failed: dict[str, str] = {}
    calls: dict[str, Call] = {}
    for name, make in network.contestants(precision, work).items():
        if skip and skip in name:
            continue
        try:
            call = make()
            error[name] = max(relative_error(r, e) for r, e in zip(call(), reference, strict=True))
        except Exception as problem:  # a peer that cannot take this network is a result
            if name.startswith(OURS):
                raise
            failed[name] = _line(problem)
            continue
        print(f"  {name} {precision}: error {error[name]:.1e}", file=sys.stderr, flush=True)
        assert error[name] <= TOLERANCE[precision], f"{name} in {precision} differs by {error[name]:.1e}"
        calls[name] = call
    machine = _machine(network.family.rate, precision)
    times = turns({**calls, **machine}, rounds, True, time.process_time)
    return {
        "gflop": network.flops / 1e9,
        "rate": RATES[network.family.rate] / min(min(times.pop(name)) for name in machine),
        "ms": {name: 1e3 * statistics.median(taken) for name, taken in times.items()},
        "error": error,
        "failed": failed,
    }


class Network:
    """A family's network: its spec, the emitted PyTorch network and its weights, and inputs."""

    def __init__(self, family: Family) -> None:
        self.family = family
        spec = load_spec(family.spec, family.variant, list(family.overrides))
        lowered = lower(spec)
        network = lowered.networks["main"]
        method = network.methods[family.method]
        torch.manual_seed(0)
        modules = project_modules(lowered, spec, ("model",))
        sys.modules.update(modules)  # torch.compile imports the modules of what it traces
        net = modules["model"].NETWORKS["main"]().eval().requires_grad_(False)
        state = net.state_dict()
        self.weights: dict[str, Any] = {}
        for path, param in network_params(lowered, network).items():
            if computed(param):
                self.weights[path] = buffer(param)
            else:  # moved from where training starts, so that no gate of zeros hides the blocks after it
                state[path].add_(family.moved * torch.randn_like(state[path]))
                self.weights[path] = Array(state[path].numpy())
        function = lowered.module.functions[method.function]
        times = {port.name for port in method.inputs if port.role == "time"}
        self.feed = feed_of(function.inputs, times, family.batch)
        self.net = _Method(net, family.method).eval()
        self.tensors = tuple(torch.from_numpy(a.copy()) for a in self.feed.values())
        self.results = result_names(len(function.outputs))
        self.flops = float(flops(lowered.module, method.function)) * family.batch

    def contestants(self, precision: str, work: Path) -> dict[str, Callable[[], Call]]:
        """{name: makes its call}; opens, compiles and exports only then."""
        engines = {name: engine for name, engine in ENGINES.items() if precision == "fp32" or name == "OpenVINO"}
        made: dict[str, Callable[[], Call]] = {}
        for name, engine in engines.items():
            made[f"{OURS}, {name}"] = lambda e=engine: self._ours(e, precision, work)  # type: ignore[misc]
            made[f"{EXPORTED}, {name}"] = lambda e=engine: self._opened(e, precision, self._exported(work))  # type: ignore[misc]
        made[CONVERTED] = lambda: self._opened("openvino", precision, self._converted(work))
        made["torch.compile"] = lambda: self._compiled(precision)
        made[EAGER] = lambda: self.eager(precision)
        return made

    def eager(self, precision: str) -> Call:
        return self._torch(self._in(precision), precision)

    def _compiled(self, precision: str) -> Call:
        import torch._inductor.config

        torch._inductor.config.freezing = True  # constants folded, weights packed for oneDNN
        return self._torch(torch.compile(self._in(precision), dynamic=False), precision)

    def _in(self, precision: str) -> Any:
        return self.net if precision == "fp32" else copy.deepcopy(self.net).to(DTYPES[precision])

    def _torch(self, net: Any, precision: str) -> Call:
        given = [a.to(DTYPES[precision]) if a.is_floating_point() else a for a in self.tensors]

        def call() -> list[np.ndarray]:
            with torch.no_grad():  # frozen weights need it, not `inference_mode`
                outs = net(*given)
            outs = outs if isinstance(outs, tuple | list) else (outs,)
            return [out.float().numpy() if out.is_floating_point() else out.numpy() for out in outs]

        return call

    def _ours(self, engine: str, precision: str, work: Path) -> Call:
        target = f"target={{engine: {engine}, precision: {precision}}}"
        spec = load_spec(self.family.spec, self.family.variant, [*self.family.overrides, target])
        place = work / f"{engine}-{precision}"
        place.mkdir(exist_ok=True)
        made = optimised(lower(spec), spec)
        return self._opened(
            engine, precision, *onnx_from_network(made, "main", self.family.method, self.weights, place)
        )

    def _opened(self, engine: str, precision: str, path: Path, external: Mapping[str, Path] | None = None) -> Call:
        backend = open_backend("cpu", 1, engine, precision)
        opened = backend.engine(path, external or {})

        def call() -> list[np.ndarray]:
            found = opened.run(self.feed, self.results)
            return [np.array(backend.array(found[name])) for name in self.results]

        return call

    def _exported(self, work: Path) -> Path:
        names: Any = {"input_names": list(self.feed), "output_names": self.results}

        def make(path: Path) -> None:
            torch.onnx.export(self.net, self.tensors, str(path), dynamo=True, verbose=False, **names)

        return _once(work / "exported.onnx", make)

    def _converted(self, work: Path) -> Path:
        def make(path: Path) -> None:
            import openvino

            model = openvino.convert_model(torch.export.export(self.net, self.tensors))
            for ports, names in ((model.inputs, list(self.feed)), (model.outputs, self.results)):
                for port, name in zip(ports, names, strict=True):
                    port.get_tensor().set_names({name})
            openvino.save_model(model, str(path), compress_to_fp16=False)

        return _once(work / "converted.xml", make)


def _once(path: Path, make: Callable[[Path], None]) -> Path:
    """`path`, made if it is missing; a failure is noted beside it, because an export takes minutes to fail."""
    note = path.with_suffix(".failed")
    if note.exists():
        raise RuntimeError(note.read_text(encoding="utf-8"))
    if not path.exists():
        try:
            make(path)
        except Exception as problem:
            note.write_text(_line(problem), encoding="utf-8")
            raise
    return path


def _line(problem: Exception) -> str:
    return f"{type(problem).__name__}: {problem}".splitlines()[0][:200]


class _Method(torch.nn.Module):
    """A method of a network as a module's `forward`."""

    def __init__(self, net: Any, method: str) -> None:
        super().__init__()
        self.net, self.method = net, method

    def forward(self, *given: Any) -> Any:
        return method_of(self.net, self.method)(*given)


def _machine(rate: str, precision: str) -> dict[str, Callable[[], Any]]:
    """{name: a product or convolution}; the fastest gives the machine's rate."""
    dtype = DTYPES[precision]
    if rate == "product":
        a = torch.randn(GEMM, GEMM).to(dtype)
        found: dict[str, Callable[[], Any]] = {"PyTorch's product": lambda: a @ a}
        return found if precision == "bf16" else {**found, "ONNX Runtime's product": _onnx_product()}
    conv = torch.nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1).to(dtype).to(memory_format=torch.channels_last)
    conv.requires_grad_(False)
    x = torch.randn(1, CHANNELS, SIDE, SIDE).to(dtype).to(memory_format=torch.channels_last)
    return {"PyTorch's convolution": lambda: conv(x)}


def _onnx_product() -> Callable[[], Any]:
    """The same product in ONNX Runtime, because PyTorch's is slow in float32 on some processors."""
    a, b = np.random.default_rng(0).random((2, GEMM, GEMM), np.float32)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [GEMM, GEMM]) for name in "ac"]
    node = helper.make_node("MatMul", ["a", "b"], ["c"])
    graph = helper.make_graph([node], "product", ends[:1], ends[1:], [numpy_helper.from_array(b, "b")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return lambda: session.run(None, {"a": a})


def ratio(row: Mapping[str, Any]) -> float:
    """The fastest peer's time over our fastest engine's."""
    ours = [ms for name, ms in row["ms"].items() if name.startswith(OURS)]
    peers = [ms for name, ms in row["ms"].items() if not name.startswith(OURS)]
    return min(peers) / min(ours)


def share(row: Mapping[str, Any], name: str) -> float:
    """A contestant's rate, relative to the machine's."""
    return float(row["gflop"] * 1e9 / (row["ms"][name] * 1e-3) / row["rate"])


def _shown(name: str, precision: str, row: Mapping[str, Any]) -> str:
    taken = ", ".join(f"{who} {ms:.1f} ms ({share(row, who):.0%})" for who, ms in row["ms"].items())
    return f"{name} {precision}: {taken}; ours {ratio(row):.2f} × the best peer{_failures(row)}"


def _failures(row: Mapping[str, Any]) -> str:
    return "".join(f"; {who} failed: {why}" for who, why in row["failed"].items())


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: medians in ms of all contestants, in both precisions."""
    columns = list(dict.fromkeys(who for row in rows.values() for one in row.values() for who in one["ms"]))
    lines = [
        f"| family | precision | GFLOP | {' | '.join(columns)} | best peer / ours | ours of the machine's rate |",
        "|" + "---|" * (5 + len(columns)),
    ]
    for name, row in rows.items():
        for precision, one in row.items():
            cells = [f"{one['ms'][who]:.1f}" if who in one["ms"] else "–" for who in columns]
            ours = min((who for who in one["ms"] if who.startswith(OURS)), key=one["ms"].__getitem__)
            end = f"{ratio(one):.2f} × | {share(one, ours):.0%}"
            lines.append(f"| {name} | {precision} | {one['gflop']:.1f} | {' | '.join(cells)} | {end} |")
    every = [ratio(one) for row in rows.values() for one in row.values()]
    mean = math.exp(statistics.fmean(map(math.log, every)))
    lines.append(
        f"\n{sum(r >= 1 for r in every)} of {len(every)} ≥ 1 ×, geometric mean {mean:.2f} ×, least {min(every):.2f} ×"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
