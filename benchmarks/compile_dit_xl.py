"""Spec → ONNX of DiT-XL/2 (weights by reference) against torch.onnx.export of diffusers' DiT of that size.

    python benchmarks/compile_dit_xl.py

Goals: at least 20 × faster once the weights' hashes are remembered, under 0.6 GB of anonymous memory; a second compile
of what has not changed in 0.3 s. Each side runs in its own process, and is timed from the spec's text to the files on
disk, without imports. Ours: the network's forward, which is what torch exports as well; then whole bundles (250 steps
with guidance) by reference, first with 2.7 GB of weights to hash, then into another folder with the hashes remembered,
then where nothing has changed; last a bundle that holds its weights. torch is timed without building the model: the
forward against `torch.onnx.export(dynamo=True)` alone, bundles against export and save.

Needs `pip install onnxscript`, 6 GB of memory and 9 GB of disk; takes about a minute.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

# what is timed -> how it is called, its folder, whether its weights stay where they are
SIDES: dict[str, tuple[Any, ...]] = {
    "forward": ("forward",),
    "hashing": ("bundle by reference, weights to hash", "first", True),
    "remembered": ("bundle by reference, hashes remembered", "second", True),
    "again": ("the same bundle again", "second", True),
    "whole": ("bundle that holds its weights", "whole", False),
}


def forward(folder: Path) -> dict[str, Any]:
    begin = time.perf_counter()
    from latentc.export.bundle import onnx_from_network
    from latentc.lower import lower
    from latentc.pipeline import optimised
    from latentc.spec import load_spec
    from latentc.weights import read_safetensors

    imported = time.perf_counter()
    spec = load_spec("dit", "XL/2")
    weights = read_safetensors(folder / "weights.safetensors")
    path = onnx_from_network(optimised(lower(spec), spec), "main", "forward", weights, folder)[0]
    return {"import": imported - begin, "seconds": time.perf_counter() - imported, "bytes": path.stat().st_size}


def bundle(folder: Path, name: str, by_reference: bool) -> dict[str, Any]:
    begin = time.perf_counter()
    from latentc import api
    from latentc.api.unchanged import unchanged  # noqa: F401
    from latentc.export.bundle import bundle_from_lowered  # noqa: F401

    imported = time.perf_counter()
    how: dict[str, Any] = {"max_batch": 8, "by_reference": by_reference, "run": False}  # torch's export runs nothing
    api.compile("dit", folder / "weights.safetensors", folder / name, "XL/2", **how)
    size = sum(path.stat().st_size for path in (folder / name).glob("*.onnx"))
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
    parser.add_argument("--side", choices=("diffusers", *SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.side:
        calls = {"diffusers": diffusers, "forward": forward}
        call = calls.get(flags.side, lambda folder: bundle(folder, *SIDES[flags.side][1:]))
        print(json.dumps(call(flags.folder)))
        return
    # Here, because it imports what the sides are to import themselves.
    from common import made_up_weights, verdict, watched

    from latentc.ir.core import parameters
    from latentc.lower import lower
    from latentc.spec import load_spec

    lowered = lower(load_spec("dit", "XL/2"))
    params = parameters(lowered.module, lowered.module.entries["main.forward"])
    shapes = {name: p.type.shape for name, p in params.items() if p.kind == "weight"}
    seconds: dict[str, float] = {}
    again = peak = 0.0
    with tempfile.TemporaryDirectory() as name:
        os.environ["LATENTC_CACHE"] = f"{name}/cache"
        made_up_weights(Path(name, "weights.safetensors"), shapes, filled=True)
        time.sleep(0.2)  # the hash of a file that was written just now is not remembered
        for side, (what, *_) in SIDES.items():
            found, memory = watched([__file__, "--side", side, "--folder", name])
            print(
                f"{what}: {found['seconds']:.2f} s (imports {found['import']:.2f} s), "
                f"{found['bytes'] / 1e6:.2f} MB of ONNX, peak anonymous memory {memory / 1e6:.0f} MB",
                flush=True,
            )
            seconds[side] = found["seconds"]
            if side == "again":  # with imports, because components are imported when a spec names them
                again = found["import"] + found["seconds"]
            peak = max(peak, memory)
        found, memory = watched([__file__, "--side", "diffusers", "--folder", name])
    print(
        f"torch.onnx.export: {found['seconds']:.2f} s and {found['saving']:.2f} s to save, "
        f"{found['parameters'] / 1e6:.0f} M parameters, peak anonymous memory {memory / 1e6:.0f} MB"
    )
    whole = found["seconds"] + found["saving"]
    print(verdict("the forward, times faster", found["seconds"] / seconds["forward"], 20))
    print(verdict("a bundle by reference, hashes remembered, times faster", whole / seconds["remembered"], 20))
    print(verdict("a bundle by reference, weights to hash, times faster", whole / seconds["hashing"], 10))
    print(verdict("the same again, with imports", again, 1.0, "s", least=False))
    print(verdict("peak anonymous memory", peak / 1e9, 0.6, "GB", least=False))


if __name__ == "__main__":
    main()
