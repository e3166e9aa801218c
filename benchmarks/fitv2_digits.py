"""Digits of several sizes by one FiTv2: sizes it was trained on in one engine, and others.

    python benchmarks/fitv2_digits.py [--out out/fitv2_digits] [--seed 0] [--steps 800]

Trains `digits_fitv2` on digits of five sizes if its weights are not in the folder. One engine draws samples of each
size, and of 3 by 3 patches, which training has not seen. Engines for images of 4 by 5 and 5 by 5 patches, more than any
in training, have the same weights; their positions are those of training, or extrapolated. Samples are resized to
8 × 8 pixels, and the classifier of examples/digits judges them, as it does held-out digits that were resized to the
size and back. Goals, chosen before anything was trained: a class accuracy of at least 0.9 at every size, without
extrapolation up to 3 by 3 and trained sizes, with `ntk` beyond.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from common import verdict
from numpy.typing import NDArray
from on_digits import images, judged, trained

import latentc_runtime
from latentc import api
from latentc.datasets.digit_patches import patches, resized

Array = NDArray[Any]
FIRST = 9_000_000
TRAINED, SMALLER, LARGER = ((4, 4), (3, 4), (4, 3), (3, 5), (5, 3)), ((3, 3),), ((4, 5), (5, 5))
METHODS = ("linear", "ntk", "ntk_by_area", "yarn")
BEYOND = "ntk"


def main() -> int:
    """Runs the benchmark; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/fitv2_digits"), help="folder of projects and bundles")
    parser.add_argument("--seed", type=int, default=0, help="of the training")
    parser.add_argument("--steps", type=int, help="steps of training; by default those of the spec")
    parser.add_argument("--samples", type=int, default=1000, help="number of samples of each size")
    given = parser.parse_args()
    count = given.samples
    run = trained("digits_fitv2", given.out / f"seed{given.seed}", seed=given.seed, steps=given.steps)
    print(f"trained: {run.seconds:.0f} s of a processor, loss falls {run.fall():.2f} ×", flush=True)
    bundle = given.out / "sequences"
    api.compile("digits_fitv2", run.weights, bundle)
    pipe, lines = latentc_runtime.load(bundle, "cpu"), []
    for size in (*TRAINED, *SMALLER):
        found = reported(size, "one engine", of_sequences(pipe, size, count))
        lines.append(verdict(f"class accuracy, {size[0]} by {size[1]}", found, 0.9, ""))
    for size in LARGER:
        for method in (None, *METHODS):
            samples = of_images(run.weights, size, method, count, given.out / f"{size[0]}x{size[1]}-{method}")
            found = reported(size, method or "positions as in training", samples)
            if method == BEYOND:
                lines.append(verdict(f"class accuracy, {size[0]} by {size[1]}, {method}", found, 0.9, ""))
    print(*lines, sep="\n")
    return int(any("MISSED" in line for line in lines))


def of_sequences(pipe: latentc_runtime.Pipeline, size: tuple[int, int], count: int) -> Array:
    """Images [N, H, W] of a size, from padded sequences."""
    rows, columns = size
    asked = np.tile(np.array(size, np.float32), (count, 1))
    drawn = pipe.sample(conditions={"class": np.arange(count) % 10, "size": asked}, seeds=FIRST + np.arange(count))
    tiles = drawn[:, :, : rows * columns].reshape(count, 2, 2, rows, columns)
    whole = tiles.transpose(0, 3, 1, 4, 2).reshape(count, 2 * rows, 2 * columns)
    assert np.array_equal(patches(whole), drawn[:, :, : rows * columns])
    return whole


def of_images(weights: Path, size: tuple[int, int], method: str | None, count: int, bundle: Path) -> Array:
    """Images [N, H, W] from an engine for this size alone."""
    data = f"data={{kind: npz, classes: 10, shape: [1, {2 * size[0]}, {2 * size[1]}]}}"
    overrides = [data, "conditioning.size=null", "objective={kind: flow}"]
    if method is not None:
        overrides.append(f"backbone.extrapolation={{method: {method}, trained: 4}}")
    api.compile("digits_fitv2", weights, bundle, overrides=overrides)
    return np.asarray(latentc_runtime.load(bundle, "cpu").sample(np.arange(count) % 10, FIRST + np.arange(count))[:, 0])


def reported(size: tuple[int, int], how: str, samples: Array) -> float:
    """Prints the classifier's judgement of images [N, H, W]; their class accuracy."""
    held, labels = images(1)
    best = judged(resized(resized(held[:, 0], *samples.shape[1:]), 8, 8)[:, None], labels)
    found = judged(resized(samples, 8, 8)[:, None], np.arange(len(samples)) % 10)
    print(f"{size[0]} by {size[1]} patches, {how}: {found}; held-out digits of that size: {best}", flush=True)
    return found.accuracy


if __name__ == "__main__":
    sys.exit(main())
