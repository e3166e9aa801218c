"""What the benchmarks share: children whose memory is watched, weights without training, turns, the machine's rate."""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from latentc.checkpoint import buffer, computed, network_params
from latentc.emit.numbered import attribute_of
from latentc.export.bundle import bundle_from_lowered
from latentc.lower import lower
from latentc.passes.quantize.forms import fits
from latentc.passes.quantize.plan import LARGEST, LayerQuant, Quantization, quantizable
from latentc.pipeline import optimised
from latentc.spec import load_spec, resolved_yaml
from latentc.weights import Array, Expr

if TYPE_CHECKING:
    from latentc.components.contract import Lowered, Port
    from latentc.ir.core import Value
    from latentc.measure.emitted import Emitted
    from latentc_runtime.manifest import Manifest


def watched(command: Sequence[str]) -> tuple[dict[str, Any], float]:
    """Runs a Python script in a child: what its last line holds as JSON, and its peak anonymous memory in bytes.

    Anonymous memory (RssAnon of /proc, Linux) is what a process has made itself; pages of mapped files, which the
    system may drop, are not in it.
    """
    peak = 0
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen([sys.executable, *command], stdout=out)
        while process.poll() is None:
            peak = max(peak, anonymous_memory(process.pid))
            time.sleep(0.005)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} failed with {process.returncode}")
        out.seek(0)
        return json.loads(out.read().strip().splitlines()[-1]), float(peak)


