"""Two stages on digits: a tokenizer that gives codes, a model of these, and an engine that ends in pixels.

    python benchmarks/codes_digits.py [--out out/codes_digits] [--only var|nvg|larp|vfmtok|titok …]

Trains a small tokenizer and a model of its codes if their weights are not in the folder; the classifier of
examples/digits judges 1000 samples of the engine, and of what the tokenizer makes of digits, how much of their variance
is left to err. All settings were chosen before any sample was judged.

var     four scales of codes
nvg     codes of 1, 2, 4, 8 and 16 clusters, and the labels of these; latents are scaled to a deviation of 4, canvases
        to one of 1 (at that of 0.2 that the tokenizer gives them, the layer that tells codes apart would have to grow
        for most of the training); of 898 digits alone it learned the codes by heart, so it also sees copies of them
larp    video of 8 frames, a digit that moves down by a pixel per frame, as 16 codes without a place; the first frames
        are judged, and how much of their variance the others, moved back, differ by
vfmtok  digits of 16 by 16 pixels in three channels; the frozen vision model is at random weights, the discriminator
        starts at half of the training, samples are drawn without guidance
titok   8 codes without a place in the digit, drawn in 4 evaluations
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import verdict
from numpy.typing import NDArray
from on_digits import drawn, images, judged, shifted, trained
from safetensors.numpy import load_file, save_file

from latentc import api

Array = NDArray[np.floating]
SAMPLES, FIRST = 1000, 7_000_000  # and the seed of the first one
TRAIN = ("train.batch_size=64", "train.parallel=none", "train.precision=fp32", "train.log_every=20", "train.workers=0")
TRAIN += ("train.checkpoint_every=100000", "train.ema=0.99", "train.clip=1.0")
TRAIN += ("train.schedule={kind: cosine, warmup: 50}",)
TOKENIZER = (*TRAIN, "train.optimizer={kind: adam, lr: 2e-3, betas: [0.9, 0.95]}", "train.optimizers={}")
MODEL = (*TRAIN, "train.optimizer={kind: adamw, lr: 2e-3, weight_decay: 0.03}")


def under(path: str, *sizes: str) -> tuple[str, ...]:
    """Overrides of one part of a spec."""
    return tuple(f"{path}.{size}" for size in sizes)


def plain(samples: Array) -> Array:
    return samples


def moving(digits: Array) -> Array:
    """f32[N, 1, 8, 8, 8] of digits f32[N, 1, 8, 8]."""
    return np.stack([np.roll(digits, k, axis=2) for k in range(8)], axis=2)


def enlarged(digits: Array) -> Array:
    """Digits f32[N, 1, 8, 8] as f32[N, 3, 16, 16]."""
    return np.repeat(digits.repeat(2, axis=2).repeat(2, axis=3), 3, axis=1)


def reduced(samples: Array) -> Array:
    """The reverse of `enlarged`."""
    return samples.mean(1).reshape(-1, 8, 2, 8, 2).mean((2, 4))[:, None]


@dataclass(frozen=True)
class System:
    """Two specs with their overrides, what the first one sees of digits, and how samples become digits.

    `copies`: it learns digits that are moved by a pixel, too. `quantizer`: beginnings of the tokenizer's weights that
    the model's network of this name takes, and of what it does not. `deviation`: that of its latents, if they are
    scaled. `left`: at most so much of the variance; `accuracy`: at least so many samples of the asked class.
    """

    tokenizer: str
    tokenizing: tuple[str, ...]
    model: str
    modelling: tuple[str, ...]
    tokens: str
    data: str = "shape: [1, 8, 8]"
    variant: str | None = None
    seen: Callable[[Array], Array] = plain
    digit: Callable[[Array], Array] = plain
    copies: bool = False
    quantizer: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    deviation: float | None = None
    left: float = 0.25
    accuracy: float = 0.9


VIDEO = "fields: {x: {shape: [1, 8, 8, 8], medium: video, axes: [channel, frame, height, width]}}"
SYSTEMS = {
    "var": System(
        *("digits_vq_multi_scale", (), "digits_var", ()),
        "vocabulary: 128, grid: [30]",
        quantizer=(("codebook.", "smooth."), ("smooth.3.",)),
        accuracy=0.95,
    ),
    "nvg": System(
        "vq_multi_granularity",
        (
            *(*TOKENIZER, "train.steps=2000"),
            *under("backbone", "width=32", "multipliers=[1, 2]", "blocks=1", "groups=8"),
            "backbone.bottleneck={kind: granularity_codebook, size: 32, channels: 32, side: 4, convolutions: 0}",
        ),
        "nvg",
        (
            *(*MODEL, "train.steps=8000", "objective.canvas=0.0625"),
            *under("networks.main", "width=64", "depth=4", "heads=2", "side=4", "latent=32", "factors=null"),
            *under("networks.structure", "width=64", "depth=4", "heads=2", "side=4", "latent=32"),
            "networks.quantizer.codebook={size: 32, channels: 32, side: 4, convolutions: 0}",
        ),
        "vocabulary: 32, grid: [47]",
        quantizer=(("codebook.", "smooth."), ()),
        deviation=4.0,
        copies=True,
    ),
    "larp": System(
        "larp_tokenizer",
        (
            *(*TOKENIZER, "train.steps=4000"),
            *under("networks.main", "tokens=16", "width=64", "depth=3", "patch=4", "frames=2", "block.mixer.heads=4"),
            "networks.main.bottleneck={kind: codebook, size: 128, channels: 8, normalize: true, commitment: 0.25, "
            "temperature: 0.03}",
            *under("networks.prior", "width=64", "depth=2", "length=16", "channels=8", "dropout=0"),
            *under(
                "networks.prior.block",
                "mixer.heads=4",
                "mixer.dropout=0",
                "mixer.weight_dropout=0",
                "feed_forward.dropout=0",
            ),
        ),
        "larp",
        (
            *(*MODEL, "train.steps=2000"),
            *under("backbone", "width=64", "depth=4", "block.feed_forward.multiple_of=32", "block.mixer.heads=4"),
        ),
        "vocabulary: 128, grid: [16]",
        data=VIDEO,
        seen=moving,
        digit=lambda video: video[:, :, 0],
    ),
    "vfmtok": System(
        "vfmtok_tokenizer",
        (
            *(*TOKENIZER, "train.steps=400"),
            "networks.main.pretrained=null",
            "networks.main.fresh_weights=[]",
            "networks.main.vision={width: 32, depth: 2, heads: 2, patch: 2, registers: 1, side: 8, levels: [0, 1]}",
            *under("networks.main", "tokens=16", "width=32", "depth=2", "registers=1", "block.mixer.heads=2"),
            "networks.main.regions={depth: 2, heads: 2, points: 2, hidden: 64}",
            "networks.main.block.feed_forward.hidden=64",
            "networks.main.pixels={width: 16, multipliers: [1, 1], blocks: 1, groups: 4}",
            "networks.main.bottleneck={kind: codebook, size: 64, channels: 4, normalize: true}",
            "networks.discriminator={kind: patch_discriminator, width: 16, depth: 1}",
            "networks.perceptual=null",
            *under("objective", "start=200", "adversarial=0.02"),
        ),
        "vfmtok",
        (
            *(*MODEL, "train.steps=600"),
            *under("backbone", "width=64", "depth=3", "dropout=0"),
            "backbone.block.mixer={kind: attention, heads: 4, causal: true, bias: false}",
            "backbone.block.feed_forward={kind: swiglu, multiple_of: 32}",
        ),
        "vocabulary: 64, grid: [4, 4]",
        data="shape: [3, 16, 16]",
        variant="adversarial",
        seen=enlarged,
        digit=reduced,
        accuracy=0.4,
    ),
    "titok": System(*("digits_titok_tokenizer", (), "digits_titok", ()), "vocabulary: 64, grid: [8]"),
}


def scaled(system: System, overrides: list[str], out: Path, tokens: Array) -> list[str]:
    """What scales the latents of NVG's tokenizer to `system.deviation`, and canvases to one of 1."""
    weights = [f"quantizer={out / 'quantizer.safetensors'}"]
    how = {"network": "quantizer", "method": "canvases", "overrides": overrides}
    canvases = next(iter(api.run_method(system.model, weights, {"tokens": tokens}, "torch", **how).values()))
    of_stage = [float(canvases[:, k].std()) for k in range(1, canvases.shape[1])]
    scale = system.deviation / of_stage[-1]
    factors = [1.0, *(1 / (scale * one) for one in of_stage)]
    return [f"networks.quantizer.scale={scale:.6g}", f"networks.main.factors={factors}"]


