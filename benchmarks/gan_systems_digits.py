"""Each adversarial system that ships, at a small size, trained on scikit-learn's digits and judged by their classifier.

    python benchmarks/gan_systems_digits.py [--only adc_gan …] [--out out/gan_systems] [--steps 1500] [--seeds 0]

adc_gan, biggan_deep, stylegan2, augself_gan    class-conditional. Goal: 90 % of the samples are of the requested class.
ic_gan, ic_gan_class    conditioned on a held-out digit's pixels, and on its class. Goal: 90 % of its class.
slimgan                 without classes, at a quarter, half and all of its width. Goal: at half the width the Fréchet
                        distance is at most 1.5 times that at all of it.
tr0n                    a generator without classes (2000 steps), steered by a classifier (600 steps) through a
                        translator. Goal: 90 % of the samples are of the requested class, against 10 % by chance.
diffaugment             `digits_biggan` on a tenth of the digits, without and with DiffAugment. Goal: the Fréchet
                        distance falls in every seed.

All generators but TR0N's train for `--steps` steps of 64 with two steps of the discriminator each. A training takes one
to five minutes on one core; what is in the folder already is not trained again. 2000 samples of the engine are judged.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import verdict
from numpy.typing import NDArray
from on_digits import Figures, figures, images, spread, trained

SAMPLES = 2000
FIRST = 8_000_000  # seed of the first sample
GOAL = 0.9
_ADAM = "kind: adamw, betas: [0.0, 0.999]"
TRAIN = (
    f"train.optimizer={{{_ADAM}, lr: 5e-4}}",
    f"train.optimizers={{discriminator: {{{_ADAM}, lr: 1e-3}}}}",
    *("train.batch_size=64", "train.ema=0.995", "train.parallel=none", "train.precision=fp32"),
    *("train.schedule={kind: constant, warmup: 0}", "train.checkpoint_every=100000"),
)
DATA = "data={kind: digits}"
STEPS = "objective.discriminator_steps=2"
GENERATOR = tuple(f"networks.main.{o}" for o in ("width=16", "channel_multipliers=[2, 2]", "latent_dim=32"))
DISCRIMINATOR = tuple(
    f"networks.discriminator.{o}" for o in ("width=16", "channel_multipliers=[2, 2]", "downsample_levels=1")
)
RESNETS = (*GENERATOR, *DISCRIMINATOR, *TRAIN)
FEATURES = "fields: {x: {shape: [1, 8, 8]}, features: {shape: [64]}"
CLASSES = NDArray[np.integer]


CLASSIFIER = (
    *(DATA, "backbone={kind: resnet_classifier, layers: [1, 1, 1, 1], width: 16}", "objective={kind: classification}"),
    "train={batch_size: 64, optimizer: {kind: adamw, lr: 1e-3}, schedule: {kind: constant, warmup: 0}, ema: null, "
    "parallel: none, precision: fp32, checkpoint_every: 100000}",
)


@dataclass(frozen=True)
class System:
    """A shipped spec and what makes it a small one of digits; `conditions` of a request for labels i64[N].

    `variants` {name: overrides of the sampler} are judged one by one.
    """

    spec: str
    overrides: tuple[str, ...]
    conditions: Callable[[CLASSES], dict[str, Any]] | None = None
    variants: Mapping[str, tuple[str, ...]] | None = None


def instances(labels: CLASSES) -> NDArray[np.float32]:
    """Pixels f32[N, 1, 64] of held-out digits of these classes, each class in turn."""
    x, y = images(1)
    found = np.empty((len(labels), 1, 64), np.float32)
    for digit in range(10):
        rows = x[y == digit].reshape(-1, 1, 64)
        at = np.flatnonzero(labels == digit)
        found[at] = rows[np.arange(len(at)) % len(rows)]
    return found


SYSTEMS: dict[str, System] = {
    "adc_gan": System("adc_gan", (DATA, STEPS, *RESNETS)),
    "biggan_deep": System(
        "biggan_deep",
        (
            *(DATA, STEPS, *RESNETS, "networks.main.embedding=16"),
            *("networks.main.attention=[]", "networks.discriminator.attention=[]"),
        ),
    ),
    "augself_gan": System("augself_gan", (DATA, STEPS, *RESNETS)),
    "stylegan2": System(
        "stylegan2",
        (
            *(DATA, *TRAIN, "networks.main.channel_max=32", "networks.discriminator.channel_max=32"),
            *("networks.main.latent_dim=32", "networks.main.style_dim=32"),
            "train.optimizer={kind: adam, lr: 2e-3, betas: [0.0, 0.991992], eps: 1e-8}",
            "train.optimizers={discriminator: {kind: adam, lr: 2.352941e-3, betas: [0.0, 0.990585], eps: 1e-8}}",
        ),
    ),
    "ic_gan": System(
        "ic_gan",
        (
            f"data={{kind: npz, path: {{folder}}/digits.npz, {FEATURES}}}}}",
            *(STEPS, *RESNETS, "networks.main.vector_embedding=32", "conditioning.instance.count=10"),
            *("networks.main.attention=[]", "networks.discriminator.attention=[]"),
        ),
        lambda labels: {"instance": instances(labels)},
    ),
    "ic_gan_class": System(
        "ic_gan_class",
        (
            f"data={{kind: npz, path: {{folder}}/digits.npz, {FEATURES}, y: {{classes: 10}}}}}}",
            *(STEPS, *RESNETS, "networks.main.vector_embedding=32", "conditioning.instance.count=10"),
            *("networks.main.attention=[]", "networks.discriminator.attention=[]", "networks.main.embedding=16"),
        ),
        lambda labels: {"instance": instances(labels), "class": labels},
    ),
    "slimgan": System(
        "slimgan",
        (
            *(DATA, STEPS, *TRAIN, "networks.main.width=32", "networks.main.widths=[0.25, 0.5, 1.0]"),
            *("networks.main.latent_dim=32", "networks.discriminator.width=16", "networks.discriminator.copies=3"),
            *("networks.discriminator.channel_multipliers=[2, 2]", "networks.discriminator.downsample_levels=1"),
            "networks.discriminator.shared_levels=1",
        ),
        lambda labels: {},
        {f"width {width}": (f"sampler.width={width}",) for width in (0.25, 0.5, 1.0)},
    ),
}


def written(folder: Path) -> None:
    """`digits.npz` with the training half, its pixels as features; `few.npz` with a tenth of it, the same per class."""
    x, y = images(0)
    few = np.concatenate([np.flatnonzero(y == digit)[: len(y) // 100] for digit in range(10)])
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "digits.npz", x=x, y=y, features=x.reshape(len(x), -1))
    np.savez(folder / "few.npz", x=x[few], y=y[few])


def judged(name: str, folder: Path, data: Path, steps: int, seed: int) -> dict[str, Figures]:
    """Trains a system; the figures of each of its variants."""
    system = SYSTEMS[name]
    overrides = tuple(o.replace("{folder}", str(data)) for o in system.overrides)
    weights = trained(system.spec, folder / "project", overrides=overrides, seed=seed, steps=steps).weights
    found = {}
    for variant, sampler in (system.variants or {name: ()}).items():
        bundle = folder / f"bundle {variant}".replace(" ", "_")
        own = (*overrides, *sampler)
        found[variant] = figures(system.spec, weights, bundle, own, SAMPLES, FIRST, system.conditions)
    return found


def of_system(name: str, out: Path, steps: int, seeds: list[int]) -> list[str]:
    """Trains and judges a system with each seed; lines that say whether its goal is met."""
    runs = [judged(name, out / name / f"seed_{seed}", out.resolve(), steps, seed) for seed in seeds]
    for variant in runs[0]:
        accuracy = "" if name == "slimgan" else f"accuracy {spread(run[variant].accuracy for run in runs)}, "
        print(f"{name}, {variant}: {accuracy}Fréchet distance {spread(run[variant].frechet for run in runs)}")
    if name == "slimgan":
        ratio = float(np.mean([run["width 0.5"].frechet / run["width 1.0"].frechet for run in runs]))
        return [verdict("SlimGAN's Fréchet distance at half the width by that at all", ratio, 1.5, least=False)]
    accuracy = float(np.mean([run[name].accuracy for run in runs]))
    return [verdict(f"class accuracy of {name}", accuracy, GOAL, unit="of the samples")]


def tr0n(out: Path, steps: int, seeds: list[int]) -> list[str]:
    """A generator without classes, a classifier, and the translator between them."""
    found = []
    for seed in seeds:
        folder = (out / "tr0n" / f"seed_{seed}").resolve()
        plain = ("conditioning.class=null", "networks.discriminator.projection=false")
        generator = trained("digits_biggan", folder / "generator", overrides=plain, seed=seed).weights
        reader = trained("iwin_classifier", folder / "classifier", overrides=CLASSIFIER, seed=seed, steps=600).weights
        own = (f"networks.main.pretrained={generator}", f"networks.observer.pretrained={reader}")
        weights = trained("digits_tr0n", folder / "project", overrides=own, seed=seed).weights
        found.append(figures("digits_tr0n", weights, folder / "bundle", own, SAMPLES, FIRST))
    print(f"tr0n: accuracy {spread(f.accuracy for f in found)}, Fréchet distance {spread(f.frechet for f in found)}")
    return [verdict("class accuracy of tr0n", float(np.mean([f.accuracy for f in found])), GOAL)]


def diffaugment(out: Path, steps: int, seeds: list[int]) -> list[str]:
    """`digits_biggan` on a tenth of the digits, without and with augmentation of all images."""
    few = (f"data={{kind: npz, path: {out.resolve()}/few.npz, classes: 10, shape: [1, 8, 8]}}",)
    kinds = {"plain": few, "augmented": (*few, "objective.augment=[color, translation, cutout]")}
    distances: dict[str, list[float]] = {}
    for kind, overrides in kinds.items():
        found = []
        for seed in seeds:
            folder = out / "diffaugment" / kind / f"seed_{seed}"
            weights = trained("digits_biggan", folder / "project", overrides=overrides, seed=seed, steps=steps).weights
            found.append(figures("digits_biggan", weights, folder / "bundle", overrides, SAMPLES, FIRST))
        distances[kind] = [one.frechet for one in found]
        print(f"diffaugment, {kind}: accuracy {spread(f.accuracy for f in found)}, distance {spread(distances[kind])}")
    ratio = max(distances["augmented"]) / min(distances["plain"])
    return [verdict("largest Fréchet distance with DiffAugment by the smallest without", ratio, 1.0, least=False)]


OTHERS = {"tr0n": tr0n, "diffaugment": diffaugment}


def main() -> int:
    """Runs the benchmark; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [*SYSTEMS, *OTHERS]
    parser.add_argument("--only", nargs="+", choices=known, default=known, help="some of the systems")
    parser.add_argument("--out", type=Path, default=Path("out/gan_systems"), help="folder for projects and bundles")
    parser.add_argument("--steps", type=int, default=1500, help="training steps of the generators")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    given = parser.parse_args()
    written(given.out)
    lines = []
    for name in given.only:
        lines += OTHERS.get(name, lambda *rest, name=name: of_system(name, *rest))(given.out, given.steps, given.seeds)
        print(lines[-1], flush=True)
    return int(any("MISSED" in line for line in lines))


if __name__ == "__main__":
    sys.exit(main())