def anonymous_memory(pid: int) -> int:
    """Bytes of anonymous memory that a process holds now; 0 where the system does not say."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def made_up_weights(path: Path, shapes: Mapping[str, Sequence[int]], filled: bool = False) -> Path:
    """A safetensors file of float32: zeros that take no space on a disk that keeps holes, or random numbers."""
    text, end = _header(shapes, "F32")
    with path.open("wb") as file:
        file.write(text)
        piece = np.random.default_rng(0).standard_normal(1 << 22, dtype=np.float32).tobytes()
        for start in range(0, end if filled else 0, len(piece)):
            file.write(piece[: end - start])
        file.truncate(len(text) + end)
    return path


def made_up_shards(folder: Path, shapes: Mapping[str, Sequence[int]], dtype: str, most: int) -> Path:
    """Sparse safetensors files of zeros of at most `most` bytes each, and their index, which is returned."""
    folder.mkdir()
    shards: list[dict[str, Sequence[int]]] = [{}]
    size = 0
    for name, shape in shapes.items():
        nbytes = _size(shape, dtype)
        if size + nbytes > most and shards[-1]:
            shards.append({})
            size = 0
        shards[-1][name] = shape
        size += nbytes
    where = {}
    for i, part in enumerate(shards, 1):
        file = folder / f"model-{i:05}-of-{len(shards):05}.safetensors"
        text, end = _header(part, dtype)
        file.write_bytes(text)
        os.truncate(file, len(text) + end)
        where.update(dict.fromkeys(part, file.name))
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return index


def _size(shape: Sequence[int], dtype: str) -> int:
    return {"F32": 4, "BF16": 2}[dtype] * math.prod(int(n) for n in shape)


def _header(shapes: Mapping[str, Sequence[int]], dtype: str) -> tuple[bytes, int]:
    """(the header of a safetensors file, bytes of data behind it)."""
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + _size(shape, dtype)
        header[name] = {"dtype": dtype, "shape": [int(n) for n in shape], "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, end


def random_weights(lowered: Lowered, std: float = 0.02) -> dict[str, dict[str, Expr]]:
    """Normal numbers for every weight, computed buffers as they are: {network: {path: tensor}}."""
    rng = np.random.default_rng(0)
    weights: dict[str, dict[str, Expr]] = {}
    for name, network in lowered.networks.items():
        weights[name] = {}
        for path, param in network_params(lowered, network).items():
            shape = [int(d) for d in param.type.shape]  # type: ignore[arg-type]
            random = Array(rng.standard_normal(shape, np.float32) * np.float32(std))
            weights[name][path] = buffer(param) if computed(param) else random
    return weights


def random_bundle(
    folder: Path, name: str, variant: str | None = None, overrides: Sequence[str] = (), std: float = 0.02
) -> Manifest:
    """`latentc compile` of a shipped spec with random weights of its real sizes.

    Where it is to be quantised, every layer that can be is, with made-up scales in place of measured ones.
    """
    spec = load_spec(name, variant, list(overrides))
    lowered = lower(spec)
    quantization = None
    if spec.optimize.quantize is not None:
        scheme = spec.optimize.quantize.scheme
        layers = quantizable(optimised(lowered, spec, "tidy").module)
        chosen = [path for path, layer in layers.items() if fits(layer, scheme, spec.target.engine)]
        scale = np.float32(8.0 / LARGEST[scheme]) if scheme in LARGEST else None
        scales = {f"{layers[path].group}.input_scale": scale for path in chosen} if scale is not None else {}
        quantization = Quantization({path: LayerQuant(scheme) for path in chosen}, scales)  # type: ignore[arg-type]
    return bundle_from_lowered(
        optimised(lowered, spec, None, quantization),
        spec,
        random_weights(lowered, std),
        folder,
        spec_text=resolved_yaml(spec),
        form=spec.target.form,
        max_batch=spec.target.max_batch,
        measured=quantization.tensors if quantization else None,
    )


def feed_of(inputs: Iterable[Port | Value], times: Collection[str], batch: int) -> dict[str, np.ndarray[Any, Any]]:
    """Made-up inputs of a method: `times` up to 999, normal numbers, ones for indices, every second token masked."""
    rng = np.random.default_rng(0)
    feed: dict[str, np.ndarray[Any, Any]] = {}
    for port in inputs:
        shape = (batch, *(int(d) for d in port.type.shape[1:]))  # type: ignore[arg-type]
        if port.name in times:
            feed[port.name] = np.linspace(0, 999, batch).astype(np.float32)
        elif port.name == "mask" and port.type.dtype == "f32":
            feed[port.name] = np.broadcast_to(np.arange(shape[-1]) % 2, shape).astype(np.float32)
        elif port.type.dtype == "f32":
            feed[port.name] = rng.standard_normal(shape).astype(np.float32)
        else:
            feed[port.name] = np.ones(shape, {"i64": np.int64, "bool": np.bool_}[port.type.dtype])
    return feed


def compile_methods(emitted: Emitted, lowered: Lowered, wrap: Callable[[Any], Any]) -> None:
    """Wraps every method that programs may call of every emitted network, as `torch.compile` does."""
    for name, network in emitted.networks.items():
        for method in {attribute_of(network, method)[0] for method in lowered.networks[name].methods}:
            setattr(network, method, wrap(getattr(network, method)))


def turns(
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    settled: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of every call, `rounds` times in turn. Call each once before: what opens and compiles is not in it.

    `settled`: each begins with a call that is not timed, for beside it the threads of the one before may still spin.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            if settled:
                call()
            begin = clock()
            call()
            times[name].append(clock() - begin)
    return times


def product_rate(dtype: Any, size: int = 2048, rounds: int = 7) -> float:
    """Operations a second of PyTorch's square matrix product, its best of several; a multiply-add counts as 2."""
    import torch

    a = torch.randn(size, size).to(dtype)
    return 2.0 * size**3 / min(turns({"product": lambda: a @ a}, rounds + 1)["product"][1:])


def cpu_seconds(call: Callable[[], object], repetitions: int = 9) -> float:
    """The least CPU time of several runs: what other programs do at the time is not in it."""
    times = []
    for _ in range(repetitions):
        begin = time.process_time()
        call()
        times.append(time.process_time() - begin)
    return min(times)


def verdict(what: str, value: float | Sequence[float], goal: float, unit: str = "×", least: bool = True) -> str:
    """One line: what was measured, the goal, and whether it was reached.

    Several values are those of as many seeds: a goal that their mean reaches but one of them misses is within noise.
    """
    values = list(value) if isinstance(value, Sequence) else [value]
    mean, sign = sum(values) / len(values), "≥" if least else "≤"
    reached = [(one >= goal) if least else (one <= goal) for one in (mean, *values)]
    said = "MISSED" if not reached[0] else "reached" if all(reached) else "within noise"
    spread = f" ({min(values):.3g} to {max(values):.3g}, {len(values)} seeds)" if len(values) > 1 else ""
    return f"{what}: {mean:.3g}{spread} {unit} (goal {sign} {goal:g} {unit}) {said}"
