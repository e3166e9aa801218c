"""What techniques of guidance do for the digit DiT, and how well it classifies.

    python benchmarks/guidance_digits.py [--out out/guidance_digits] [--weights FILE]

Quality: class accuracy and Fréchet distance of 1000 samples by the classifier of examples/digits. Variety: the mean
distance between two samples of one class, relative to that of held-out digits. Under strong guidance, schedules and
condition annealing (CADS) should win variety; without a class, self-attention and blur guidance should win quality. The
classifier compares the errors of 16 predictions of noise in all classes, then of 64 more in the three best. The weights
are trained once and kept in the folder.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from common import verdict
from reduce_digits import METRICS, trained

import latentc_runtime
from latentc import api

SPEC, COUNT, FRESH, CLASSIFIED, EVENTS = "digits_dit", 1000, 9_000_000, 300, 200
STRONG = {
    "constant": "{scale: 4}",
    "linear": "{scale: 4, schedule: linear}",
    "power-cosine": "{scale: 4, schedule: cosine, power: 2}",
}
ANNEALING = "{noise: 1.0, start: 0.2, stop: 0.7}"
NO_CLASS = "{scale: 0}"  # u + 0 (c - u): the prediction without the class
AWAY = {
    "self-attention": "{kind: self_attention, absent: [class], scale: 1.4, sigma: 1, kernel: 5}",
    "blur": "{kind: blur, absent: [class], scale: 1.4, sigma: 1, kernel: 5}",
}


def main() -> int:
    """Runs the benchmark; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/guidance_digits"), help="weights and bundles")
    parser.add_argument("--weights", type=Path, help="weights of digits_dit, trained if left out")
    given = parser.parse_args()
    sys.path.insert(0, str(METRICS.parent))
    weights = given.weights or trained(given.out / "project")
    strong = {name: figures(weights, given.out / name, f"sampler.guidance={text}") for name, text in STRONG.items()}
    strong["CADS"] = figures(
        weights, given.out / "cads", f"sampler.guidance={STRONG['constant']}", f"sampler.annealing={ANNEALING}"
    )
    plain = figures(weights, given.out / "no_class", f"sampler.guidance={NO_CLASS}", classes=False)
    away = {
        name: figures(weights, given.out / name, f"sampler.guidance=[{NO_CLASS}, {text}]", classes=False)
        for name, text in AWAY.items()
    }
    for name, found in {**strong, "no class": plain, **away}.items():
        print(f"{name:15}", *(f"{what} {value:.3f}" for what, value in found.items()), sep="  ")
    happened, excess, real = event(weights, given.out / "event")
    print(f"event: {happened:.3f} of samples, mean excess {excess:.3f}, of digits with the event {real:.3f}")
    tree, drawn = searched(weights, given.out / "search")
    print(f"brightest of 80 samples: by DTS* {tree:.3f}, by drawing {drawn:.3f}")
    accuracy, evaluations = classified(weights, given.out / "classifier")
    base = strong["constant"]
    lines = [
        verdict(
            "variety of power-cosine, of constant guidance", strong["power-cosine"]["variety"] / base["variety"], 1.1
        ),
        verdict("variety under CADS, of constant guidance", strong["CADS"]["variety"] / base["variety"], 1.1),
        verdict("class accuracy under CADS, of constant guidance", strong["CADS"]["accuracy"] / base["accuracy"], 0.95),
        *(
            verdict(f"Fréchet distance, {name} to none", one["frechet"] / plain["frechet"], 0.95, least=False)
            for name, one in away.items()
        ),
        verdict("samples with an event that 5 % of digits have", happened, 0.8, ""),
        verdict("reward found by DTS*, above that of as many samples", tree - drawn, 0.02, ""),
        verdict(f"accuracy as a classifier ({evaluations:.0f} evaluations per sample)", accuracy, 0.9, ""),
    ]
    print("\n".join(lines))
    return int(any("MISSED" in line for line in lines))


