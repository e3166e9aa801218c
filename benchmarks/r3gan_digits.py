"""R3GAN on digits: is its loss better than the usual one with the same networks?

    python benchmarks/r3gan_digits.py [--out out/r3gan_digits] [--seeds 0 1 2] [--steps 1000]

Trains digits_r3gan on scikit-learn's digits with its loss (samples compared with data, gradient penalties at both), and
the same networks with the non-saturating loss and the penalty at data alone (R1, the same weight). 2000 samples of each
engine are judged by the classifier of examples/digits. Goals, set before the first run: at least 90 % of the samples
are of the requested class, and the Fréchet distance is smaller than with the usual loss, in every seed. Trainings take
a minute each on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from on_digits import Figures, compared, figures, trained

R1 = "{kind: gradient_penalty, at: real, target: 0, weight: 0.5}"
LOSSES = {"pairs": [], "usual": [f"objective.terms=[non_saturating, {R1}]"]}


def main() -> int:
    """Runs the benchmark; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/r3gan_digits"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="default: those of the spec")
    flags = parser.parse_args()
    found: dict[str, list[Figures]] = {loss: [] for loss in LOSSES}
    for seed in flags.seeds:
        for loss, overrides in LOSSES.items():
            folder = flags.out / f"{loss}-{seed}"
            options = [*overrides, *([f"train.steps={flags.steps}"] if flags.steps else [])]
            run = trained("digits_r3gan", folder / "project", overrides=options, seed=seed)
            found[loss].append(figures("digits_r3gan", run.weights, folder / "engine", options, samples=2000))
            print(f"{loss}, seed {seed}: {found[loss][-1]} ({run.seconds:.0f} s)", flush=True)
    return compared(found, accuracy=0.9, frechet=1.0)


if __name__ == "__main__":
    raise SystemExit(main())
