"""Digits in one evaluation: MeanFlow against the flow model in 25 guided steps of Heun's method, 100 evaluations, and
score implicit matching against its teacher, the guided digit DiT in 50 steps, 100 evaluations.

    python benchmarks/one_step_digits.py [--out out/one_step_digits] [--only mean_flow|sim] [--seeds 0 1 2]

Trains each pair with every seed if its weights are not in the folder, compiles the samplers, and has the classifier of
examples/digits judge 2000 samples of each. Goal: class accuracy within 3 % of the model in many steps, on
average. Takes about ten minutes per seed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from common import verdict
from on_digits import Figures, figures, of_seed, spread, trained

SAMPLES, FIRST = 2000, 7_000_000  # and the seed of the first one
PAIRS = {"mean_flow": ("digits_sit", "digits_mean_flow", False), "sim": ("digits_dit", "digits_sim", True)}
"""{name: (spec in many steps, spec in one, whether the first teaches the second)}"""


def main() -> int:
    """Runs the benchmark; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/one_step_digits"), help="folder of projects and bundles")
    parser.add_argument("--only", choices=PAIRS, help="one of the pairs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the trainings")
    given = parser.parse_args()
    lines = [line for name in PAIRS if given.only in (None, name) for line in compared(name, given.out, given.seeds)]
    print("\n".join(lines))
    return int(any("MISSED" in line for line in lines))


def compared(name: str, out: Path, seeds: list[int]) -> list[str]:
    """Trains and judges a pair with every seed."""
    many, one, teaches = PAIRS[name]
    found: dict[str, list[Figures]] = {many: [], one: []}
    for seed in seeds:
        teacher: dict[str, Path] = {}
        for spec in (many, one):
            project = of_seed(out, spec, seed)
            weights = trained(spec, project, teacher, seed=seed).weights
            teacher = {"teacher": weights} if teaches else {}
            found[spec].append(figures(spec, weights, project / "bundle", samples=SAMPLES, first=FIRST))
    for spec, each in found.items():
        accuracy, distance = (spread(f[i] for f in each) for i in (0, 1))
        print(f"{spec}: accuracy {accuracy}, Fréchet distance {distance}", flush=True)
    before, after = (float(np.mean([f.accuracy for f in found[spec]])) for spec in (many, one))
    return [verdict(f"{one}: class accuracy of 1 evaluation, of that of {many}", after / before, 0.97)]


if __name__ == "__main__":
    sys.exit(main())
