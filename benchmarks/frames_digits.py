"""The frames behind the first three of videos of held-out digits, predicted by four planes and by LARP.

    python benchmarks/frames_digits.py [--out out/frames_digits] [--only four_plane_frames|larp_fp]

Trains a small tokenizer and a model of its codes, which is given the first frames, if their weights are not in the
folder. In a video of 8 frames a digit moves down or to the right by a pixel per frame. Judged are the class of the last
frame, moved back, and the squared error of the predicted frames, of that of the last known one repeated. All settings
and goals were chosen before anything was judged, but for the steps of four planes: after 1000, not 2000, the error was
large on digits that were trained on, too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from codes_digits import MODEL, TOKENIZER, under
from codes_digits import SYSTEMS as CODES
from common import verdict
from numpy.typing import NDArray
from on_digits import Training, images, judged, trained

import latentc_runtime
from latentc import api

Array = NDArray[Any]
FIRST, KNOWN, FRAMES = 7_000_000, 3, 8
VIT = ("width=64", "block.mixer.heads=4")
VIDEO = "{shape: [1, %d, 8, 8], medium: video, axes: [channel, frame, height, width]}"


def main() -> int:
    """Runs the benchmark; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/frames_digits"), help="folder of projects and bundles")
    parser.add_argument("--only", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), help="some of the systems")
    given = parser.parse_args()
    lines = []
    for name in given.only:
        out = given.out.resolve() / name
        out.mkdir(parents=True, exist_ok=True)
        lines += SYSTEMS[name](out)
    return int(any("MISSED" in line for line in lines))


def fallen(name: str, runs: Mapping[str, Training], least: float = 2.0) -> list[str]:
    """Of each training, how much its loss fell."""
    lines = []
    for what, run in runs.items():
        losses = run.losses["loss"]
        first, last = float(np.mean(losses[:2])), float(np.mean(losses[-20:]))
        print(f"{name}: {what}: {run.seconds:.0f} s, loss {first:.3g} to {last:.3g}", flush=True)
        if last > 0:  # a likelihood of numbers may be any
            lines.append(verdict(f"{name}: loss of the {what} falls", first / last, least))
    return lines


def ended(lines: list[str]) -> list[str]:
    print(*lines, sep="\n", flush=True)
    return lines


class Stage:
    """A trained tokenizer: what its latents are, and what makes it a first stage."""

    def __init__(self, spec: str, overrides: tuple[str, ...], out: Path) -> None:
        self.spec, self.overrides, self.file = spec, list(overrides), out / "stage.yaml"
        self.run = trained(spec, out / "tokenizer", overrides=overrides)
        self.file.write_text(api.resolved(spec, overrides=self.overrides), encoding="utf-8")

    def made(self, x: Array, method: str | None = None) -> Array:
        """Reconstructions of x, or what another method makes of it."""
        given: dict[str, Any] = {"overrides": self.overrides} | ({"method": method} if method else {})
        return np.asarray(next(iter(api.run_method(self.spec, self.run.weights, {"x": x}, "torch", **given).values())))

    def latents(self, x: Array) -> tuple[Array, float]:
        """(means f32[N, C, T] of deviation 1, what they were multiplied by)."""
        means = np.split(self.made(x, "encode"), 2, axis=1)[0]
        scale = float(1 / means.std())
        return means * scale, scale

    def told(self, more: str = "") -> str:
        return f"first_stage: {{spec: {self.file}, weights: {self.run.weights}{more}}}"


def predicted(spec: str, out: Path, overrides: tuple[str, ...], given: Mapping[str, Array]) -> tuple[Training, Array]:
    """(the training of a model, what its engine predicts)."""
    run = trained(spec, out / "model", overrides=overrides)
    api.compile(spec, run.weights, out / "bundle", overrides=list(overrides), force=True)
    count = len(next(iter(given.values())))
    seeds = np.arange(FIRST, FIRST + count)
    return run, latentc_runtime.load(out / "bundle", "cpu", threads=1).sample(conditions=dict(given), seeds=seeds)


def moving(digits: Array, axis: int, sign: int = 1) -> Array:
    """f32[N, 1, 8, 8, 8] of digits f32[N, 1, 8, 8] that move along rows (2) or columns (3)."""
    return np.stack([np.roll(digits, sign * k, axis=axis) for k in range(FRAMES)], axis=2)


def videos(half: int) -> tuple[Array, Array, Array]:
    """(videos, labels, axes): of the first half both ways of each digit, of the other one of each."""
    digits, labels = images(half)
    both = [moving(digits, axis) for axis in (2, 3)]
    if half == 0:
        return np.concatenate(both), np.tile(labels, 2), np.repeat([2, 3], len(labels))
    ways = np.arange(len(labels)) % 2
    return np.where(ways[:, None, None, None, None] == 0, *both), labels, ways + 2


