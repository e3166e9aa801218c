"""DC3DO on points of furniture: are shapes classified better by a denoiser of points than by one of their views?

    python benchmarks/furniture_points.py [--out out/furniture_points] [--seeds 0 1 2]

Trains examples/gallery/solids.yaml on 2000 made sets of 128 points on tables, chairs, shelves and lamps
(`small_data.solids`), and digits_dit on three views of the same sets, occupancy images of 12 × 12 from the front, the
side and above. Each classifies 200 other sets by the program `classify` of its engine, with 16 predictions per class of
a set or view; errors of views are added. The paper's effect is the goal: 1.125 times the accuracy by views.
Takes two minutes of training per seed on one core.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from common import verdict
from numpy.typing import NDArray
from on_digits import trained

import latentc_runtime
from latentc import api
from latentc_runtime.classify import classify

GALLERY = Path(__file__).parents[1] / "examples" / "gallery"
sys.path.insert(0, str(GALLERY))
from small_data import solids  # noqa: E402

SIDE = 12  # of a view, in pixels
VIEWS = ("programs=[{kind: classify, trials: 16}]", "sampler.guidance=null", "backbone.patch=3", "train.steps=800")


def views(points: NDArray[np.floating]) -> NDArray[np.float32]:
    """f32[N, 3, 1, SIDE, SIDE]: which pixels hold a point of f32[N, P, 3], seen along each axis; -1 or 1."""
    place = np.clip((points / 6 + 0.5) * SIDE, 0, SIDE - 1).astype(int)
    out = np.full((len(points), 3, 1, SIDE, SIDE), -1, np.float32)
    for axis in range(3):
        row, column = (place[..., other] for other in range(3) if other != axis)
        out[np.arange(len(points))[:, None], axis, 0, row, column] = 1
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/furniture_points"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    flags = parser.parse_args()
    flags.out.mkdir(parents=True, exist_ok=True)
    seen, unseen = solids(2000, seed=0), solids(200, seed=1)
    clouds, pictures = ((flags.out / name).resolve() for name in ("points.npz", "views.npz"))
    np.savez(clouds, **seen)
    np.savez(pictures, x=views(seen["x"]).reshape(-1, 1, SIDE, SIDE), y=np.repeat(seen["y"], 3))
    of_views = (f"data={{kind: npz, path: '{pictures}', classes: 4, shape: [1, {SIDE}, {SIDE}]}}", *VIEWS)
    systems = {
        "points": (str(GALLERY / "solids.yaml"), (f"data.path={clouds}",), unseen["x"]),
        "views": ("digits_dit", of_views, views(unseen["x"]).reshape(-1, 1, SIDE, SIDE)),
    }
    found: dict[str, list[float]] = {name: [] for name in systems}
    for seed in flags.seeds:
        for name, (spec, overrides, given) in systems.items():
            run = trained(spec, flags.out / f"{name}-{seed}", overrides=overrides, seed=seed)
            bundle = flags.out / f"engine-{name}-{seed}"
            api.compile(spec, str(run.weights), bundle, overrides=overrides, max_batch=64)
            errors = classify(latentc_runtime.load(bundle, "cpu"), given, seed=seed).errors
            labels = errors.reshape(len(unseen["x"]), -1, 4).sum(axis=1).argmin(axis=1)
            found[name].append(float(np.mean(labels == unseen["y"])))
            print(f"seed {seed}, {name}: accuracy {found[name][-1]:.3f}, {run.seconds:.0f} s of training", flush=True)
    for name, accuracies in found.items():
        print(f"{name}: accuracy {np.mean(accuracies):.3f} ({min(accuracies):.3f} to {max(accuracies):.3f})")
    ratios = [one / other for one, other in zip(found["points"], found["views"], strict=True)]
    print(verdict("accuracy by points, of that by views", ratios, 1.125))


if __name__ == "__main__":
    main()
