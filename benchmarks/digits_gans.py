"""Class accuracy of the digit WGAN-GP, whose generator learns classes from an auxiliary classifier.

    python benchmarks/digits_gans.py [--out out/digits_gans] [--steps 1000]

Trains digits_wgan_gp twice if its weights are not in the folder: as it ships, and with the generator's factor of the
classifier that the authors use for CIFAR-10 (0.1 instead of 1). Compiles both and has the classifier of examples/digits
judge 2000 samples of each. Goal: 90 % of the samples as shipped are of the requested class. Takes about five minutes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from common import verdict
from on_digits import figures, trained

SPEC = "digits_wgan_gp"
SAMPLES = 2000
FIRST = 8_000_000  # seed of the first sample
TERMS = "[wasserstein, gradient_penalty, {{kind: auxiliary_classifier, generator_weight: {}}}]"
FACTORS = (0.1, 1)  # of the classifier in the generator's loss; the last is the spec's


def main() -> int:
    """Runs the benchmark; 1 if the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/digits_gans"), help="folder for projects and bundles")
    parser.add_argument("--steps", type=int, default=1000, help="training steps of the generator")
    arguments = parser.parse_args()
    accuracy = 0.0
    for factor in FACTORS:
        folder = arguments.out / f"factor_{factor}"
        overrides = [f"objective.terms={TERMS.format(factor)}"]
        weights = trained(SPEC, folder / "project", overrides=overrides, steps=arguments.steps).weights
        found = figures(SPEC, weights, folder / "bundle", overrides, SAMPLES, FIRST)
        accuracy = found.accuracy
        print(f"factor {factor}: {found}")
    line = verdict("class accuracy of the digit WGAN-GP", accuracy, 0.9, unit="of the samples")
    print(line)
    return int("MISSED" in line)


if __name__ == "__main__":
    sys.exit(main())
