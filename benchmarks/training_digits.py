"""What token routes (TREAD) and the contrastive term (DeltaFM) do to the training of a small flow model of digits.

    python benchmarks/training_digits.py [--out out/training_digits] [--steps 600]

Trains a SiT of six blocks on patches of one pixel, 64 tokens, three times for as many steps: as it is, with half of the
tokens skipping four of the blocks, and with the contrastive term. Says the seconds of training, and of 1000 samples in
20 steps without guidance the class accuracy and the Fréchet distance, as the classifier of examples/digits judges them.
Takes about fifteen minutes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from reduce_digits import METRICS

import latentc_runtime
from latentc import api

SIZES = ("backbone.width=64", "backbone.depth=6", "backbone.patch=1", "sampler.steps=20", "sampler.guidance=null")
VARIANTS = {
    "plain": (),
    "routes": ("backbone.routes=[{start: 1, end: 4, ratio: 0.5}]",),
    "contrast": ("objective.further=[{kind: contrast, weight: 0.05}]",),
}
SAMPLES = 1000
FIRST = 9_000_000  # seed of the first sample


def main() -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/training_digits"), help="folder of projects and bundles")
    parser.add_argument("--steps", type=int, default=600, help="steps of training")
    arguments = parser.parse_args()
    sys.path.insert(0, str(METRICS.parent))
    from metrics import judged

    labels = np.arange(SAMPLES) % 10
    for name, overrides in VARIANTS.items():
        project, bundle, sizes = arguments.out / name / "project", arguments.out / name / "bundle", [*SIZES, *overrides]
        weights = (project / "runs/train/weights.safetensors").resolve()
        seconds = float("nan")
        if not weights.exists():
            api.emit("digits_sit", project, overrides=sizes)
            environment, begin = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}, time.perf_counter()
            command = [sys.executable, "train.py", "--steps", str(arguments.steps)]
            subprocess.run(command, cwd=project, env=environment, check=True)
            seconds = time.perf_counter() - begin
        api.compile("digits_sit", weights, bundle, overrides=sizes)
        samples = latentc_runtime.load(bundle, "cpu").sample(labels, np.arange(FIRST, FIRST + SAMPLES))
        found = judged(samples, labels)
        scores = f"accuracy {found['accuracy'][0]:.4f}, Fréchet distance {found['frechet']:.4f}"
        print(f"{name}: {seconds:.0f} s of training, {scores}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
