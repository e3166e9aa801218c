"""GANs of multilayer perceptrons: the conditional GAN on digits, and f-CLSWGAN on features of digits it has not seen.

    python benchmarks/mlp_gans.py [--only cgan clswgan] [--out out/mlp_gans] [--seeds 0 1 2]

cgan     digits_cgan as it ships. Goal: 90 % of 1000 samples of the engine are of the requested class.
clswgan  Zero-shot recognition of two-digit numbers: two of the digits beside each other, 100 classes, of which 20 are
         never seen. An MLP of the 80 seen classes gives features. The attributes of a class are its two digits. A
         small f-CLSWGAN learns the features of seen classes from attributes, with and without its frozen classifier,
         and makes 50 features of each unseen class, on which, with the real ones of the others, a softmax classifier
         is trained. Figures: accuracy per class of seen and unseen classes among all 100, and their harmonic mean, as
         Xian et al. have it; also by ridge regression of attributes, whose nearest class is taken. Goal: the harmonic
         mean is 0.9 times that with 50 real features of each unseen class (without any it is 0).

Trainings take half a minute each on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from common import verdict
from numpy.typing import NDArray
from on_digits import figures, halves, trained
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier

import latentc_runtime
from latentc import api

Array = NDArray[np.floating]
CLASSES, MADE, WIDTH = 100, 50, 128
UNSEEN = np.arange(0, 100, 5) + np.arange(20) // 2 % 5  # every digit occurs in both places of seen numbers
ATTRIBUTES = np.concatenate([np.repeat(np.eye(10), 10, axis=0), np.tile(np.eye(10), (10, 1))], axis=1, dtype=np.float32)
SIZES = [f"data.fields.x.shape=[{WIDTH}]", "data.fields.attributes.shape=[20]", f"data.classes={CLASSES}"]
SMALL = ["networks.main.latent_dim=20", "networks.main.widths=[256]", "networks.discriminator.widths=[256]"]
SMALL += ["networks.main.weights=linear_default", "networks.discriminator.weights=linear_default"]
SMALL += ["train.steps=1000", "train.optimizer.lr=1e-3", "train.ema=0.99", "train.parallel=none"]
CLASSIFIER = ["train.steps=500", "train.parallel=none"]
WITHOUT = "objective.terms=[wasserstein, {kind: gradient_penalty, weight: 10}]"


def main() -> int:
    """Runs the benchmark; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=("cgan", "clswgan"), default=["cgan", "clswgan"])
    parser.add_argument("--out", type=Path, default=Path("out/mlp_gans"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    flags = parser.parse_args()
    run = {"cgan": cgan, "clswgan": clswgan}
    lines = [line for name in flags.only for line in run[name](flags.out / name, flags.seeds)]
    print(*lines, sep="\n")
    return int(any("MISSED" in line for line in lines))


def cgan(out: Path, seeds: list[int]) -> list[str]:
    """Class accuracy and Fréchet distance of digits_cgan."""
    found = []
    for seed in seeds:
        run = trained("digits_cgan", out / f"project-{seed}", seed=seed)
        found.append(figures("digits_cgan", run.weights, out / f"engine-{seed}"))
        print(f"cgan, seed {seed}: {found[-1]} ({run.seconds:.0f} s of training)", flush=True)
    distance = [one.frechet for one in found]
    print(f"cgan: Fréchet distance {np.mean(distance):.3f} ({min(distance):.3f} to {max(distance):.3f})")
    return [verdict("class accuracy of digits_cgan", [one.accuracy for one in found], 0.9, "of the samples")]


def numbers(part: Any, count: int, seed: int) -> tuple[Array, NDArray[np.integer]]:
    """Two-digit numbers: pixels [count, 128] in [0, 1] of two digits of this part, and their classes."""
    pixels = np.asarray(part.images, float).reshape(len(part.labels), -1) / 16
    tens, ones = np.random.default_rng(seed).integers(0, len(pixels), (2, count))
    return np.concatenate([pixels[tens], pixels[ones]], axis=1), 10 * part.labels[tens] + part.labels[ones]


def features() -> list[tuple[Array, NDArray[np.integer]]]:
    """Features in [0, 1] and classes of seen numbers, of unseen ones, and of both to test on, by an MLP of the seen."""
    train, test = halves()
    x, y = numbers(train, 7000, seed=0)
    unseen = np.isin(y, UNSEEN)
    judge = MLPClassifier((WIDTH,), max_iter=60, random_state=0).fit(x[~unseen], y[~unseen])
    h = np.maximum(x @ judge.coefs_[0] + judge.intercepts_[0], 0)
    x_test, y_test = numbers(test, 4000, seed=1)
    h_test, most = np.maximum(x_test @ judge.coefs_[0] + judge.intercepts_[0], 0), h[~unseen].max()
    parts = (h[~unseen], y[~unseen]), (h[unseen], y[unseen]), (h_test, y_test)
    return [(np.minimum(each / most, 1), labels) for each, labels in parts]


def harmonic(labels: NDArray[np.integer], predicted: NDArray[np.integer]) -> tuple[float, float, float]:
    """Mean accuracy per class of seen and unseen classes, and their harmonic mean."""
    of_class = np.array([np.mean(predicted[labels == c] == c) for c in range(CLASSES)])
    unseen = np.isin(np.arange(CLASSES), UNSEEN)
    s, u = float(of_class[~unseen].mean()), float(of_class[unseen].mean())
    return s, u, 2 * s * u / max(s + u, 1e-9)


def clswgan(out: Path, seeds: list[int]) -> list[str]:
    """Generalised zero-shot recognition with features that f-CLSWGAN makes."""
    (x, y), (x_other, y_other), (x_test, y_test) = features()
    out.mkdir(parents=True, exist_ok=True)
    data = (out / "features.npz").resolve()
    np.savez(data, x=x.astype(np.float32), y=y, attributes=ATTRIBUTES[y])
    nearest = Ridge(1.0).fit(x, ATTRIBUTES[y]).predict(x_test)
    distances = ((nearest[:, None] - ATTRIBUTES) ** 2).sum(-1)
    print("attributes: seen {:.3f}, unseen {:.3f}, harmonic mean {:.3f}".format(*harmonic(y_test, distances.argmin(1))))

    def recognised(others: Array, labels: NDArray[np.integer]) -> tuple[float, float, float]:
        """By a softmax classifier of seen features and these of unseen classes."""
        softmax = LogisticRegression(C=100, max_iter=300, class_weight="balanced")
        softmax.fit(np.concatenate([x, others]), np.concatenate([y, labels]))
        return harmonic(y_test, softmax.predict(x_test))

    few = np.concatenate([np.flatnonzero(y_other == c)[:MADE] for c in UNSEEN])
    best = recognised(x_other[few], y_other[few])
    print("real features: seen {:.3f}, unseen {:.3f}, harmonic mean {:.3f}".format(*best), flush=True)
    given = [f"data.path={data}"]
    judge = trained("clswgan_classifier", out / "classifier", overrides=[*given, SIZES[0], SIZES[2], *CLASSIFIER])
    ratios: dict[str, list[float]] = {}
    for seed in seeds:
        for name, terms in (("with the classifier", []), ("without the classifier", [WITHOUT])):
            options = [*given, *SIZES, *SMALL, *terms, f"networks.classifier.pretrained={judge.weights}"]
            folder = out / f"{name.split()[0]}-{seed}"
            run = trained("clswgan", folder / "project", overrides=options, seed=seed)
            api.compile("clswgan", str(run.weights), folder / "engine", overrides=options)
            pipe = latentc_runtime.load(folder / "engine", "cpu")
            labels = np.repeat(UNSEEN, MADE)
            made = pipe.sample(conditions={"attributes": ATTRIBUTES[labels]}, seeds=np.arange(len(labels)))
            s, u, h = recognised(made, labels)
            print(
                f"{name}, seed {seed}: seen {s:.3f}, unseen {u:.3f}, harmonic mean {h:.3f} ({run.seconds:.0f} s)",
                flush=True,
            )
            ratios.setdefault(name, []).append(h / best[2])
    return [verdict(f"harmonic mean {name}", found, 0.9, "of that with real ones") for name, found in ratios.items()]


if __name__ == "__main__":
    raise SystemExit(main())
