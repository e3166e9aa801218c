"""Digits in one evaluation: MeanFlow against the flow model in 25 guided steps of Heun's method, 100 evaluations, and
score implicit matching against its teacher, the guided digit DiT in 50 steps, 100 evaluations.

    python benchmarks/one_step_digits.py [--out out/one_step_digits] [--only mean_flow|sim]

Trains each pair if its weights are not in the folder, compiles the samplers, and has the classifier of examples/digits
judge 2000 samples of each. Goal: class accuracy within 3 % of the model in many steps. Takes about ten minutes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from common import verdict
from distil_digits import FIRST, SAMPLES, trained
from reduce_digits import METRICS

import latentc_runtime
from latentc import api

PAIRS = {"mean_flow": ("digits_sit", "digits_mean_flow", False), "sim": ("digits_dit", "digits_sim", True)}
"""{name: (spec in many steps, spec in one, whether the first teaches the second)}"""


def main() -> int:
    """Runs the benchmark; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/one_step_digits"), help="folder of projects and bundles")
    parser.add_argument("--only", choices=PAIRS, help="one of the pairs")
    arguments = parser.parse_args()
    missed = False
    for name, (many, one, teaches) in PAIRS.items():
        if arguments.only in (None, name):
            weights = trained(many, arguments.out / many / "project", None)
            student = trained(one, arguments.out / one / "project", weights if teaches else None)
            before, after = (accuracy(s, w, arguments.out) for s, w in ((many, weights), (one, student)))
            line = verdict(f"{one}: class accuracy of 1 evaluation, of that of {many}", after / before, 0.97)
            missed |= "MISSED" in line
            print(line)
    return int(missed)


def accuracy(spec: str, weights: Path, out: Path) -> float:
    """Class accuracy of samples from the engine."""
    sys.path.insert(0, str(METRICS.parent))
    from metrics import judged

    api.compile(spec, weights, out / spec / "bundle")
    pipe, labels = latentc_runtime.load(out / spec / "bundle", "cpu"), np.arange(SAMPLES) % 10
    found = judged(pipe.sample(labels, np.arange(FIRST, FIRST + SAMPLES)), labels)
    print(f"{spec}: accuracy {found['accuracy'][0]:.4f}, Fréchet distance {found['frechet']:.4f}")
    return float(found["accuracy"][0])


if __name__ == "__main__":
    sys.exit(main())
