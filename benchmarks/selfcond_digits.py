"""Self-conditioned GANs on digits without labels: do clusters as classes make samples more diverse?

    python benchmarks/selfcond_digits.py [--out out/selfcond_digits] [--seeds 0 1 2] [--clusters 20]

Trains digits_selfcond on scikit-learn's digits without labels, with so many clusters found again every 300 steps, and
the same networks without classes. Of 2000 samples of each engine, whose clusters are as frequent as in the data, the
classifier of examples/digits says which digits they are. Figures: how many of the ten digits have at least 2 % of the
samples, the entropy of the digits (2.303 nats if all are equally frequent, 2.302 in the data) and the Fréchet distance.
Goal, set before the first run: with every number of clusters the entropy is larger, and the distance smaller, than
without labels, beyond the spread of the seeds. Trainings take a minute each on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
from common import verdict
from numpy.typing import NDArray
from on_digits import images, judged, spread, trained

import latentc_runtime
from latentc import api
from latentc.evaluate.extractors.digits import Digits

SAMPLES, FIRST, SHARE = 2000, 8_000_000, 0.02
TERMS = "[non_saturating, {kind: gradient_penalty, at: real, target: 0, weight: 0.1}]"
WITHOUT = ["conditioning.class=null", f"objective={{kind: adversarial, terms: {TERMS}}}"]


class Diversity(NamedTuple):
    """Digits that have a share of the samples, the entropy of all in nats, and the Fréchet distance."""

    covered: int
    entropy: float
    frechet: float


def main() -> int:
    """Runs the benchmark; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/selfcond_digits"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--clusters", type=int, nargs="+", default=[20])
    flags = parser.parse_args()
    flags.out.mkdir(parents=True, exist_ok=True)
    data = (flags.out / "digits.npz").resolve()
    np.savez(data, x=images(0)[0])
    found: dict[int, list[Diversity]] = {count: [] for count in (0, *flags.clusters)}
    for seed in flags.seeds:
        for count, made in found.items():
            options = [f"data={{kind: npz, path: '{data}', shape: [1, 8, 8], classes: {count}}}"]
            options += [] if count else WITHOUT
            folder = flags.out / f"{count}-{seed}"
            run = trained("digits_selfcond", folder / "project", overrides=options, seed=seed)
            made.append(diversity(drawn(run.weights, folder / "engine", options, count)))
            print(f"{count} clusters, seed {seed}: {made[-1]} ({run.seconds:.0f} s)", flush=True)
    for count, made in found.items():
        covered, entropy, frechet = zip(*made, strict=True)
        shown = f"entropy {spread(entropy)}, Fréchet distance {spread(frechet)}"
        print(f"{count} clusters: digits {spread(covered, 1)}, {shown}")
    lines = []
    for count in flags.clusters:
        pairs = list(zip(found[count], found[0], strict=True))
        gains = [own.entropy - its.entropy for own, its in pairs]
        lines.append(verdict(f"entropy with {count} clusters above that without", gains, 1e-9, "nats"))
        falls = [its.frechet - own.frechet for own, its in pairs]
        lines.append(verdict(f"Fréchet distance with {count} clusters below that without", falls, 1e-9, ""))
    print(*lines, sep="\n")
    return int(any("MISSED" in line for line in lines))


def drawn(weights: Path, bundle: Path, options: list[str], count: int) -> NDArray[np.floating]:
    """Samples f32[N, 1, 8, 8] of an engine, of each cluster as many as its share of the data."""
    api.compile("digits_selfcond", weights, bundle, overrides=options)
    pipe, seeds = latentc_runtime.load(bundle, "cpu"), np.arange(FIRST, FIRST + SAMPLES)
    if not count:
        return pipe.sample(seeds=seeds)
    with np.load(weights.parent / "clusters.npz") as file:
        labels = np.sort(file["labels"])
    return pipe.sample(labels[np.arange(SAMPLES) * len(labels) // SAMPLES], seeds)


def diversity(samples: NDArray[np.floating]) -> Diversity:
    """The digits that samples are, by the classifier, and how far they are from held-out ones."""
    seen = np.clip((samples.transpose(0, 2, 3, 1) + 1) / 2, 0, 1)
    logits = Digits().extract(seen).logits
    assert logits is not None
    digits = logits.argmax(axis=1)
    shares = np.bincount(digits, minlength=10) / len(digits)
    entropy = -float(np.sum(shares * np.log(np.maximum(shares, 1e-12))))
    return Diversity(int(np.sum(shares >= SHARE)), entropy, judged(samples, digits).frechet)


if __name__ == "__main__":
    raise SystemExit(main())
