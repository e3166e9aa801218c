"""Digits of a transformer that predicts the image (JiT) against one that predicts the velocity, through a bottleneck.

    python benchmarks/jit_digits.py [--out out/jit_digits] [--seeds 0 1 2] [--steps 600] [--compared 3]

Both have the same layers, times, steps and sampler; a patch of 16 pixels passes through 8 channels, which digits fit
through and noise does not. Trains the two per seed if their weights are not in the folder; the classifier of
examples/digits judges 1000 samples. The goals were chosen before anything was trained.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from on_digits import Figures, compared, figures, trained

VELOCITY = (
    "objective={kind: flow, predicts: velocity, "
    "process: {kind: interpolant, times: logit_normal, logit_mean: -0.8, logit_std: 0.8}}",
)


def main() -> int:
    """Runs the benchmark; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/jit_digits"), help="folder of projects and bundles")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the trainings")
    parser.add_argument("--steps", type=int, default=600, help="steps of each training")
    parser.add_argument(
        "--compared", type=int, help="seeds, from the first, that also predict velocities; default: all"
    )
    given = parser.parse_args()
    both = given.seeds[: given.compared]
    results: dict[str, list[Figures]] = {"image": [], "velocity": []}
    for seed in given.seeds:
        for name, overrides in (("image", ()), ("velocity", VELOCITY))[: 1 + (seed in both)]:
            run = trained("digits_jit", given.out / f"{name}{seed}", overrides=overrides, seed=seed, steps=given.steps)
            found = figures("digits_jit", run.weights, given.out / f"{name}{seed}-bundle", overrides=overrides)
            print(f"{name}, seed {seed}: {run.seconds:.0f} s of a processor, {found}", flush=True)
            results[name].append(found)
    return compared(results, accuracy=0.95, frechet=0.5)


if __name__ == "__main__":
    sys.exit(main())
