"""`digits_cyclegan` with and without its cycle: held-out threes as eights, and how much of each three is kept.

    python benchmarks/cyclegan_digits.py [--out out/cyclegan] [--seeds 3] [--steps N]

Threes are translated by an engine, and back by another one. Judged are class accuracy of the translations by the
classifier of examples/digits; the mean absolute error of threes that went there and back, in a range from -1 to 1; and
the share of translations whose nearest three, by absolute difference, is their own. Goal: the cycle lowers the error
and raises the share by more than the spread of the seeds, at an accuracy of at least 0.9. What is in the folder already
is not trained again.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from common import verdict
from on_digits import images, judged, of_trainings, trained

from latentc import api
from latentc.weights import read_safetensors
from latentc.weights.read import materialise
from latentc_runtime import load

SPEC, SOURCE, TARGET = "digits_cyclegan", 3, 8
TRAININGS = {
    "least squares alone": ("objective.cycle=0", "objective.identity=0"),
    "without the cycle": ("objective.cycle=0",),
    "with the cycle": (),
}


def measured(out: Path, overrides: tuple[str, ...], seed: int, steps: int | None) -> dict[str, float]:
    """The figures of a training."""
    training = trained(SPEC, out / "project", overrides=overrides, seed=seed, steps=steps)
    bundle, back = out / "there.latentc", out / "back.latentc"
    api.compile(SPEC, training.weights, bundle, overrides=list(overrides))
    every = read_safetensors(training.weights.with_name("weights_raw.safetensors"))
    reverse = {name[len("reverse.") :]: materialise(x) for name, x in every.items() if name.startswith("reverse.")}
    turned = [f"data.source={TARGET}", f"data.target={SOURCE}"]
    api.compile(SPEC, reverse, back, overrides=[*overrides, *turned])
    x, y = images(1)
    threes = x[y == SOURCE]
    made = load(bundle, "cpu").sample(conditions={"image": threes})
    again = load(back, "cpu").sample(conditions={"image": made})
    apart = np.abs(made[:, None] - threes[None]).mean((2, 3, 4))
    return {
        "seconds": training.seconds,
        "accuracy": judged(made, np.full(len(made), TARGET)).accuracy,
        "error": float(np.abs(again - threes).mean()),
        "own": float((apart.argmin(1) == np.arange(len(threes))).mean()),
        "change": float(np.abs(made - threes).mean()),
    }


def main() -> int:
    """Train, measure and say what was met."""
    *others, whole = of_trainings(__doc__, Path("out/cyclegan"), TRAININGS, measured).values()
    without = [row for rows in others for row in rows]
    print(verdict("accuracy", [row["accuracy"] for row in whole], 0.9, ""))
    print(verdict("error", [row["error"] for row in whole], min(row["error"] for row in without), "", least=False))
    print(verdict("own", [row["own"] for row in whole], max(row["own"] for row in without), ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
