"""Masks of digits as four raters draw them: the probabilistic U-Net with and without a distance of sets of masks.

    python benchmarks/pulaski_digits.py [--out out/pulaski] [--seeds 3] [--data FILE]

The raters mark a digit of 8 by 8 pixels where it is brighter than 2, 7 or 11 of 16, or within a pixel of 11. Each is
right as often as the others, and no image says which. Of each of 300 held-out digits 16 masks are drawn by the engine:
the squared generalised energy distance (Kohl et al. 2018, with 1 - IoU) from the raters' masks, and, with four of them
assigned to the raters, the IoU of both classes. Goals: every distance lowers the generalised energy distance of the
bound alone by a tenth, beyond the spread of the seeds, and loses at most 0.02 of an IoU. With --data only the data is
written.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from common import verdict
from numpy.typing import NDArray
from on_digits import images, spread, trained
from scipy.optimize import linear_sum_assignment

import latentc_runtime
from latentc import api

Array = NDArray[Any]
SPEC, JUDGED, DRAWN, FIRST = "digits_pulaski", 300, 16, 7_000_000
LOSSES = {
    "bound": ("objective.distance=null",),
    "energy": (),
    "sinkhorn": ("objective.distance=sinkhorn",),
    "hausdorff": ("objective.distance=hausdorff",),
}


def rated(digits: Array) -> Array:
    """bool[N, 4, 8, 8]: the raters' masks of digits f32[N, 1, 8, 8] from -1 to 1."""
    x = digits[:, 0] * 8 + 8
    near = np.pad(x > 11, ((0, 0), (1, 1), (1, 1)))
    wide = np.any([near[:, i : i + 8, j : j + 8] for i in range(3) for j in range(3)], axis=0)
    return np.stack([x > 2, x > 7, x > 11, wide], axis=1)


def written(path: Path) -> Path:
    """A file of the first half of the digits, each once per rater."""
    digits, _ = images(0)
    masks = 2 * rated(digits).astype(np.float32) - 1
    path.parent.mkdir(parents=True, exist_ok=True)
    each, count = np.repeat(masks, masks.shape[1], axis=0), masks.shape[1]
    np.savez(path, x=masks.reshape(-1, 1, 8, 8), image=np.repeat(digits, count, axis=0), raters=each)
    return path


def iou(x: Array, y: Array) -> Array:
    """IoU of masks bool[..., 8, 8], of which broadcasting pairs some; 1 of two empty ones."""
    both, either = (op(x, y).sum((-2, -1)) for op in (np.logical_and, np.logical_or))
    return np.where(either == 0, 1.0, both / np.maximum(either, 1))


def judged(bundle: Path) -> dict[str, float]:
    """The figures of an engine's masks."""
    digits = images(1)[0][:JUDGED]
    wanted = rated(digits)
    pipe = latentc_runtime.load(bundle, "cpu", threads=1)
    seeds = np.arange(FIRST, FIRST + JUDGED * DRAWN)
    made = pipe.sample(conditions={"image": np.repeat(digits, DRAWN, axis=0)}, seeds=seeds)
    masks = made.reshape(JUDGED, DRAWN, 8, 8) > 0

    def apart(x: Array, y: Array) -> Array:
        return (1 - iou(x[:, :, None], y[:, None])).mean((1, 2))

    found = {"energy distance": float(np.mean(2 * apart(masks, wanted) - apart(masks, masks) - apart(wanted, wanted)))}
    inside, outside = [], []
    for drawn, raters in zip(masks[:, : wanted.shape[1]], wanted, strict=True):
        rows, columns = linear_sum_assignment(-iou(drawn[:, None], raters[None]))
        inside.append(iou(drawn[rows], raters[columns]).mean())
        outside.append(iou(~drawn[rows], ~raters[columns]).mean())
    found |= {"IoU of digits": float(np.mean(inside)), "IoU of backgrounds": float(np.mean(outside))}
    within = masks[:, :, None] == masks[:, None]
    return {**found, "pixels on which draws agree": float(within.mean())}


def main() -> int:
    """Train, measure and say what was met; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/pulaski"), help="folder of projects and bundles")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--data", type=Path, help="only write the data to this file")
    args = parser.parse_args()
    if args.data is not None:
        print(written(args.data))
        return 0
    out = args.out.resolve()
    data = f"data.path={written(out / 'rated_digits.npz')}"
    rows: dict[str, list[dict[str, float]]] = {}
    for loss, options in LOSSES.items():
        for seed in range(args.seeds):
            project = out / f"{loss}{seed}"
            training = trained(SPEC, project, overrides=(data, *options), seed=seed)
            bundle = out / f"{loss}{seed}.latentc"
            api.compile(SPEC, training.weights, bundle, overrides=[data, *options], force=True)
            rows.setdefault(loss, []).append({"seconds": training.seconds, **judged(bundle)})
        for name in rows[loss][0]:
            print(f"{loss}, {name}: {spread([row[name] for row in rows[loss]])}", flush=True)
    lines = []
    for loss in list(LOSSES)[1:]:
        pairs = list(zip(rows[loss], rows["bound"], strict=True))
        ratios = [one["energy distance"] / other["energy distance"] for one, other in pairs]
        lines.append(verdict(f"{loss}: energy distance, of that of the bound", ratios, 0.9, "×", False))
        for name in ("IoU of digits", "IoU of backgrounds"):
            lines.append(verdict(f"{loss}: {name}, more", [a[name] - b[name] for a, b in pairs], -0.02, ""))
    print(*lines, sep="\n")
    return int(any("MISSED" in line for line in lines))


if __name__ == "__main__":
    sys.exit(main())
