"""StyleGAN-XL on digits: do features of a classifier make a better discriminator than random ones?

    python benchmarks/stylegan_xl_digits.py [--out out/stylegan_xl_digits] [--seeds 0 1 2]

Trains EfficientNet's small form to classify scikit-learn's digits (200 steps), then digits_stylegan_xl twice: with its
features in the discriminator, and with those of the same network before training. Both generators start from the mean
features of each class and are guided by the classifier. 2000 samples of each engine are judged by the classifier of
examples/digits. Goals, set before the first run: 90 % of the samples are of the requested class, and the Fréchet
distance is smaller than with random features, in every seed. Trainings take a minute or two each on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from on_digits import Figures, compared, figures, images, trained
from safetensors.numpy import load_file, save_file

from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec

STAGES = "[{width: 8, expansion: 1}, {width: 16, stride: 2, expansion: 2}]"
CLASSIFIER = (
    "data={kind: digits}",
    *("backbone.stem=8", "backbone.stem_stride=1", f"backbone.stages={STAGES}", "backbone.head=32"),
    "train={steps: 200, batch_size: 64, optimizer: {kind: adamw, lr: 3e-3}, ema: null, parallel: none}",
)
Weights = dict[str, NDArray[np.floating]]


def main() -> int:
    """Runs the benchmark; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/stylegan_xl_digits"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    flags = parser.parse_args()
    found: dict[str, list[Figures]] = {"classifier's": [], "random": []}
    for seed in flags.seeds:
        guide = trained("stylegan_xl_classifier", flags.out / f"guide-{seed}", overrides=CLASSIFIER, seed=seed)
        for kind, made in found.items():
            folder = flags.out / f"{kind.partition(chr(39))[0]}-{seed}"
            pretrained = files(guide.weights, folder, seed if kind == "random" else None)
            options = [f"networks.{name}.pretrained='{path}'" for name, path in pretrained.items()]
            run = trained("digits_stylegan_xl", folder / "project", overrides=options, seed=seed)
            made.append(figures("digits_stylegan_xl", run.weights, folder / "engine", options, samples=2000))
            print(f"{kind} features, seed {seed}: {made[-1]} ({run.seconds:.0f} s)", flush=True)
    return compared(found, accuracy=0.9, frechet=1.0)


def files(classifier: Path, folder: Path, seed: int | None) -> dict[str, Path]:
    """The files that training starts from, by network; with a seed, features of a network that is not trained."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: (folder / f"{name}.safetensors").resolve() for name in ("main", "discriminator", "classifier")}
    own: Weights = load_file(classifier)
    rows = class_features(own)
    counts = ".num_batches_tracked"  # frozen norms have none
    seen = {name: a for name, a in own.items() if name.startswith("features.") and not name.endswith(counts)}
    if seed is not None:
        rng = np.random.default_rng(seed)
        for name, weight in seen.items():
            if weight.ndim == 4:  # as the classifier starts
                fan_out = weight.shape[0] * weight.shape[2] * weight.shape[3]
                seen[name] = (rng.standard_normal(weight.shape) * (2 / fan_out) ** 0.5).astype(np.float32)
            else:
                start = np.ones if name.endswith(("weight", "running_var")) else np.zeros
                seen[name] = start(weight.shape, np.float32)
    heads = {f"heads.{i}.class_weights.weight": rows for i in range(2)}
    save_file({"mapping.embedding.weight": rows}, paths["main"])
    save_file({**seen, **heads}, paths["discriminator"])
    save_file(own, paths["classifier"])
    return paths


def class_features(weights: Weights) -> NDArray[np.float32]:
    """f32[10, E]: the mean of the last feature map of the digits of each class, scaled to a deviation of 1."""
    low = lower(load_spec("stylegan_xl_classifier", None, list(CLASSIFIER)))
    (body,) = (name for name in low.module.functions if name.startswith("EfficientFeatures"))
    x, y = images(0)
    maps = Interpreter(low.module, {f"main.{name}": a for name, a in weights.items()}).run(
        body, x, prefix="main.features"
    )[-1]
    means = np.stack([maps[y == digit].mean((0, 2, 3)) for digit in range(10)])
    return np.asarray((means - means.mean()) / means.std(), np.float32)


if __name__ == "__main__":
    raise SystemExit(main())