def main() -> int:
    """Runs the benchmark; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/codes_digits"), help="folder of projects and bundles")
    parser.add_argument("--only", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), help="some of the systems")
    given = parser.parse_args()
    lines = [line for name in given.only for line in measured(name, given.out.resolve() / name)]
    return int(any("MISSED" in line for line in lines))


def measured(name: str, out: Path) -> list[str]:
    """Trains both stages, judges samples, prints and returns the verdicts."""
    system = SYSTEMS[name]
    out.mkdir(parents=True, exist_ok=True)
    digits, labels = images(0)
    if system.copies:
        digits, labels = shifted(digits), np.tile(labels, 5)
    x = system.seen(digits)
    np.savez(out / "data.npz", x=x)
    first = [f"data={{kind: npz, path: {out / 'data.npz'}, {system.data}}}", *system.tokenizing]
    tokenizer = trained(system.tokenizer, out / "tokenizer", overrides=first, variant=system.variant)
    given = {"variant": system.variant, "overrides": first}
    codes = api.run_method(system.tokenizer, tokenizer.weights, {"x": x}, "torch", method="encode", **given)
    made = api.run_method(system.tokenizer, tokenizer.weights, {"x": x}, "torch", **given)
    left = float(np.square(next(iter(made.values())) - x).mean() / x.var())
    np.savez(out / "tokens.npz", tokens=next(iter(codes.values())), y=labels)
    spec = out / "stage.yaml"
    spec.write_text(api.resolved(system.tokenizer, system.variant, first), encoding="utf-8")
    stage = f"first_stage: {{spec: {spec}, weights: {tokenizer.weights}}}"
    tokens = f"path: {out / 'tokens.npz'}, classes: 10, tokens: {{{system.tokens}}}"
    second = [f"data={{kind: npz, {tokens}, {stage}}}", *system.modelling]
    if system.quantizer is not None:
        taken, other = system.quantizer
        kept = {n: a for n, a in load_file(tokenizer.weights).items() if n.startswith(taken)}
        save_file({n: a for n, a in kept.items() if not n.startswith(other)}, out / "quantizer.safetensors")
        second.append(f"networks.quantizer.pretrained={out / 'quantizer.safetensors'}")
        if system.deviation is not None:
            second += scaled(system, second, out, next(iter(codes.values())))
    model = trained(system.model, out / "model", overrides=second)
    api.compile(system.model, model.weights, out / "bundle", overrides=second)
    samples = drawn(out / "bundle", SAMPLES, FIRST)
    found = judged(system.digit(samples), np.arange(SAMPLES) % 10)
    print(f"{name}: tokenizer {tokenizer.seconds:.0f} s, model {model.seconds:.0f} s; {found}")
    if samples.ndim == 5:
        back = np.stack([np.roll(samples[:, :, k], -k, axis=2) for k in range(8)], axis=2)
        still = np.square(back - back[:, :, :1]).mean() / samples.var()
        print(f"{name}: frames moved back differ from the first by {still:.3f} of the variance")
    lines = [
        verdict(f"{name}: share of the variance that is left", left, system.left, "", False),
        verdict(f"{name}: class accuracy", found.accuracy, system.accuracy, ""),
    ]
    print(*lines, sep="\n", flush=True)
    return lines


if __name__ == "__main__":
    sys.exit(main())
