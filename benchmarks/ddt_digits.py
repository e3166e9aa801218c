"""Digits of DDT whose decoder takes a new condition at every step, or at every second or third.

    python benchmarks/ddt_digits.py [--out out/ddt_digits] [--seeds 0 1 2] [--steps 1500]

Trains one network per seed if its weights are not in the folder, and compiles it with each rate; the classifier of
examples/digits judges 1000 samples. Times are the least of several runs of 256 samples, in turn. The goals were chosen
before anything was trained.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from common import verdict
from on_digits import Figures, figures, spread, trained

import latentc_runtime

RATES = (1, 2, 3)
ACCURACY, RATIO, SHARE = 0.95, 1.2, 0.75
"""Goals: the least class accuracy at every third step; the largest Fréchet distance at every second step and the
largest time at every third, both over that of every step."""


def seconds(bundles: Sequence[Path], runs: int = 7) -> list[float]:
    """The least time of each bundle for 256 samples; they run in turn, so that what else the machine does meets all."""
    pipes = [latentc_runtime.load(bundle, "cpu") for bundle in bundles]
    found: list[list[float]] = [[] for _ in pipes]
    for run in range(runs + 1):
        for pipe, own in zip(pipes, found, strict=True):
            start = time.perf_counter()
            pipe.sample(np.arange(256) % 10, np.arange(256) + run)
            own.append(time.perf_counter() - start)
    return [min(own[1:]) for own in found]


def main() -> int:
    """Runs the benchmark; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/ddt_digits"), help="folder of projects and bundles")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the trainings")
    parser.add_argument("--steps", type=int, default=1500, help="steps of each training")
    given = parser.parse_args()
    judged: dict[int, list[Figures]] = {rate: [] for rate in RATES}
    times: dict[int, list[float]] = {rate: [] for rate in RATES}
    for seed in given.seeds:
        run = trained("digits_ddt", given.out / f"seed{seed}", seed=seed, steps=given.steps)
        print(f"seed {seed}: {run.seconds:.0f} s of a processor, loss falls {run.fall():.2f} times", flush=True)
        bundles = [given.out / f"seed{seed}-every{rate}" for rate in RATES]
        for rate, bundle in zip(RATES, bundles, strict=True):
            found = figures("digits_ddt", run.weights, bundle, overrides=[f"optimize.cache.every={rate}"])
            judged[rate].append(found)
        for rate, least in zip(RATES, seconds(bundles), strict=True):
            times[rate].append(least)
            print(f"seed {seed}, every {rate}: {judged[rate][-1]}, {least:.3f} s", flush=True)
    for rate in RATES:
        accuracy, frechet = ([getattr(found, name) for found in judged[rate]] for name in Figures._fields)
        shares = [own / whole for own, whole in zip(times[rate], times[1], strict=True)]
        ratios = [own.frechet / whole.frechet for own, whole in zip(judged[rate], judged[1], strict=True)]
        print(f"every {rate}: class accuracy {spread(accuracy)}, Fréchet distance {spread(frechet)}, ", end="")
        print(f"{spread(ratios)} times that of 1, in {spread(shares)} of its time")
    ratios = [one.frechet / whole.frechet for one, whole in zip(judged[2], judged[1], strict=True)]
    shares = [one / whole for one, whole in zip(times[3], times[1], strict=True)]
    accuracies = [found.accuracy for found in judged[3]]
    lines = [
        verdict("class accuracy, a condition every third step", accuracies, ACCURACY, ""),
        verdict("Fréchet distance, every second step, of that of every step", ratios, RATIO, least=False),
        verdict("time, every third step, of that of every step", shares, SHARE, least=False),
    ]
    print(*lines, sep="\n")
    return int(any("MISSED" in line for line in lines))


if __name__ == "__main__":
    sys.exit(main())