def figures(weights: Path, folder: Path, *overrides: str, classes: bool = True) -> dict[str, float]:
    """Accuracy, Fréchet distance and variety of samples; without `classes`, variety is over all samples."""
    from metrics import judged, split

    api.compile(SPEC, weights, folder, overrides=["sampler.steps=25", *overrides])
    labels = np.arange(COUNT) % 10
    pipe = latentc_runtime.load(folder, "cpu")
    samples = pipe.sample(labels, np.arange(FRESH, FRESH + COUNT))
    found = judged(samples, labels)
    heldout = split()[1]
    real = (heldout.images[:, None] / 8 - 1, heldout.labels)
    return {
        "accuracy": float(found["accuracy"][0]),
        "frechet": float(found["frechet"]),
        "variety": variety(samples, labels if classes else labels * 0)
        / variety(real[0], real[1] if classes else real[1] * 0),
    }


def event(weights: Path, folder: Path) -> tuple[float, float, float]:
    """How many samples have an event (a mean that 5 % of digits exceed), their mean excess, and the digits'."""
    from metrics import split

    digits = np.concatenate([half.images for half in split()]).reshape(-1, 64) / 8.0 - 1.0
    means = digits.mean(axis=1)
    bound = round(float(np.quantile(means, 0.95)), 3)
    term = f"{{kind: score, score: {{kind: event, number: mean, above: {bound}}}}}"
    api.compile(SPEC, weights, folder, overrides=["sampler.steps=25", f"sampler.guidance={term}"])
    labels = np.arange(EVENTS) % 10
    samples = latentc_runtime.load(folder, "cpu").sample(labels, np.arange(FRESH, FRESH + EVENTS))
    found = samples.reshape(EVENTS, -1).mean(axis=1)
    return float((found > bound).mean()), float((found - bound).mean()), float((means[means > bound] - bound).mean())


def searched(weights: Path, folder: Path) -> tuple[float, float]:
    """The mean brightness of the brightest of 80 samples, by DTS* and by drawing them, over 20 trees."""
    from latentc_runtime.tree import search

    api.compile(SPEC, weights, folder, overrides=["sampler={kind: ddpm, steps: 20, guidance: {scale: 1.25}}"])
    pipe, labels = latentc_runtime.load(folder, "cpu"), np.arange(20) % 10
    settings: Any = {"rollouts": 80, "greedy": True, "sharpness": 50.0, "widening": (1.0, 0.5), "exploration": 0.02}

    def brightness(samples: np.ndarray, classes: object) -> np.ndarray:
        return np.asarray(samples.mean(axis=(1, 2, 3)))

    found = [search(pipe, brightness, labels, levels=levels, seed=7, **settings) for levels in (3, 1)]
    return float(found[0].rewards.mean()), float(found[1].rewards.mean())


def variety(samples: np.ndarray, labels: np.ndarray) -> float:
    """The mean distance between two samples of one class, averaged over the classes."""
    means = []
    for label in np.unique(labels):
        flat = samples[labels == label].reshape(np.count_nonzero(labels == label), -1).astype(np.float64)
        squares = (flat**2).sum(1)
        distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * flat @ flat.T, 0))
        means.append(distances.sum() / (len(flat) * (len(flat) - 1)))
    return float(np.mean(means))


def classified(weights: Path, folder: Path) -> tuple[float, float]:
    """Accuracy on held-out digits, and evaluations of the network per sample."""
    from metrics import split

    from latentc_runtime.classify import Round, classify

    api.compile(SPEC, weights, folder, overrides=["sampler.steps=2", "sampler.classify={trials: 16}"])
    heldout: Any = split()[1]
    images, labels = heldout.images[:CLASSIFIED, None] / 8.0 - 1.0, heldout.labels[:CLASSIFIED]
    pipe = latentc_runtime.load(folder, "cpu")
    found = classify(pipe, images, [Round(1, 3), Round(4, 1)])
    return float((found.labels == labels).mean()), found.evaluations / CLASSIFIED


if __name__ == "__main__":
    sys.exit(main())
