"""ImbSAM on digits with a long tail: is a classifier better on rare classes than with SAM, or without either?

    python benchmarks/imbsam_digits.py [--out out/imbsam_digits] [--seeds 0 1 2]

Of the training half of scikit-learn's digits it keeps 88 images of class 0 and 3 of class 9, geometrically fewer from
class to class; the tail are the classes with fewer than 20 (5 to 9), as in the paper. It trains digits_imbsam by plain
SGD, by SAM and by ImbSAM with the same steps from the same weights, and counts the held-out images of the tail and of
the head that each recognises (the mean over classes). Goal, set before the first run: for ImbSAM the accuracy of the
tail is larger than for both others, by more than zero in each seed. Trainings take a minute in all.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from common import verdict
from numpy.typing import NDArray
from on_digits import images, spread, trained

from latentc import api

MOST, LEAST, FEW = 88, 3, 20
KINDS = {
    "neither": ["objective={kind: classification}", "train.optimizer.sam=null"],
    "SAM": ["objective={kind: classification}"],
    "ImbSAM": [],
}


def main() -> int:
    """Runs the benchmark; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/imbsam_digits"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    flags = parser.parse_args()
    flags.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    for seed in flags.seeds:
        data, tail = long_tail(flags.out / f"data-{seed}.npz", seed)
        common = [f"data={{kind: npz, path: '{data}', shape: [1, 8, 8], classes: 10}}", f"objective.tail={tail}"]
        for kind, changes in KINDS.items():
            options = [*common[: 1 if changes else 2], *changes]
            run = trained("digits_imbsam", flags.out / f"{kind}-{seed}", overrides=options, seed=seed)
            found[kind].append(recognised(run.weights, options, tail))
            shown = "tail {:.3f}, head {:.3f}".format(*found[kind][-1])
            print(f"{kind}, seed {seed}: accuracy of the {shown} ({run.seconds:.0f} s)", flush=True)
    for kind, pairs in found.items():
        tail_of, head_of = zip(*pairs, strict=True)
        print(f"{kind}: accuracy of the tail {spread(tail_of)}, of the head {spread(head_of)}")
    lines = []
    for other in ("neither", "SAM"):
        gains = [own[0] - its[0] for own, its in zip(found["ImbSAM"], found[other], strict=True)]
        lines.append(verdict(f"accuracy of the tail by ImbSAM above {other}", gains, 1e-9, ""))
    print(*lines, sep="\n")
    return int(any("MISSED" in line for line in lines))


def long_tail(path: Path, seed: int) -> tuple[Path, list[int]]:
    """A file of training images, fewer of each class than of the one before; and its rare classes."""
    x, y = images(0)
    counts = [round(MOST * (LEAST / MOST) ** (label / 9)) for label in range(10)]
    rng = np.random.default_rng(seed)
    rows = [rng.permutation(np.flatnonzero(y == label))[:count] for label, count in enumerate(counts)]
    kept = np.concatenate(rows)
    np.savez(path, x=x[kept], y=y[kept])
    return path.resolve(), [label for label, own in enumerate(rows) if len(own) < FEW]


def recognised(weights: Path, options: list[str], tail: list[int]) -> tuple[float, float]:
    """Accuracy of held-out images of the tail's classes and of the others, as means over classes."""
    x, y = images(1)
    logits: NDArray[np.floating] = api.forward("digits_imbsam", weights, {"x": x}, "torch", overrides=options)
    right = logits.argmax(axis=1) == y
    of_class = np.array([right[y == label].mean() for label in range(10)])
    rare = np.isin(np.arange(10), tail)
    return float(of_class[rare].mean()), float(of_class[~rare].mean())


if __name__ == "__main__":
    raise SystemExit(main())
