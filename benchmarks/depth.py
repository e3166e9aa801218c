"""What depth costs the compiler: DiT of width 1152 with 28 and with 280 blocks.

    python benchmarks/depth.py

Goals: the passes before `inline` take a time independent of depth (they see each distinct block once); `inline` and
serialisation at most 2 ms per block. CPU time, the least of several runs in one process.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from common import cpu_seconds, made_up_weights, verdict

from latentc.export.onnx import flat_module, onnx_from_module
from latentc.export.store import FileTensors
from latentc.ir.core import only_entry, parameters
from latentc.lower import lower
from latentc.pipeline import optimised
from latentc.spec import load_spec
from latentc.weights import read_safetensors

DEPTHS = (28, 280)


def stages(depth: int, folder: Path) -> dict[str, Callable[[], object]]:
    """{stage: what runs it} of a network of `depth` blocks, up to the ONNX text of its forward and of its sampler."""
    spec = load_spec("dit", "XL/2", [f"backbone.depth={depth}"])
    lowered = lower(spec)
    entry = lowered.programs[0].entry
    params = parameters(lowered.module, lowered.module.entries["main.forward"])
    file = made_up_weights(
        folder / f"{depth}.safetensors", {n: p.type.shape for n, p in params.items() if p.kind == "weight"}
    )
    weights = {f"main.{name}": expr for name, expr in read_safetensors(file).items()}
    module = only_entry(optimised(lowered, spec).module, entry)
    flat = flat_module(module, entry)

    def serialise() -> bytes:
        tensors = FileTensors(weights)
        model = onnx_from_module(flat, entry, tensors)
        with tempfile.TemporaryDirectory(dir=folder) as target:
            tensors.write(Path(target), by_reference=True)
        return model.SerializeToString(deterministic=True)

    return {
        "lower": partial(lower, spec),
        "passes": partial(optimised, lowered, spec),
        "inline": partial(flat_module, module, entry),
        "serialise": serialise,
    }


def main() -> None:
    found: dict[str, dict[int, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        for depth in DEPTHS:
            for stage, call in stages(depth, Path(name)).items():
                found.setdefault(stage, {})[depth] = cpu_seconds(call)
    print(
        f"{'stage':10} "
        + " ".join(f"{f'depth {d}, ms':>15}" for d in DEPTHS)
        + f" {'times':>8} {'ms a block more':>16}"
    )
    few, many = DEPTHS
    slopes = {}
    for stage, times in found.items():
        slopes[stage] = 1e3 * (times[many] - times[few]) / (many - few)
        ms = " ".join(f"{1e3 * times[d]:15.1f}" for d in DEPTHS)
        print(f"{stage:10} {ms} {times[many] / times[few]:8.2f} {slopes[stage]:16.3f}")
    print(verdict("passes, 280 blocks against 28", found["passes"][many] / found["passes"][few], 2.0, least=False))
    print(verdict("inline and serialisation", slopes["inline"] + slopes["serialise"], 2.0, "ms a block", least=False))


if __name__ == "__main__":
    main()
