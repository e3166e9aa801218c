"""The digit DiT's engine against its emitted PyTorch in eager mode: 50 steps with guidance.

    python benchmarks/digits_engine.py [--bundle FOLDER] [--batches 1,8] [--threads N]

Goal: at least 2 × at batch 1. Without a bundle one is compiled from specs/digits/digits_dit.yaml with random
weights (how fast it is does not depend on them). Both sides take turns in one process and make the same images.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from common import verdict

from latentc.export.bundle import bundle_from_lowered
from latentc.ir.core import parameters
from latentc.lower import lower
from latentc.measure.bench import bench
from latentc.pipeline import optimised
from latentc.spec import load_spec, resolved_yaml
from latentc.weights import Array


def compiled(folder: Path) -> Path:
    """A bundle of the digit DiT with random weights."""
    spec = load_spec("digits_dit")
    lowered = lower(spec)
    rng = np.random.default_rng(0)
    params = parameters(lowered.module, lowered.module.entries["main.forward"])
    weights = {
        name: Array((0.05 * rng.standard_normal([int(n) for n in p.type.shape])).astype(np.float32))
        for name, p in params.items()
        if p.kind == "weight"
    }
    lowered = optimised(lowered, spec)
    bundle_from_lowered(lowered, spec, {"main": weights}, folder, spec_text=resolved_yaml(spec), max_batch=64)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--threads", type=int)
    flags = parser.parse_args()
    batches = [int(text) for text in flags.batches.split(",")]
    with tempfile.TemporaryDirectory() as name:
        folder = flags.bundle or compiled(Path(name, "bundle"))
        found = bench(folder, batches=batches, compare=True, seconds=10.0, threads=flags.threads)
    print(found.text())
    for case in found.cases:
        if case.batch == 1 and case.ratio is not None:
            print(verdict(f"engine against PyTorch, {case.steps} steps, batch 1", case.ratio, 2.0))


if __name__ == "__main__":
    main()
