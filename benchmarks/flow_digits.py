"""Videos of held-out digits from an image and a direction: motion of the image (LFDM) against pixels.

    python benchmarks/flow_digits.py [--out out/flow_digits] [--seeds 0 1 2] [--data FILE]

A digit of 8 by 8 pixels moves from the middle of 16 by 16 by a pixel per frame, to the side that is the class. Trains
LFDM's autoencoder, then per seed its denoiser of motion (flow of 8 by 8) and, for as many steps, the same network on
pixels that is given the image as it is, if their weights are not in the folder. 256 digits that neither saw are judged:
whether a video is nearest to the digit's own in the direction asked for, and its squared error. With --data only the
data is written. The goals were chosen before anything was judged; the steps (1200 of 16, not 400 of 32) after a first
seed, whose loss was still falling; a guidance of 2 after one of 1; and a sampler without noise was worse.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from common import verdict
from numpy.typing import NDArray
from on_digits import images, trained

import latentc_runtime
from latentc import api

Array = NDArray[Any]
WAYS = ((0, 1), (0, -1), (1, 0), (-1, 0))  # rows and columns per frame: right, left, down, up
FRAMES, SIDE, JUDGED, FIRST = 5, 16, 256, 9_000_000
PIXELS = (
    "networks.autoencoder=null",
    "networks.main={kind: flow_unet, factor: 1, parts: [1], width: 16, multipliers: [1, 2], heads: 2, head_width: 8, "
    "groups: 4}",
    "conditioning.features={kind: array, field: image}",
    "objective={kind: diffusion, error_norm: l1, process: {kind: discrete, schedule: cosine, beta_max: 0.9999}}",
    "sampler.kind=shifted_ddim",
)


def moved(digits: Array, way: tuple[int, int]) -> Array:
    """f32[N, 1, 5, 16, 16] of digits f32[N, 1, 8, 8] that move so many rows and columns per frame."""
    video = np.full((len(digits), 1, FRAMES, SIDE, SIDE), -1, np.float32)
    for k in range(FRAMES):
        row, column = (4 + step * k for step in way)
        video[:, :, k, row : row + 8, column : column + 8] = digits
    return video


def written(path: Path) -> Path:
    """A file of the first half of the digits, each moving to all sides."""
    digits, _ = images(0)
    video = np.concatenate([moved(digits, way) for way in WAYS])
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, x=video, y=np.repeat(np.arange(len(WAYS)), len(digits)), image=video[:, :, 0])
    return path


def held_out() -> tuple[Array, Array, Array]:
    """(held-out digits moving to all sides f32[4, N, 1, 5, 16, 16], the side of each i64[N], its video)."""
    digits = images(1)[0][:JUDGED]
    every, ways = np.stack([moved(digits, way) for way in WAYS]), np.arange(JUDGED) % len(WAYS)
    return every, ways, every[ways, np.arange(JUDGED)]


def of_stage(weights: Path) -> None:
    """Prints what the autoencoder leaves of videos that it describes as motion of their first frame."""
    video, made = held_out()[2], {}
    for method, given in (("flow", "video"), ("animate", "motion")):
        inputs = {"image": video[:, :, 0], given: video if given == "video" else made["flow"]}
        found = api.run_method("digits_lfdm_autoencoder", weights, inputs, "torch", method=method)
        made[method] = np.asarray(next(iter(found.values())))
    left, still = (np.square(one - video).mean() / video.var() for one in (made["animate"], video[:, :, :1]))
    print(f"autoencoder: leaves {left:.4f} of the variance, the image alone {still:.4f}", flush=True)


def judged(name: str, spec: str, weights: Path, out: Path, overrides: tuple[str, ...]) -> tuple[float, float]:
    """(share of videos nearest to the right direction, squared error over the variance) of an engine's videos."""
    api.compile(spec, weights, out, overrides=list(overrides), force=True)
    every, ways, wanted = held_out()
    given = {"image": wanted[:, :, 0]} if "pixels" not in name else {"features": wanted[:, :, 0]}
    seeds = np.arange(FIRST, FIRST + JUDGED)
    made = latentc_runtime.load(out, "cpu", threads=1).sample(classes=ways.tolist(), conditions=given, seeds=seeds)
    distances = np.square(every - made).mean(axis=(2, 3, 4, 5))
    found = float((distances.argmin(axis=0) == ways).mean()), float(np.square(made - wanted).mean() / wanted.var())
    print(f"{name}: direction {found[0]:.3f}, squared error {found[1]:.4f} of the variance", flush=True)
    return found


def main() -> int:
    """Runs the benchmark; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/flow_digits"), help="folder of projects and bundles")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the denoisers")
    parser.add_argument("--data", type=Path, help="only write the data to this file")
    given = parser.parse_args()
    if given.data is not None:
        print(written(given.data))
        return 0
    out = given.out.resolve()
    data = (f"data.path={written(out / 'moving_digits.npz')}",)
    stage = trained("digits_lfdm_autoencoder", out / "autoencoder", overrides=data)
    of_stage(stage.weights)
    pretrained = (*data, f"networks.autoencoder.pretrained={stage.weights}")
    results: dict[str, list[tuple[float, float]]] = {}
    for name, overrides in (("motion", pretrained), ("pixels", (*data, *PIXELS))):
        for seed in given.seeds:
            run = trained("digits_lfdm", out / f"{name}{seed}", overrides=overrides, seed=seed)
            print(f"{name}, seed {seed}: {run.seconds:.0f} s of a processor, loss falls {run.fall():.1f} ×", flush=True)
            found = judged(f"{name}, seed {seed}", "digits_lfdm", run.weights, out / f"{name}{seed}-bundle", overrides)
            results.setdefault(name, []).append(found)
    motion, pixels = results["motion"], results["pixels"]
    ratios = [ours[1] / theirs[1] for ours, theirs in zip(motion, pixels, strict=True)]
    lines = [
        verdict("share of videos in the direction asked for", [share for share, _ in motion], 0.95, ""),
        verdict("squared error of motion, of that of pixels", ratios, 0.67, "×", False),
    ]
    print(*lines, sep="\n")
    return int(any("MISSED" in line for line in lines))


if __name__ == "__main__":
    sys.exit(main())
