"""`digits_pix2pixhd` with and without its matched features: the quality of digits made of maps that nothing has seen.

    python benchmarks/pix2pixhd_digits.py [--out out/pix2pixhd] [--seeds 3] [--steps N]

The maps are the means of 2 × 2 pixels of the 899 held-out digits. Judged are the mean absolute error against those
digits, in a range from -1 to 1, and class accuracy and Fréchet distance by the classifier of examples/digits. Goal:
matched features lower both error and Fréchet distance by more than the spread of the seeds. What is in the folder
already is not trained again.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from common import verdict
from on_digits import images, judged, of_trainings, trained

from latentc import api
from latentc_runtime import load

SPEC = "digits_pix2pixhd"
TRAININGS = {"scores alone": ("objective.features=0",), "features": ()}


def measured(out: Path, overrides: tuple[str, ...], seed: int, steps: int | None) -> dict[str, float]:
    """The figures of a training."""
    training = trained(SPEC, out / "project", overrides=overrides, seed=seed, steps=steps)
    bundle = out / "bundle.latentc"
    api.compile(SPEC, training.weights, bundle, overrides=list(overrides))
    x, y = images(1)
    maps = x.reshape(-1, 1, 4, 2, 4, 2).mean((3, 5))
    made = load(bundle, "cpu").sample(conditions={"map": maps})
    figures = judged(made, y)
    error = float(np.abs(made - x).mean())
    return {"seconds": training.seconds, "error": error, "accuracy": figures.accuracy, "frechet": figures.frechet}


def main() -> int:
    """Train, measure and say what was met."""
    without, matched = of_trainings(__doc__, Path("out/pix2pixhd"), TRAININGS, measured).values()
    for key in ("error", "frechet"):
        print(verdict(key, [row[key] for row in matched], min(row[key] for row in without), "", least=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
