"""Guidance and the boundary between classes (Zhao and Schwing 2025): how far it pushes samples of the digit DiT away,
and what a flow does that corrects unguided samples.

    python benchmarks/boundary_digits.py [--out out/boundary_digits]

Distance: the mean log odds of the asked class against the likeliest other, by the digits classifier of `latentc
evaluate`, and the share of samples within odds of 7 to 1, at guidance scales 1, 1.5, 2 and 4. Correction: 4000 unguided
samples are paired with the nearest training digit of their class; digits_postprocessed learns the flow from one to the
other; 1000 samples of its engine are compared with those that the flow starts from. These are of a DiT that was trained
for 600 steps: those of the whole training are as far from held-out digits as training digits are, so that nothing is
left to correct (`--whole` shows it). The weights are trained once and kept in the folder. Goals: the distance grows by
a fifth from scale 1 to 4; the correction lowers the Fréchet distance and the share near the boundary.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from common import verdict
from on_digits import images, judged, trained

import latentc_runtime
from latentc import api
from latentc.evaluate.extractors.digits import Digits
from latentc.evaluate.metrics.classifier import NEAR, margins

COUNT, FRESH, PAIRS, PAIRED = 1000, 15_000_000, 4000, 16_000_000
SCALES = (1.0, 1.5, 2.0, 4.0)


def main() -> int:
    """Runs the benchmark; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/boundary_digits"), help="projects, weights, bundles")
    parser.add_argument("--whole", action="store_true", help="correct samples of the whole training")
    given = parser.parse_args()
    out: Path = given.out
    weights = trained("digits_dit", out / "digits-dit").weights
    api.compile("digits_dit", weights, out / "guided")
    pipe, labels = latentc_runtime.load(out / "guided", "cpu"), np.arange(COUNT) % 10
    seeds = np.arange(FRESH, FRESH + COUNT)
    drawn = {scale: pipe.sample(labels, seeds, guidance=scale) for scale in SCALES}
    distance = {scale: report(f"guidance {scale:g}", samples, labels) for scale, samples in drawn.items()}
    if not given.whole:
        out = out / "short"
        weights = trained("digits_dit", out / "digits-dit", overrides=["train.steps=600", "train.ema=0.98"]).weights
        api.compile("digits_dit", weights, out / "unguided")
        pipe = latentc_runtime.load(out / "unguided", "cpu")
    before = report("before correction", pipe.sample(labels, seeds, guidance=1.0), labels)
    pairs = (out / "pairs.npz").resolve()
    if not pairs.exists():
        write_pairs(pipe, pairs)
    project, overrides = out / "digits-postprocessed", [f"data.path={pairs}"]
    corrected = trained("digits_postprocessed", project, {"generator": weights}, overrides).weights
    api.compile("digits_postprocessed", corrected, out / "corrected", overrides=overrides)
    # The same noise of the generator gives the samples that are drawn without guidance, up to rounding.
    noise = {"generated_x": pipe.noise(seeds, COUNT)["x"]}
    flow = latentc_runtime.load(out / "corrected", "cpu")
    moved = flow.sample(labels, seeds, noise=noise)
    after = report("corrected", moved, labels)
    first, second = odds(pipe.sample(labels, seeds, guidance=1.0), labels), odds(moved, labels)
    near = np.abs(first) < NEAR
    print(
        f"{near.sum()} samples near the boundary: margin {first[near].mean():.2f}, corrected {second[near].mean():.2f}"
    )
    lines = [
        verdict("distance from the boundary at scale 4, of that at 1", distance[4.0][0] / distance[1.0][0], 1.2),
        verdict("share near the boundary after the correction, of that before", after[1] / before[1], 0.9, least=False),
        verdict("Fréchet distance after the correction, of that before", after[2] / before[2], 0.95, least=False),
    ]
    print("\n".join(lines))
    return int(any("MISSED" in line for line in lines))


def odds(samples: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The log odds of each sample's class, by the classifier of digits."""
    logits = Digits().extract(np.moveaxis(np.clip((samples + 1) / 2, 0, 1), 1, -1)).logits
    assert logits is not None
    return margins(logits, labels)


def report(name: str, samples: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    """Prints and returns (mean log odds, share near the boundary, Fréchet distance)."""
    found, away = judged(samples, labels), odds(samples, labels)
    margin, near = float(away.mean()), float(np.mean(np.abs(away) < NEAR))
    print(f"{name}: margin {margin:.2f}, near {near:.4f}, {found}")
    return margin, near, found.frechet


def write_pairs(pipe: latentc_runtime.Pipeline, file: Path) -> None:
    """Unguided samples, and the nearest training digit of the class of each."""
    labels = np.arange(PAIRS) % 10
    samples = pipe.sample(labels, np.arange(PAIRED, PAIRED + PAIRS), guidance=1.0)
    (training, classes), real = images(0), np.empty_like(samples)
    for label in range(10):
        digits = training[classes == label]
        own = np.nonzero(labels == label)[0]
        flat, others = samples[own].reshape(len(own), -1), digits.reshape(len(digits), -1)
        nearest = ((flat[:, None] - others[None]) ** 2).sum(axis=2).argmin(axis=1)
        real[own] = digits[nearest]
    np.savez(file, x=real, generated=samples, y=labels)


if __name__ == "__main__":
    sys.exit(main())
