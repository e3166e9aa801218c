"""`digits_vae`, trained with three seeds: its samples, its bound of the likelihood, and classes by the likelihood.

    python benchmarks/vae_digits.py [--out out/vae] [--seeds 3] [--steps N]

2000 samples of the engine are judged by the classifier of examples/digits. Program `log_likelihood` estimates the
density of the 899 held-out digits from 1 latent, as the bound of training, and from 16; the class under which it is
highest is that of the digit, if the model knows the classes. Goals: 95 % of the samples are of the requested class,
95 % of the held-out digits are classified by the likelihood, and the estimate rises with the number of latents by more
than the spread of the seeds. A training takes about half a minute of one core; what is in the folder already is not
trained again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from common import verdict
from on_digits import drawn, images, judged, of_seed, spread, trained

from latentc import api
from latentc_runtime import load
from latentc_runtime.classify import classify

SPEC = "digits_vae"
SAMPLES = 2000
FIRST = 8_000_000  # seed of the first sample
GOAL = 0.95
LATENTS = (1, 16)  # of an estimate of the likelihood


def measured(out: Path, seed: int, steps: int | None) -> dict[str, float]:
    """The figures of one seed."""
    project = of_seed(out, SPEC, seed)
    training = trained(SPEC, project, seed=seed, steps=steps)
    x, y = images(1)
    found = {"seconds": training.seconds}
    for latents in LATENTS:
        bundle = project.with_name(f"vae-{latents}.latentc")
        api.compile(SPEC, training.weights, bundle, overrides=[f"sampler.likelihood_samples={latents}"])
        pipe = load(bundle, "cpu")
        density = pipe.sample(program="log_likelihood", conditions={"x": x, "class": y}, seeds=FIRST)
        found[f"nats_{latents}"] = float(np.mean(density))
    found["classified"] = float(np.mean(classify(pipe, x).labels == y))
    figures = judged(drawn(bundle, SAMPLES, FIRST), np.arange(SAMPLES) % 10)
    return {**found, "accuracy": figures.accuracy, "frechet": figures.frechet}


def main() -> int:
    """Train, measure and say what was met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/vae"), help="folder of projects and bundles")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--steps", type=int, help="steps of training; by default those of the spec")
    args = parser.parse_args()
    rows = [measured(args.out, seed, args.steps) for seed in range(args.seeds)]
    for name in rows[0]:
        print(f"{name}: {spread([row[name] for row in rows])}")
    for name, what in (("accuracy", "samples of their class"), ("classified", "digits classified by the likelihood")):
        print(verdict(what, [row[name] for row in rows], GOAL, ""))
    few, many = ([row[f"nats_{latents}"] for row in rows] for latents in LATENTS)
    print(verdict("estimate of the likelihood, nats", many, max(few), "nats"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
