"""Digit GANs, with and without a term of their losses, judged by the classifier of examples/digits.

    python benchmarks/digits_gans.py [--only classifier] [--out out/digits_gans] [--steps N] [--seeds 1]

classifier  digits_wgan_gp with the generator's factor of the classifier that the authors use for CIFAR-10 (0.1), and
            as it ships (1). Goal: 90 % of the samples as shipped are of the requested class.
slicing     digits_biggan as it ships, and as a slicing adversarial network (SAN). Goal: the Fréchet distance falls, as
            in the paper. It is missed: after 800 steps it rises, and fewer samples are of the requested class.

Trains what is not in the folder yet, compiles it and judges 2000 samples of the engine. About two minutes per training.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import verdict
from on_digits import figures, spread, trained

SAMPLES = 2000
FIRST = 8_000_000  # seed of the first sample
_CLASSIFIED = "objective.terms=[wasserstein, gradient_penalty, {{kind: auxiliary_classifier, generator_weight: {}}}]"


@dataclass(frozen=True)
class Comparison:
    """Trainings of a spec by name, with their overrides; the last should be the better one.

    `goal` is the class accuracy of the last; without one, its Fréchet distance must be below the first's.
    """

    spec: str
    trainings: dict[str, tuple[str, ...]]
    goal: float | None = None


COMPARISONS = {
    "classifier": Comparison("digits_wgan_gp", {f"factor_{f}": (_CLASSIFIED.format(f),) for f in (0.1, 1)}, goal=0.9),
    "slicing": Comparison(
        "digits_biggan",
        {"hinge": (), "san": ("objective.terms=[hinge, slicing]", "networks.discriminator.sliced=true")},
    ),
}


def compared(name: str, out: Path, steps: int | None, seeds: int) -> str:
    """Trains and judges a comparison, and tells whether its goal is met."""
    comparison, accuracies, distances = COMPARISONS[name], [], []
    for training, overrides in comparison.trainings.items():
        found = []
        for seed in range(seeds):
            folder = out / name / training / f"seed_{seed}"
            weights = trained(comparison.spec, folder / "project", overrides=overrides, seed=seed, steps=steps).weights
            found.append(figures(comparison.spec, weights, folder / "bundle", overrides, SAMPLES, FIRST))
        accuracies.append([one.accuracy for one in found])
        distances.append([one.frechet for one in found])
        print(f"{name}, {training}: accuracy {spread(accuracies[-1])}, Fréchet distance {spread(distances[-1])}")
    if comparison.goal is not None:
        accuracy = float(np.mean(accuracies[-1]))
        return verdict(f"class accuracy of {comparison.spec}", accuracy, comparison.goal, unit="of the samples")
    ratio = float(np.mean(distances[0]) / np.mean(distances[-1]))
    return verdict(f"Fréchet distance of {comparison.spec} without the option over that with it", ratio, 1.0)


def main() -> int:
    """Runs the benchmark; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=tuple(COMPARISONS), help="one comparison alone")
    parser.add_argument("--out", type=Path, default=Path("out/digits_gans"), help="folder for projects and bundles")
    parser.add_argument("--steps", type=int, help="training steps of the generator; default: the spec's")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each kind")
    arguments = parser.parse_args()
    missed = 0
    for name in [arguments.only] if arguments.only else COMPARISONS:
        line = compared(name, arguments.out, arguments.steps, arguments.seeds)
        print(line)
        missed += "MISSED" in line
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
