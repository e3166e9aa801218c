"""Digits in one evaluation by average velocities on patches of 16 pixels: of predicted images (pMF), or direct.

    python benchmarks/pmf_digits.py [--out out/pmf_digits] [--seeds 0 1 2] [--compared 3]

The other network is improved MeanFlow's on patches of the same size, with as many blocks, conditions and steps. Trains
both per seed if their weights are not in the folder; the classifier of examples/digits judges 1000 samples. The goals
were chosen before anything was trained.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from on_digits import Figures, compared, figures, trained

SHARED = ("train.steps=450", "train.batch_size=64", "train.ema=0.99", "train.schedule.warmup=50")
SYSTEMS = {"image": ("digits_pmf", SHARED), "velocity": ("digits_improved_mean_flow", (*SHARED, "backbone.patch=4"))}


def main() -> int:
    """Runs the benchmark; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/pmf_digits"), help="folder of projects and bundles")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the trainings")
    parser.add_argument("--compared", type=int, help="seeds, from the first, that also train the other; default: all")
    given = parser.parse_args()
    both = given.seeds[: given.compared]
    results: dict[str, list[Figures]] = {name: [] for name in SYSTEMS}
    for seed in given.seeds:
        for name, (spec, overrides) in list(SYSTEMS.items())[: 1 + (seed in both)]:
            run = trained(spec, given.out / f"{name}{seed}", overrides=overrides, seed=seed)
            found = figures(spec, run.weights, given.out / f"{name}{seed}-bundle", overrides=overrides)
            print(f"{name}, seed {seed}: {run.seconds:.0f} s of a processor, {found}", flush=True)
            results[name].append(found)
    return compared(results, accuracy=0.9, frechet=0.8)


if __name__ == "__main__":
    sys.exit(main())
