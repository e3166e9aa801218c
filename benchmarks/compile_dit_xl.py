"""Spec → ONNX of DiT-XL/2 (weights by reference) against torch.onnx.export of diffusers' DiT of that size.

    python benchmarks/compile_dit_xl.py

Goals: at least 10 × faster, under 1 GB of anonymous memory. Each side runs in its own process. Ours is timed from the
spec's text to the ONNX file on disk: once the network's forward, which is what torch exports as well, and once a whole
bundle (sampler with guidance, hashes of the weights). torch is timed in `torch.onnx.export(dynamo=True)` alone, without
building the model and without writing a file. Needs 4 GB of memory; takes about a minute.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from common import empty_weights, verdict, watched


def ours(folder: Path, whole: bool) -> dict[str, Any]:
    begin = time.perf_counter()
    from latentc.export.bundle import bundle_from_lowered, onnx_from_network
    from latentc.lower import lower
    from latentc.spec import load_spec, resolved_yaml
    from latentc.weights import read_safetensors

    imported = time.perf_counter()
    spec = load_spec("dit", "XL/2")
    lowered = lower(spec)
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


def diffusers() -> dict[str, Any]:
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
        torch.onnx.export(model, (x, None, t, y), dynamo=True, input_names=["x", "t", "y"], verbose=False)
    return {"seconds": time.perf_counter() - begin, "parameters": sum(p.numel() for p in model.parameters())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", choices=("forward", "bundle", "diffusers"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.side:
        found = diffusers() if flags.side == "diffusers" else ours(flags.folder, flags.side == "bundle")
        print(json.dumps(found))
        return
    from latentc.ir.core import parameters
    from latentc.lower import lower
    from latentc.spec import load_spec

    lowered = lower(load_spec("dit", "XL/2"))
    params = parameters(lowered.module, lowered.module.entries["main.forward"])
    shapes = {name: p.type.shape for name, p in params.items() if p.kind == "weight"}
    with tempfile.TemporaryDirectory() as name:
        empty_weights(Path(name, "weights.safetensors"), shapes)
        for side in ("forward", "bundle"):
            found, memory = watched([__file__, "--side", side, "--folder", name])
            print(
                f"{side}: {found['seconds']:.2f} s (imports {found['import']:.2f} s), "
                f"{found['bytes'] / 1e6:.2f} MB of ONNX, peak anonymous memory {memory / 1e6:.0f} MB"
            )
            if side == "forward":
                seconds, peak = found["seconds"], memory
            else:
                peak = max(peak, memory)
    found, memory = watched([__file__, "--side", "diffusers"])
    print(
        f"torch.onnx.export: {found['seconds']:.2f} s, {found['parameters'] / 1e6:.0f} M parameters, "
        f"peak anonymous memory {memory / 1e6:.0f} MB"
    )
    print(verdict("export, times faster", found["seconds"] / seconds, 10))
    print(verdict("peak anonymous memory", peak / 1e9, 1.0, "GB", least=False))


if __name__ == "__main__":
    main()
