"""Digits of MDTv2, trained with hidden patches too, against the same network and steps without.

    python benchmarks/mdt_digits.py [--out out/mdt_digits] [--seeds 0 1 2] [--steps 600] [--compared 3]

A step with hidden patches evaluates the network twice. Trains the two per seed if their weights are not in the folder;
the classifier of examples/digits judges 1000 samples. The goals were chosen before anything was trained.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from on_digits import Figures, compared, figures, trained

WHOLE = ("objective={kind: diffusion, process: {kind: discrete, schedule: cosine}, predicts: velocity}",)


def main() -> int:
    """Runs the benchmark; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/mdt_digits"), help="folder of projects and bundles")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the trainings")
    parser.add_argument("--steps", type=int, default=600, help="steps of each training")
    parser.add_argument(
        "--compared", type=int, help="seeds, from the first, that are also trained without; default: all"
    )
    given = parser.parse_args()
    both = given.seeds[: given.compared]
    results: dict[str, list[Figures]] = {"masked": [], "whole": []}
    for seed in given.seeds:
        for name, overrides in (("masked", ()), ("whole", WHOLE))[: 1 + (seed in both)]:
            run = trained("digits_mdt", given.out / f"{name}{seed}", overrides=overrides, seed=seed, steps=given.steps)
            found = figures("digits_mdt", run.weights, given.out / f"{name}{seed}-bundle", overrides=overrides)
            print(f"{name}, seed {seed}: {run.seconds:.0f} s of a processor, {found}", flush=True)
            results[name].append(found)
    return compared(results, accuracy=0.95, frechet=0.95)


if __name__ == "__main__":
    sys.exit(main())
