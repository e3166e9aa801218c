"""Guidance and the boundary between classes (Zhao and Schwing 2025): how far it pushes samples of the digit DiT away,
and what a flow does that corrects unguided samples.

    python benchmarks/boundary_digits.py [--out out/boundary_digits]

Distance: the mean log odds of the asked class against the likeliest other, by the digits classifier of `latentc
evaluate`, and the share of samples within odds of 7 to 1, at guidance scales 1, 1.5, 2 and 4. Correction: 4000 unguided
samples are paired with the nearest training digit of their class; digits_postprocessed learns the flow from one to the
other; 1000 samples of its engine are compared with those that the flow starts from. The weights are trained once and
kept in the folder. Goals: the distance grows by a fifth from scale 1 to 4; the correction lowers the Fréchet distance
and the share near the boundary.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from common import verdict
from distil_digits import trained
from reduce_digits import METRICS

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
    out: Path = parser.parse_args().out
    sys.path.insert(0, str(METRICS.parent))
    weights = trained("digits_dit", out / "digits-dit", None)
    api.compile("digits_dit", weights, out / "guided")
    pipe, labels = latentc_runtime.load(out / "guided", "cpu"), np.arange(COUNT) % 10
    seeds = np.arange(FRESH, FRESH + COUNT)
    drawn = {scale: pipe.sample(labels, seeds, guidance=scale) for scale in SCALES}
    distance = {scale: report(f"guidance {scale:g}", samples, labels) for scale, samples in drawn.items()}
    project = out / "digits-postprocessed"
    corrected = project / "runs/train/weights.safetensors"
    if not corrected.exists():
        api.emit("digits_postprocessed", project)
        write_pairs(pipe, project / "pairs.npz")
        corrected = trained_in(project, weights)
    api.compile("digits_postprocessed", corrected, out / "corrected")
    # The same noise of the generator gives the samples that are drawn without guidance, up to rounding.
    noise = {"generated_x": pipe.noise(seeds, COUNT)["x"]}
    flow = latentc_runtime.load(out / "corrected", "cpu")
    moved = flow.sample(labels, seeds, noise=noise)
    before, after = distance[1.0], report("corrected", moved, labels)
    first, second = odds(drawn[1.0], labels), odds(moved, labels)
    near = np.abs(first) < NEAR
    print(
        f"{near.sum()} samples near the boundary: margin {first[near].mean():.2f}, corrected {second[near].mean():.2f}"
    )
    lines = [
        verdict("distance from the boundary at scale 4, of that at 1", distance[4.0][0] / before[0], 1.2),
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
    from metrics import judged

    found, away = judged(samples, labels), odds(samples, labels)
    figures = float(away.mean()), float(np.mean(np.abs(away) < NEAR)), float(found["frechet"])
    accuracy = float(found["accuracy"][0])
    print(f"{name}: margin {figures[0]:.2f}, near {figures[1]:.4f}, Fréchet {figures[2]:.3f}, accuracy {accuracy:.4f}")
    return figures


def write_pairs(pipe: latentc_runtime.Pipeline, file: Path) -> None:
    """Unguided samples, and the nearest training digit of the class of each."""
    from metrics import split

    labels = np.arange(PAIRS) % 10
    samples = pipe.sample(labels, np.arange(PAIRED, PAIRED + PAIRS), guidance=1.0)
    training, real = split()[0], np.empty_like(samples)
    for label in range(10):
        digits = training.images[training.labels == label, None] / 8.0 - 1.0
        own = np.nonzero(labels == label)[0]
        flat, others = samples[own].reshape(len(own), -1), digits.reshape(len(digits), -1)
        nearest = ((flat[:, None] - others[None]) ** 2).sum(axis=2).argmin(axis=1)
        real[own] = digits[nearest]
    np.savez(file, x=real, generated=samples, y=labels)


def trained_in(project: Path, generator: Path) -> Path:
    """The weights of an emitted project, which is trained."""
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, "train.py", "--roles.generator.pretrained", str(generator)]
    subprocess.run(command, cwd=project, env=environment, check=True)
    return project / "runs/train/weights.safetensors"


if __name__ == "__main__":
    sys.exit(main())
