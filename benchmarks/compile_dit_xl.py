"""Spec → ONNX of DiT-XL/2 (weights by reference) against torch.onnx.export of diffusers' DiT of that size.

    python benchmarks/compile_dit_xl.py

Goals: at least 10 × faster, under 1 GB of anonymous memory. Each side runs in its own process. Ours is timed from the
spec's text to the files on disk: once the network's forward, which is what torch exports as well, and once a whole
bundle (sampler with guidance, and the sha256 of the weights, which is most of its time). torch is timed without
building the model: the forward against `torch.onnx.export(dynamo=True)` alone, the bundle against export and save.

Needs `pip install onnxscript`, 6 GB of memory and 6 GB of disk; takes about a minute.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from common import made_up_weights, verdict, watched


def ours(folder: Path, whole: bool) -> dict[str, Any]:
    begin = time.perf_counter()
    from latentc.export.bundle import bundle_from_lowered, onnx_from_network
    from latentc.lower import lower
    from latentc.pipeline import optimised
    from latentc.spec import load_spec, resolved_yaml
    from latentc.weights import read_safetensors

    imported = time.perf_counter()
    spec = load_spec("dit", "XL/2")
    lowered = optimised(lower(spec), spec)
    weights = read_safetensors(folder / "weights.safetensors")
    if whole:
        bundle_from_lowered(
            lowered,
            spec,
            {"main": weights},
            folder / "bundle",
            spec_text=resolved_yaml(spec),
            by_reference=True,
            max_batch=8,
        )
        size = sum(path.stat().st_size for path in (folder / "bundle").glob("*.onnx"))
    else:
        size = onnx_from_network(lowered, "main", "forward", weights, folder)[0].stat().st_size
    return {"import": imported - begin, "seconds": time.perf_counter() - imported, "bytes": size}


def diffusers(folder: Path) -> dict[str, Any]:
    import contextlib
    import io
    import warnings

    import torch
    from diffusers import DiTTransformer2DModel

    warnings.filterwarnings("ignore")
    with torch.device("meta"):
        model = DiTTransformer2DModel(
            num_attention_heads=16,
            attention_head_dim=72,
            in_channels=4,
            out_channels=8,
            num_layers=28,
            sample_size=32,
            patch_size=2,
        )
    model = model.to_empty(device="cpu").eval()
    x, t, y = torch.zeros(2, 4, 32, 32), torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
    begin = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        program = torch.onnx.export(model, (x, t, y), dynamo=True, input_names=["x", "t", "y"], verbose=False)
    exported = time.perf_counter()
    assert program is not None
    program.save(str(folder / "torch.onnx"), external_data=True)
    return {
        "seconds": exported - begin,
        "saving": time.perf_counter() - exported,
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", choices=("forward", "bundle", "diffusers"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.side:
        found = diffusers(flags.folder) if flags.side == "diffusers" else ours(flags.folder, flags.side == "bundle")
        print(json.dumps(found))
        return
    from latentc.ir.core import parameters
    from latentc.lower import lower
    from latentc.spec import load_spec

    lowered = lower(load_spec("dit", "XL/2"))
    params = parameters(lowered.module, lowered.module.entries["main.forward"])
    shapes = {name: p.type.shape for name, p in params.items() if p.kind == "weight"}
    seconds, peak = [], 0.0
    with tempfile.TemporaryDirectory() as name:
        made_up_weights(Path(name, "weights.safetensors"), shapes, filled=True)
        for side in ("forward", "bundle"):
            found, memory = watched([__file__, "--side", side, "--folder", name])
            print(
                f"{side}: {found['seconds']:.2f} s (imports {found['import']:.2f} s), "
                f"{found['bytes'] / 1e6:.2f} MB of ONNX, peak anonymous memory {memory / 1e6:.0f} MB"
            )
            seconds.append(found["seconds"])
            peak = max(peak, memory)
        found, memory = watched([__file__, "--side", "diffusers", "--folder", name])
    print(
        f"torch.onnx.export: {found['seconds']:.2f} s and {found['saving']:.2f} s to save, "
        f"{found['parameters'] / 1e6:.0f} M parameters, peak anonymous memory {memory / 1e6:.0f} MB"
    )
    print(verdict("the forward, times faster", found["seconds"] / seconds[0], 10))
    print(verdict("the whole bundle, times faster", (found["seconds"] + found["saving"]) / seconds[1], 10))
    print(verdict("peak anonymous memory", peak / 1e9, 1.0, "GB", least=False))


if __name__ == "__main__":
    main()