def of_frames(name: str, made: Array) -> list[str]:
    """What predictions of the held-out half are judged by."""
    wanted, labels, axes = videos(1)
    last = made[:, :, -1]
    back = np.where(axes[:, None, None, None] == 2, *(np.roll(last, 1 - FRAMES, axis) for axis in (2, 3)))
    behind = wanted[:, :, KNOWN:]
    error, copied = (np.square(one - behind).mean() for one in (made[:, :, KNOWN:], wanted[:, :, KNOWN - 1 : KNOWN]))
    print(f"{name}: last frames {judged(back, labels)}; error behind {error / behind.var():.4f} of the variance")
    return [
        verdict(f"{name}: class accuracy of the last frame", judged(back, labels).accuracy, 0.9, ""),
        verdict(f"{name}: squared error, of that of the last known frame repeated", error / copied, 0.25, "×", False),
    ]


def framed(out: Path) -> str:
    """The tokenizer's data."""
    np.savez(out / "video.npz", x=videos(0)[0])
    return f"data={{kind: npz, path: {out / 'video.npz'}, fields: {{x: {VIDEO % FRAMES}}}}}"


def lost(name: str, stage: Stage) -> None:
    x = videos(1)[0]
    print(f"{name}: the tokenizer leaves {np.square(stage.made(x) - x).mean() / x.var():.4f} of the variance")


def four_plane_frames(out: Path) -> list[str]:
    sizes = (*VIT, "depth=1", "decoder_depth=1", "patch=2", "frames=2", "bottleneck.channels=4")
    overrides = (framed(out), *TOKENIZER, *under("backbone", *sizes), "train.steps=800")
    stage, x = Stage("four_plane_tokenizer", overrides, out), videos(0)[0]
    lost("four_plane_frames", stage)
    latents, scale = stage.latents(x)
    np.savez(out / "latents.npz", x=latents, known=x[:, :, :KNOWN])
    shape = f"shape: {list(latents.shape[1:])}, fields: {{known: {VIDEO % KNOWN}}}"
    overrides = (
        f"data={{kind: npz, path: {out / 'latents.npz'}, {shape}, {stage.told(f', scale: {scale}')}}}",
        *(*MODEL, "train.steps=2000", "sampler.steps=25"),
        *under("backbone", *VIT, "depth=3"),
        *under("networks.encoder", *sizes, f"filled_to={FRAMES}", f"pretrained={stage.run.weights}"),
    )
    run, made = predicted("four_plane_frames", out, overrides, {"known": videos(1)[0][:, :, :KNOWN]})
    lines = fallen("four_plane_frames", {"tokenizer": stage.run, "model": run})
    return ended([*lines, *of_frames("four_plane_frames", made)])


def larp_fp(out: Path) -> list[str]:
    stage, x = Stage("larp_tokenizer", (framed(out), *CODES["larp"].tokenizing, "train.steps=4000"), out), videos(0)[0]
    lost("larp_fp", stage)
    np.savez(out / "tokens.npz", tokens=stage.made(x, "encode"), seen=x[:, :, :KNOWN])
    tokens = "classes: 0, tokens: {vocabulary: 128, grid: [16]}"
    sizes = ("tokens=16", "width=64", "depth=3", "patch=4", "frames=2", "block.mixer.heads=4", f"filled_to={FRAMES}")
    overrides = (
        f"data={{kind: npz, path: {out / 'tokens.npz'}, {tokens}, fields: {{seen: {VIDEO % KNOWN}}}, {stage.told()}}}",
        *(*MODEL, "train.steps=2000"),
        *under("networks.main", *VIT, "depth=4", "block.feed_forward.multiple_of=32"),
        *under("networks.encoder", *sizes, f"pretrained={stage.run.weights}"),
        "networks.encoder.bottleneck={kind: codebook, size: 128, channels: 8, normalize: true, commitment: 0.25, "
        "temperature: 0.03}",
        "conditioning.seen.end=128",
    )
    run, made = predicted("larp_fp", out, overrides, {"seen": videos(1)[0][:, :, :KNOWN]})
    return ended([*fallen("larp_fp", {"model": run}, 1.5), *of_frames("larp_fp", made)])


SYSTEMS: dict[str, Callable[[Path], list[str]]] = {
    "four_plane_frames": four_plane_frames,
    "larp_fp": larp_fp,
}

if __name__ == "__main__":
    sys.exit(main())
