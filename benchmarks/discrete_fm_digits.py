"""Digits by discrete flow matching from random tokens: what a corrector does for samples of the same network.

    python benchmarks/discrete_fm_digits.py [--out out/discrete_fm_digits] [--seeds 0 1 2]

Trains `digits_discrete_fm` per seed if its weights are not in the folder; the classifier of examples/digits judges 1000
samples of 32 steps with the spec's corrector and without. The goals were chosen before anything was trained.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from on_digits import Figures, compared, figures, trained

SPEC = "digits_discrete_fm"
SAMPLERS = {"corrected": (), "not corrected": ("sampler.corrector=null",)}


def main() -> int:
    """Runs the benchmark; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/discrete_fm_digits"), help="folder of the trainings")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the trainings")
    given = parser.parse_args()
    found: dict[str, list[Figures]] = {name: [] for name in SAMPLERS}
    for seed in given.seeds:
        run = trained(SPEC, given.out / f"seed{seed}", seed=seed)
        for name, overrides in SAMPLERS.items():
            bundle = given.out / f"seed{seed}-{name.replace(' ', '_')}"
            found[name].append(figures(SPEC, run.weights, bundle, overrides))
            print(f"seed {seed}, {name}: {run.seconds:.0f} s of a processor, {found[name][-1]}", flush=True)
    return compared(found, accuracy=0.9, frechet=0.8)


if __name__ == "__main__":
    sys.exit(main())
