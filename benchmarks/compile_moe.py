"""DiT-MoE-G/2 (16.5 billion parameters) from sharded safetensors to bf16 ONNX: time and memory.

    python benchmarks/compile_moe.py [--depth 40] [--case reference|cast]

Goal: under 4 GB of anonymous memory. The shards have the authors' names, a tensor an expert, beside an index as hubs
have it; they are sparse files of zeros. Cases, each in a process of its own, spec to finished bundle:

    reference   bf16 shards, weights by reference: nothing is copied, every expert is a range of a shard. Then once more
                with the bundle there, and once more with a bundle to be built but the shards' hashes remembered
    cast        f32 shards (66 GB, sparse) streamed to bf16: 33 GB are written, so as much must be free on the disk

`--depth` takes fewer blocks of the same sizes. Without plans: those want a GPU's library; the graph is TensorRT's.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

SHARD = 10_000_000_000  # bytes


def arguments(depth: int) -> tuple[str, list[str]]:
    target = ["target.engine=tensorrt", "target.precision=bf16", "target.plans=false", "target.max_batch=8"]
    return "G/2-16E2A-512", [*target, f"backbone.depth={depth}"]


def compiled(folder: Path, depth: int, by_reference: bool) -> dict[str, Any]:
    begin = time.perf_counter()
    from latentc import api
    from latentc.api.unchanged import unchanged  # noqa: F401
    from latentc.checkpoint import network_weights  # noqa: F401
    from latentc.export.bundle import bundle_from_lowered  # noqa: F401
    from latentc.pipeline import optimised  # noqa: F401

    imported = time.perf_counter()
    stages: dict[str, float] = {}
    variant, overrides = arguments(depth)
    index = folder / "shards" / "model.safetensors.index.json"
    manifest = api.compile(
        "dit_moe",
        index,
        folder / "bundle",
        variant,
        overrides,
        names="official",
        by_reference=by_reference,
        progress=lambda stage: stages.setdefault(stage, time.perf_counter()),
        run=False,  # it needs more memory than most machines have
    )
    end = time.perf_counter()
    times = [*stages.values(), end]
    return {
        "import": imported - begin,
        "seconds": end - imported,
        "stages": {name: times[i + 1] - times[i] for i, name in enumerate(stages)},
        "references": len(manifest.references),
        "copied": sum(entry.size for entry in manifest.files.values()),
        "nodes": sum(_nodes(folder / "bundle" / name) for name in manifest.files if name.endswith(".onnx")),
    }


def _nodes(path: Path) -> int:
    import onnx

    return len(onnx.load(str(path), load_external_data=False).graph.node)


def shapes_of(depth: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the authors' checkpoint."""
    from latentc.checkpoint import computed, name_map, network_params, symbols
    from latentc.lower import lower
    from latentc.spec import load_spec
    from latentc.weights import Array, export_weights

    variant, overrides = arguments(depth)
    spec = load_spec("dit_moe", variant, overrides)
    lowered = lower(spec)
    network = lowered.networks["main"]
    own = {
        name: Array(np.broadcast_to(np.float32(0), [int(d) for d in param.type.shape]))  # type: ignore[arg-type]
        for name, param in network_params(lowered, network).items()
        if not computed(param)
    }
    rules = name_map(spec, "main", "official")
    return {name: e.shape for name, e in export_weights(own, rules, sizes=symbols(lowered, network)).items()}


def run(folder: Path, depth: int, case: str, what: str) -> tuple[dict[str, Any], float]:
    from common import watched

    found, memory = watched([__file__, "--side", case, "--folder", str(folder), "--depth", str(depth)])
    stages = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in found["stages"].items()) or "up to date"
    print(
        f"{what}: {found['seconds']:.2f} s (imports {found['import']:.2f} s; {stages}); {found['nodes']} nodes, "
        f"{found['references']} files referred to, {found['copied'] / 1e9:.2f} GB in the bundle, "
        f"peak anonymous memory {memory / 1e6:.0f} MB",
        flush=True,
    )
    return found, memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=40)
    parser.add_argument("--case", choices=("reference", "cast"))
    parser.add_argument("--side", choices=("reference", "cast"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.side:
        print(json.dumps(compiled(flags.folder, flags.depth, flags.side == "reference")))
        return
    # Here, because it imports what the sides are to import themselves.
    from common import made_up_shards, verdict

    shapes = shapes_of(flags.depth)
    print(f"{len(shapes)} tensors, {sum(int(np.prod(s)) for s in shapes.values()) / 1e9:.2f} billion parameters")
    peak = 0.0
    for case in ("reference", "cast") if flags.case is None else (flags.case,):
        with tempfile.TemporaryDirectory() as name:
            os.environ["LATENTC_CACHE"] = f"{name}/cache"
            folder = Path(name)
            made_up_shards(folder / "shards", shapes, "BF16" if case == "reference" else "F32", SHARD)
            time.sleep(0.2)  # hashes of files that were written just now are not remembered
            peak = max(peak, run(folder, flags.depth, case, case)[1])
            if case == "reference":
                found, _ = run(folder, flags.depth, case, "again")
                print(verdict("again, with imports", found["import"] + found["seconds"], 1.0, "s", least=False))
                (folder / "bundle" / "manifest.json").rename(folder / "bundle" / "old.json")
                (folder / "bundle").rename(folder / "other")
                peak = max(peak, run(folder, flags.depth, case, "another bundle, hashes remembered")[1])
    print(verdict("peak anonymous memory", peak / 1e9, 4.0, "GB", least=False))


if __name__ == "__main__":
    sys.exit(main())
