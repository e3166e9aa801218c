"""GANs of multilayer perceptrons: the conditional GAN on digits, and f-CLSWGAN on features of digits it has not seen.

    python benchmarks/mlp_gans.py [--only cgan clswgan] [--out out/mlp_gans] [--seeds 0 1 2]

cgan     digits_cgan as it ships. Goal: 90 % of 1000 samples of the engine are of the requested class.
clswgan  Zero-shot recognition: an MLP is trained on eight of the digits, and its last hidden layer gives features of
         all ten. Attributes of a class are the segments of a seven-segment display that its digit lights. f-CLSWGAN
         (clswgan at a small size) learns features of the eight from attributes, with and without its frozen classifier,
         and makes 200 features of each of the other two (2 and 5), on which, with the real ones of the eight, a softmax
         classifier is trained. Figures: accuracy per class of seen and unseen classes among all ten, and their harmonic
         mean, as Xian et al. have it. The baseline maps features to attributes by ridge regression and takes the
         nearest class. Goal: the harmonic mean with made features is 1.2 times the baseline's.

Trainings take half a minute each on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from common import verdict
from numpy.typing import NDArray
from on_digits import figures, halves, trained
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier

import latentc_runtime
from latentc import api

Array = NDArray[np.floating]
UNSEEN = (2, 5)
SEGMENTS = ("abcdef", "bc", "abged", "abgcd", "fgbc", "afgcd", "afgedc", "abc", "abcdefg", "abcdfg")
ATTRIBUTES = np.array([[letter in lit for letter in "abcdefg"] for lit in SEGMENTS], np.float32)
WIDTH, MADE = 64, 200
SIZES = [f"data.fields.x.shape=[{WIDTH}]", "data.fields.attributes.shape=[7]", "data.classes=10"]
SMALL = ["networks.main.latent_dim=16", "networks.main.widths=[256]", "networks.discriminator.widths=[256]"]
SMALL += ["networks.main.weights=linear_default", "networks.discriminator.weights=linear_default"]
SMALL += ["train.steps=2000", "train.optimizer.lr=5e-4", "train.ema=0.99", "train.parallel=none"]
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


def features() -> tuple[tuple[Array, NDArray[np.integer]], tuple[Array, NDArray[np.integer]]]:
    """Features in [0, 1] and labels of the digits to train on, and of the others, by an MLP of the seen classes."""
    train, test = halves()
    seen = ~np.isin(train.labels, UNSEEN)
    pixels = [np.asarray(part.images, float).reshape(len(part.labels), -1) / 16 for part in (train, test)]
    judge = MLPClassifier((WIDTH,), max_iter=300, random_state=0).fit(pixels[0][seen], train.labels[seen])
    hidden = [np.maximum(x @ judge.coefs_[0] + judge.intercepts_[0], 0) for x in pixels]
    most = hidden[0][seen].max()
    return tuple((np.minimum(h / most, 1), part.labels) for h, part in zip(hidden, (train, test), strict=True))  # type: ignore[return-value]


def harmonic(labels: NDArray[np.integer], predicted: NDArray[np.integer]) -> tuple[float, float, float]:
    """Mean accuracy per class of seen and unseen classes, and their harmonic mean."""
    of_class = np.array([np.mean(predicted[labels == c] == c) for c in range(10)])
    unseen = np.isin(np.arange(10), UNSEEN)
    s, u = float(of_class[~unseen].mean()), float(of_class[unseen].mean())
    return s, u, 2 * s * u / max(s + u, 1e-9)


def clswgan(out: Path, seeds: list[int]) -> list[str]:
    """Generalised zero-shot recognition with features that f-CLSWGAN makes."""
    (x, y), (x_test, y_test) = features()
    seen = ~np.isin(y, UNSEEN)
    x, y = x[seen], y[seen]
    out.mkdir(parents=True, exist_ok=True)
    data = (out / "features.npz").resolve()
    np.savez(data, x=x.astype(np.float32), y=y, attributes=ATTRIBUTES[y])
    nearest = Ridge(1.0).fit(x, ATTRIBUTES[y]).predict(x_test)
    distances = ((nearest[:, None] - ATTRIBUTES) ** 2).sum(-1)
    base = harmonic(y_test, distances.argmin(1))
    print("baseline: seen {:.3f}, unseen {:.3f}, harmonic mean {:.3f}".format(*base), flush=True)
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
            softmax = LogisticRegression(C=10, max_iter=1000, class_weight="balanced")
            softmax.fit(np.concatenate([x, made]), np.concatenate([y, labels]))
            s, u, h = harmonic(y_test, softmax.predict(x_test))
            print(
                f"{name}, seed {seed}: seen {s:.3f}, unseen {u:.3f}, harmonic mean {h:.3f} ({run.seconds:.0f} s)",
                flush=True,
            )
            ratios.setdefault(name, []).append(h / base[2])
    return [verdict(f"harmonic mean {name}", found, 1.2, "of the baseline's") for name, found in ratios.items()]


if __name__ == "__main__":
    raise SystemExit(main())
