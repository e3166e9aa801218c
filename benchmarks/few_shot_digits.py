"""Few-shot adaptation of a GAN on digits: ten images of an 8, with and without smoothness similarity.

    python benchmarks/few_shot_digits.py [--out out/few_shot] [--seeds 0 1 2] [--steps 500] [--weights 1.0]
    python benchmarks/few_shot_digits.py --data FOLDER      only writes the data of the first seed

A BigGAN of the digits 0 to 7 (1500 steps) is adapted to ten images of an 8 as `digits_few_shot` does, and without its
term, both from the same weights, for every seed with other images. 500 samples of the engine are judged by the digits'
classifier: the Fréchet distance to all real 8s, the share that is an 8, and the diversity: the mean distance of the
features of two samples whose nearest image of the ten is the same, over that of two such real 8s (1: as diverse as
real ones; 0: the ten images alone).

Goal: with the term the distance is smaller and the diversity larger, in every seed.
Trainings take two minutes a seed on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
from common import verdict
from numpy.typing import NDArray
from on_digits import images, metrics, spread, trained

import latentc_runtime
from latentc import api
from latentc.measure.metrics import frechet_distance

SAMPLES, FIRST, SHOTS, DIGIT = 500, 6_000_000, 10, 8
PLAIN = "objective.terms=[hinge]"
Array = NDArray[np.floating]


class Adapted(NamedTuple):
    """Judgement of an adapted generator."""

    frechet: float
    diversity: float
    share: float

    def __str__(self) -> str:
        return f"Fréchet distance {self.frechet:.3f}, diversity {self.diversity:.3f}, {self.share:.3f} are an 8"


def written(folder: Path, seed: int) -> tuple[Path, Path, Array]:
    """Files of the digits 0 to 7 and of ten 8s, and these [10, 1, 8, 8]."""
    x, y = images(0)
    few = np.random.default_rng(seed).permutation(np.flatnonzero(y == DIGIT))[:SHOTS]
    folder.mkdir(parents=True, exist_ok=True)
    source, target = folder / "zero_to_seven.npz", folder / f"ten_eights-{seed}.npz"
    np.savez(source, x=x[y < DIGIT], y=y[y < DIGIT])
    np.savez(target, x=x[few], y=np.arange(SHOTS) % DIGIT)
    return source.resolve(), target.resolve(), x[few]


def levels(samples: Array) -> Array:
    """Grey levels [N, 8, 8] of samples [N, 1, 8, 8] in -1…1."""
    return np.clip((samples[:, 0] + 1) * 8, 0, 16)


def spread_within(features: Array, shots: Array) -> float:
    """The mean distance of features [N, F] whose nearest of the shots [10, F] is the same."""
    nearest = np.linalg.norm(features[:, None] - shots, axis=2).argmin(1)
    apart = []
    for shot in range(len(shots)):
        own = features[nearest == shot]
        if len(own) > 1:
            distances = np.linalg.norm(own[:, None] - own, axis=2)
            apart.append((distances.sum() / (len(own) * (len(own) - 1)), len(own)))
    values, weights = zip(*apart, strict=True)
    return float(np.average(values, weights=weights))


def judged(judge: metrics.Judge, samples: Array, few: Array) -> Adapted:
    """Figures of samples of an adapted generator."""
    real = np.concatenate([half.images[half.labels == DIGIT] for half in (judge.train, judge.heldout)])
    made, eights, shots = (judge.features(a) for a in (levels(samples), real.astype(float), levels(few)))
    diversity = spread_within(made, shots) / spread_within(eights, shots)
    share = float(np.mean(judge.classify(levels(samples)) == DIGIT))
    return Adapted(float(frechet_distance(made, eights)), diversity, share)


def main() -> int:
    """Runs the benchmark; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/few_shot"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=None, help="of adaptation; default: the spec's")
    parser.add_argument("--weights", type=float, nargs="+", default=[1.0], help="weights of the term, each by itself")
    parser.add_argument("--data", type=Path)
    flags = parser.parse_args()
    if flags.data:
        written(flags.data, 0)
        return 0
    judge = metrics.Judge.fit()
    found: dict[str, list[Adapted]] = {}
    for seed in flags.seeds:
        digits, eights, few = written(flags.out, seed)
        of_source = [f"data={{kind: npz, path: {digits}, classes: 8, shape: [1, 8, 8]}}", "train.steps=1500"]
        source = trained("digits_biggan", flags.out / f"source-{seed}", overrides=of_source, seed=seed)
        given = [f"data.path={eights}", *(f"networks.{n}.pretrained={source.weights}" for n in ("main", "source"))]
        terms = {"without": PLAIN}
        terms |= {f"weight {w:g}": f"objective.terms=[hinge, {{kind: smoothness, weight: {w}}}]" for w in flags.weights}
        for name, term in terms.items():
            folder = flags.out / f"seed{seed}-{name.replace(' ', '-')}"
            run = trained("digits_few_shot", folder / "project", overrides=[*given, term], seed=seed, steps=flags.steps)
            api.compile("digits_few_shot", run.weights, folder / "engine", overrides=[*given, term])
            pipe = latentc_runtime.load(folder / "engine", "cpu")
            samples = pipe.sample(np.arange(SAMPLES) % DIGIT, np.arange(FIRST, FIRST + SAMPLES))
            found.setdefault(name, []).append(judged(judge, samples, few))
            print(f"{name}, seed {seed}: {found[name][-1]} ({run.seconds:.0f} s of training)", flush=True)
    for name, runs in found.items():
        distance, diversity, share = (spread(column) for column in zip(*runs, strict=True))
        print(f"{name}: Fréchet distance {distance}, diversity {diversity}, {share} are an 8")
    plain, lines = found.pop("without"), []
    for name, runs in found.items():
        nearer = [a.frechet / b.frechet for a, b in zip(runs, plain, strict=True)]
        wider = [a.diversity / b.diversity for a, b in zip(runs, plain, strict=True)]
        lines.append(verdict(f"{name}: Fréchet distance over that without", nearer, 1.0, least=False))
        lines.append(verdict(f"{name}: diversity over that without", wider, 1.0))
    print(*lines, sep="\n")
    return int(any("MISSED" in line for line in lines))


if __name__ == "__main__":
    raise SystemExit(main())
