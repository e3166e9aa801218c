"""Digits in one evaluation by drifting models: in features of a network that fills in patches, and of a random one.

    python benchmarks/drifting_digits.py [--out out/drifting_digits] [--seeds 0 1 2] [--compared 3]

Trains the features and the generators per seed if their weights are not in the folder; the classifier of
examples/digits judges 1000 samples. The goals were chosen before anything was trained.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from on_digits import Figures, compared, figures, trained

SPEC, FEATURES = "digits_drifting", "digits_drifting_features"


def main() -> int:
    """Runs the benchmark; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/drifting_digits"), help="folder of projects and bundles")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the trainings")
    parser.add_argument("--compared", type=int, help="seeds, from the first, with random features too; default: all")
    given = parser.parse_args()
    both = given.seeds[: given.compared]
    results: dict[str, list[Figures]] = {"trained": [], "random": []}
    for seed in given.seeds:
        features = trained(FEATURES, given.out / f"features{seed}", seed=seed)
        for name in list(results)[: 1 + (seed in both)]:
            overrides = (f"networks.features.pretrained={features.weights}",) if name == "trained" else ()
            run = trained(SPEC, given.out / f"{name}{seed}", overrides=overrides, seed=seed)
            found = figures(SPEC, run.weights, given.out / f"{name}{seed}-bundle", overrides=overrides)
            print(f"{name}, seed {seed}: {run.seconds:.0f} s of a processor, {found}", flush=True)
            results[name].append(found)
    return compared(results, accuracy=0.9, frechet=0.8)


if __name__ == "__main__":
    sys.exit(main())
