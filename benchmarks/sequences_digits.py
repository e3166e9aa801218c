"""Two stages on digits: a tokenizer whose latents are a sequence, then a transformer that diffuses over them.

    python benchmarks/sequences_digits.py [--out out/sequences_digits] [--only vitok|four_plane|speed …] [--seed 0]

Each stage trains for 600 steps of 64 of scikit-learn's digits, with the settings of networks_digits.py; these were
chosen before any sample was judged. The classifier of examples/digits judges 500 samples of the engine, which ends in
pixels, in 25 steps with a guidance scale of 1.5. What is trained stays in the folder.

vitok       images: 16 latents of 2 channels
four_plane  video of 8 frames, a digit that moves down by a pixel per frame: 96 latents of 2 channels, for 128 of a
            volume; the first frames are judged, and how much of their variance the others, moved back, differ by
speed       two blocks of four_plane's transformer of size L on one thread: time of one evaluation of 640 latents and
            of 1024
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from common import cpu_seconds, random_bundle, verdict
from digits_runs import DDIM, DIFFUSION, SAMPLES, STEPS, train, under
from numpy.typing import NDArray
from on_digits import Training, drawn, images, judged, trained

import latentc_runtime
from latentc import api

LEAST_ACCURACY, LEAST_FALL = 0.9, 2.0
SMALL = ("width=64", "depth=1", "decoder_depth=2", "patch=2", "block.mixer.heads=4")


def main() -> int:
    """Runs the benchmark; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/sequences_digits"), help="folder of projects and bundles")
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS), help="systems")
    parser.add_argument("--seed", type=int, default=0, help="of the trainings")
    given = parser.parse_args()
    lines = [line for name in given.only for line in RUNS[name](given.out.resolve() / f"seed{given.seed}", given.seed)]
    print("\n".join(lines))
    return int(any("MISSED" in line for line in lines))


def two_stages(
    name: str, data: NDArray[np.floating], tokenizer: tuple[str, ...], out: Path, seed: int
) -> tuple[str, Training, Training, NDArray[np.floating]]:
    """(what the tokenizer loses, both trainings, samples of all digits in turn) of spec `name` and its tokenizer."""
    stage = f"{name}_tokenizer"
    first = trained(stage, out / stage, overrides=(*tokenizer, train(STEPS)), seed=seed)
    changed = list(tokenizer)
    codes = api.run_method(stage, first.weights, {"x": data}, "torch", overrides=changed, method="encode")
    means = np.split(next(iter(codes.values())), 2, axis=1)[0]
    made = api.forward(stage, first.weights, {"x": data}, "torch", overrides=changed)
    lost = np.square(made - data).mean() / data.var()
    scale = float(1 / means.std())
    np.savez(out / f"{name}.npz", x=means * scale, y=images(0)[1])  # latents of a file are read as they are
    file = out / f"{stage}.yaml"
    file.write_text(api.resolved(stage, overrides=changed), encoding="utf-8")
    overrides = (
        f"data={{kind: npz, path: {out / name}.npz, classes: 10, shape: {list(means.shape[1:])}, first_stage: "
        f"{{spec: {file}, weights: {first.weights}, scale: {scale}}}}}",
        *under("backbone", "width=64", "depth=4", "block.mixer.heads=4"),
        *(f"objective={{{DIFFUSION}}}", DDIM, train(STEPS)),
    )
    second = trained(name, out / name, overrides=overrides, seed=seed)
    api.compile(name, second.weights, out / f"{name}.bundle", overrides=list(overrides))
    told = f"{name}: latents of {means[0].size} numbers for {data[0].size}, error {lost:.4f} of the variance"
    return told, first, second, drawn(out / f"{name}.bundle", SAMPLES)


def verdicts(name: str, first: Training, second: Training, accuracy: float) -> list[str]:
    return [
        verdict(f"{name}: loss of the tokenizer falls", first.fall(), LEAST_FALL),
        verdict(f"{name}: loss of the transformer falls", second.fall(), LEAST_FALL),
        verdict(f"{name}: class accuracy", accuracy, LEAST_ACCURACY, ""),
    ]


def vitok(out: Path, seed: int) -> list[str]:
    sizes = ("data={kind: digits}", *under("backbone", *SMALL, "bottleneck.channels=2"))
    told, first, second, samples = two_stages("vitok", images(0)[0], sizes, out, seed)
    found = judged(samples, np.arange(SAMPLES) % 10)
    return [told, f"vitok: {found}", *verdicts("vitok", first, second, found.accuracy)]


def four_plane(out: Path, seed: int) -> list[str]:
    video = np.stack([np.roll(images(0)[0], k, axis=2) for k in range(8)], axis=2)
    out.mkdir(parents=True, exist_ok=True)
    np.savez(out / "video.npz", x=video)
    sizes = (
        f"data={{kind: npz, path: {out}/video.npz, fields: {{x: {{shape: [1, 8, 8, 8], medium: video, "
        "axes: [channel, frame, height, width]}}}",
        *under("backbone", *SMALL, "frames=1", "bottleneck.channels=2"),
    )
    told, first, second, samples = two_stages("four_plane", video, sizes, out, seed)
    found = judged(samples[:, :, 0], np.arange(SAMPLES) % 10)
    back = np.stack([np.roll(samples[:, :, k], -k, axis=2) for k in range(8)], axis=2)
    still = np.square(back - back[:, :, :1]).mean() / samples.var()
    moves = f"four_plane: {found}; frames moved back differ from the first by {still:.3f} of the variance"
    return [told, moves, *verdicts("four_plane", first, second, found.accuracy)]


def speed(out: Path, seed: int) -> list[str]:
    times = {}
    for variant, tokens in (("L", 640), ("L-volume", 1024)):
        sizes = [
            "backbone.depth=2",
            "sampler={kind: ddim, steps: 1}",
            f"data={{kind: npz, path: none.npz, classes: 101, shape: [8, {tokens}]}}",
        ]
        random_bundle(out / f"speed-{tokens}", "four_plane", variant, sizes)
        pipe = latentc_runtime.load(out / f"speed-{tokens}", "cpu", threads=1)  # others spin
        times[tokens] = cpu_seconds(partial(pipe.sample, [0], seeds=[0]))
    return [verdict("four_plane: 640 latents against 1024", times[1024] / times[640], 1.5)]


RUNS: dict[str, Callable[[Path, int], list[str]]] = {"vitok": vitok, "four_plane": four_plane, "speed": speed}

if __name__ == "__main__":
    sys.exit(main())
