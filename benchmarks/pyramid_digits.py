"""HPDM on moving digits: a pyramid of patches against whole videos, and against patches that see no coarser ones.

    python benchmarks/pyramid_digits.py [--out out/pyramid_digits] [--seeds 0 1 2] [--data FILE]

Trains digits_hpdm on the videos of `flow_digits.py`, whose class is the direction in which a digit moves: variants
`pyramid` (patches of 8 x 8 in two levels), `alone` (without context fusion) and `whole` (one level of 16 x 16), for as
many steps. Draws 400 videos of each from engines. A logistic regression on real videos judges the direction; the
Fréchet distance is that of 32 principal components of real videos. Goals, set before the first run: distances of the
pyramid are at most 1.1 times those of whole videos, from half as many pixels per training step; without fusion they are
at least 1.25 times as large as with it. With --data only the data is written. Takes two minutes of training per variant
and seed on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from common import verdict
from flow_digits import written
from numpy.typing import NDArray
from on_digits import trained
from scipy.linalg import sqrtm
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

import latentc_runtime
from latentc import api

VARIANTS = ("pyramid", "alone", "whole")
COUNT = 400


def frechet(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """The Fréchet distance of normal distributions of two sets of features [N, D]."""
    ca, cb = np.cov(a.T), np.cov(b.T)
    return float(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(ca + cb - 2 * sqrtm(ca @ cb).real))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/pyramid_digits"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--data", type=Path)
    flags = parser.parse_args()
    data = written((flags.data or flags.out / "moving_digits.npz").resolve())
    if flags.data:
        return
    real = np.load(data)
    x, y = real["x"].reshape(len(real["y"]), -1), real["y"]
    features = PCA(32, random_state=0).fit(x)
    judge = LogisticRegression(max_iter=500).fit(features.transform(x), y)
    options = [f"data.path={data}"]
    found: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for seed in flags.seeds:
        for name in VARIANTS:
            project, bundle = flags.out / f"{name}-{seed}", flags.out / f"engine-{name}-{seed}"
            run = trained("digits_hpdm", project, overrides=options, seed=seed, variant=name)
            api.compile("digits_hpdm", str(run.weights), bundle, variant=name, overrides=options, max_batch=50)
            classes = np.arange(COUNT) % 4
            drawn = latentc_runtime.load(bundle, "cpu").sample(classes, seeds=np.arange(COUNT) + COUNT * seed)
            made = features.transform(drawn.reshape(COUNT, -1))
            found[name].append(frechet(made, features.transform(x)))
            accuracy = float(np.mean(judge.predict(made) == classes))
            text = f"direction {accuracy:.3f}, Fréchet distance {found[name][-1]:.2f}, {run.seconds:.0f} s of training"
            print(f"seed {seed}, {name}: {text}", flush=True)
    for name, distances in found.items():
        spread = f"{min(distances):.2f} to {max(distances):.2f}"
        print(f"{name}: Fréchet distance {np.mean(distances):.2f} ({spread})")
    ratios = [one / other for one, other in zip(found["pyramid"], found["whole"], strict=True)]
    print(verdict("pyramid, of whole videos", ratios, 1.1, least=False))
    ratios = [one / other for one, other in zip(found["alone"], found["pyramid"], strict=True)]
    print(verdict("without fusion, of with it", ratios, 1.25))


if __name__ == "__main__":
    main()
