"""`digits_ada` on 100 digits, against the same GAN without augmentation.

    python benchmarks/ada_digits.py [--out out/ada] [--seeds 3] [--steps N]

Ten digits of each class. 2000 samples of the engine are judged by the classifier of examples/digits, its Fréchet
distance by the 899 held-out digits. Goal, as in the paper: ADA lowers the Fréchet distance by more than the spread of
the seeds. What is in the folder already is not trained again.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from common import verdict
from on_digits import figures, images, of_trainings, trained

EACH, SAMPLES, FIRST = 10, 2000, 8_000_000  # images of each digit, samples, seed of the first one
WITHOUT = ("objective={kind: adversarial, discriminator_steps: 2}", "networks.probability=null")
TRAININGS = {"without augmentation": WITHOUT, "ADA": ()}


def written(folder: Path) -> Path:
    """A file of the first images of each digit."""
    x, y = images(0)
    few = np.concatenate([np.flatnonzero(y == digit)[:EACH] for digit in range(10)])
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "few.npz", x=x[few], y=y[few])
    return (folder / "few.npz").resolve()


def measured(out: Path, overrides: tuple[str, ...], seed: int, steps: int | None) -> dict[str, float]:
    """The figures of a training."""
    given = (*overrides, f"data={{kind: npz, path: {written(out)}, classes: 10, shape: [1, 8, 8]}}")
    training = trained("digits_ada", out / "project", overrides=given, seed=seed, steps=steps)
    found = figures("digits_ada", training.weights, out / "bundle", given, SAMPLES, FIRST)
    return {"seconds": training.seconds, "frechet": found.frechet, "accuracy": found.accuracy}


def main() -> int:
    """Train, measure and say what was met; 1 if a goal is missed."""
    without, adaptive = of_trainings(__doc__, Path("out/ada"), TRAININGS, measured).values()
    least = min(row["frechet"] for row in without)
    line = verdict("Fréchet distance", [row["frechet"] for row in adaptive], least, "", least=False)
    print(line)
    return int("MISSED" in line)


if __name__ == "__main__":
    sys.exit(main())
