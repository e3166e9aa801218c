"""What techniques of guidance do for the digit DiT, and how well it classifies.

    python benchmarks/guidance_digits.py [--out out/guidance_digits] [--seeds 0 1 2]

Quality: class accuracy and Fréchet distance of 1000 samples by the classifier of examples/digits. Variety: the mean
distance between two samples of one class, relative to that of held-out digits. Under strong guidance, schedules and
condition annealing (CADS) should win variety; without a class, self-attention and blur guidance should win quality. The
classifier compares the errors of 16 predictions of noise in all classes, then of 64 more in the three best. Figures are
means over trainings with several seeds, whose weights are kept in the folder; goals are for the means.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from common import verdict
from on_digits import drawn, halves, images, judged, of_seed, spread, trained

import latentc_runtime
from latentc import api

SPEC, COUNT, FRESH, CLASSIFIED, EVENTS = "digits_dit", 1000, 9_000_000, 300, 200
STRONG = {
    "constant": "{scale: 4}",
    "linear": "{scale: 4, schedule: linear}",
    "power-cosine": "{scale: 4, schedule: cosine, power: 2}",
}
ANNEALING = "{kind: annealing, noise: 1.0, start: 0.2, stop: 0.7}"
NO_CLASS = "{scale: 0}"  # u + 0 (c - u): the prediction without the class
AWAY = {
    "self-attention": "{kind: self_attention, absent: [class], scale: 1.4, sigma: 1, kernel: 5}",
    "blur": "{kind: blur, absent: [class], scale: 1.4, sigma: 1, kernel: 5}",
}


def main() -> int:
    """Runs the benchmark; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/guidance_digits"), help="weights and bundles")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the trainings")
    given = parser.parse_args()
    found: dict[str, dict[str, list[float]]] = {}
    for seed in given.seeds:
        for name, figures in measured(given.out, seed).items():
            for what, value in figures.items():
                found.setdefault(name, {}).setdefault(what, []).append(value)
    for name, figures_of in found.items():
        print(f"{name:15}", *(f"{what} {spread(values)}" for what, values in figures_of.items()), sep="  ")

    def mean(name: str, what: str) -> float:
        return float(np.mean(found[name][what]))

    def against(name: str, what: str, base: str = "constant") -> float:
        return mean(name, what) / mean(base, what)

    evaluations = mean("classifier", "evaluations")
    lines = [
        verdict("variety of power-cosine, of constant guidance", against("power-cosine", "variety"), 1.1),
        verdict("variety under CADS, of constant guidance", against("CADS", "variety"), 1.1),
        verdict("class accuracy under CADS, of constant guidance", against("CADS", "accuracy"), 0.95),
        *(
            verdict(f"Fréchet distance, {name} to none", against(name, "frechet", "no class"), 0.95, least=False)
            for name in AWAY
        ),
        verdict("samples with an event that 5 % of digits have", mean("event", "happened"), 0.8, ""),
        verdict("reward found by DTS*, above that of as many samples", mean("search", "gain"), 0.02, ""),
        verdict(
            f"accuracy as a classifier ({evaluations:.0f} evaluations per sample)",
            mean("classifier", "accuracy"),
            0.9,
            "",
        ),
    ]
    print("\n".join(lines))
    return int(any("MISSED" in line for line in lines))


def measured(out: Path, seed: int) -> dict[str, dict[str, float]]:
    """All figures of one training."""
    weights, out = trained(SPEC, of_seed(out, SPEC, seed), seed=seed).weights, out / f"seed{seed}"
    found = {name: figures(weights, out / name, f"sampler.guidance={text}") for name, text in STRONG.items()}
    annealed = (f"sampler.guidance={STRONG['constant']}", f"programs=[{ANNEALING}]")
    found["CADS"] = figures(weights, out / "cads", *annealed)
    found["no class"] = figures(weights, out / "no_class", f"sampler.guidance={NO_CLASS}", classes=False)
    for name, text in AWAY.items():
        found[name] = figures(weights, out / name, f"sampler.guidance=[{NO_CLASS}, {text}]", classes=False)
    happened, excess, real = event(weights, out / "event")
    found["event"] = {"happened": happened, "excess": excess, "excess of digits": real}
    tree, alone = searched(weights, out / "search")
    found["search"] = {"DTS*": tree, "drawn": alone, "gain": tree - alone}
    accuracy, evaluations = classified(weights, out / "classifier")
    found["classifier"] = {"accuracy": accuracy, "evaluations": evaluations}
    return found


def figures(weights: Path, folder: Path, *overrides: str, classes: bool = True) -> dict[str, float]:
    """Accuracy, Fréchet distance and variety of samples; without `classes`, variety is over all samples."""
    api.compile(SPEC, weights, folder, overrides=["sampler.steps=25", *overrides])
    samples, labels = drawn(folder, COUNT, FRESH), np.arange(COUNT) % 10
    found, real = judged(samples, labels), images(1)
    return {
        **found._asdict(),
        "variety": variety(samples, labels if classes else labels * 0)
        / variety(real[0], real[1] if classes else real[1] * 0),
    }


def event(weights: Path, folder: Path) -> tuple[float, float, float]:
    """How many samples have an event (a mean that 5 % of digits exceed), their mean excess, and the digits'."""
    digits = np.concatenate([half.images for half in halves()]).reshape(-1, 64) / 8.0 - 1.0
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
    from latentc_runtime.classify import Round, classify

    api.compile(SPEC, weights, folder, overrides=["sampler.steps=2", "programs=[{kind: classify, trials: 16}]"])
    heldout, labels = (part[:CLASSIFIED] for part in images(1))
    pipe = latentc_runtime.load(folder, "cpu")
    found = classify(pipe, heldout, [Round(1, 3), Round(4, 1)])
    return float((found.labels == labels).mean()), found.evaluations / CLASSIFIED


if __name__ == "__main__":
    sys.exit(main())
