"""VFMTok on digits: regions of features as tokens, a model of these, and an engine that ends in pixels.

    python benchmarks/regions_digits.py [--out out/regions_digits]

Trains a small `vfmtok_tokenizer` on digits of 16 by 16 pixels in three channels, its frozen vision model at random
weights, against a discriminator that starts at half of the training, and a small `vfmtok` on its codes, if their
weights are not in the folder; the classifier of examples/digits judges 1000 samples of the engine, drawn without
guidance. Settings were chosen before any sample was judged. Goals: the tokenizer leaves at most a quarter of the
variance, the classes of samples are right four times as often as by chance.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from common import verdict
from on_digits import drawn, images, judged, trained

from latentc import api

SAMPLES, FIRST = 1000, 7_000_000  # and the seed of the first one
TRAIN = ["train.batch_size=64", "train.parallel=none", "train.precision=fp32", "train.log_every=20"]
TRAIN += ["train.checkpoint_every=100000", "train.ema=0.99", "train.clip=1.0", "train.workers=0"]
TRAIN += ["train.schedule={kind: cosine, warmup: 50}"]
TOKENIZER = [
    *TRAIN,
    "train.steps=400",
    "train.optimizer={kind: adam, lr: 2e-3, betas: [0.9, 0.95]}",
    "networks.main.pretrained=null",
    "networks.main.fresh_weights=[]",
    "networks.main.vision={width: 32, depth: 2, heads: 2, patch: 2, registers: 1, side: 8, levels: [0, 1]}",
    "networks.main.tokens=16",
    "networks.main.width=32",
    "networks.main.regions={depth: 2, heads: 2, points: 2, hidden: 64}",
    "networks.main.depth=2",
    "networks.main.block.mixer.heads=2",
    "networks.main.block.feed_forward.hidden=64",
    "networks.main.registers=1",
    "networks.main.pixels={width: 16, multipliers: [1, 1], blocks: 1, groups: 4}",
    "networks.main.bottleneck={kind: codebook, size: 64, channels: 4, normalize: true}",
    "networks.discriminator={kind: patch_discriminator, width: 16, depth: 1}",
    "networks.perceptual=null",
    "objective.start=200",
    "objective.adversarial=0.02",
]
MODEL = [
    *TRAIN,
    "train.steps=600",
    "train.optimizer={kind: adamw, lr: 2e-3, weight_decay: 0.03}",
    "backbone.width=64",
    "backbone.depth=3",
    "backbone.dropout=0",
    "backbone.block.mixer={kind: attention, heads: 4, causal: true, bias: false}",
    "backbone.block.feed_forward={kind: swiglu, multiple_of: 32}",
]


def main() -> int:
    """Runs the benchmark; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/regions_digits"), help="folder of projects and bundles")
    out: Path = parser.parse_args().out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    x, labels = images(0)
    np.savez(out / "images.npz", x=enlarged(x))
    own = [f"data={{kind: npz, path: {out / 'images.npz'}, shape: [3, 16, 16]}}", *TOKENIZER]
    tokenizer = trained("vfmtok_tokenizer", out / "tokenizer", overrides=own, variant="adversarial")
    left = codes_of(tokenizer.weights, own, out, labels)
    (out / "stage.yaml").write_text(api.resolved("vfmtok_tokenizer", "adversarial", own), encoding="utf-8")
    staged = f"first_stage: {{spec: {out / 'stage.yaml'}, weights: {tokenizer.weights}}}"
    codes = f"classes: 10, tokens: {{vocabulary: 64, grid: [4, 4]}}, {staged}"
    overrides = [f"data={{kind: npz, path: {out / 'tokens.npz'}, {codes}}}", *MODEL]
    weights = trained("vfmtok", out / "model", overrides=overrides).weights
    api.compile("vfmtok", weights, out / "bundle", overrides=overrides)
    samples = drawn(out / "bundle", SAMPLES, FIRST)
    found = judged(samples.mean(1).reshape(-1, 8, 2, 8, 2).mean((2, 4))[:, None], np.arange(SAMPLES) % 10)
    print(f"vfmtok: {found}")
    lines = [verdict("share of the variance that is left", left, 0.25, "", False)]
    lines.append(verdict("class accuracy without guidance", found.accuracy, 0.4, ""))
    print(*lines, sep="\n")
    return int(any("MISSED" in line for line in lines))


def enlarged(x: np.ndarray) -> np.ndarray:
    """Digits f32[N, 1, 8, 8] as f32[N, 3, 16, 16]."""
    return np.repeat(x.repeat(2, axis=2).repeat(2, axis=3), 3, axis=1)


def codes_of(weights: Path, overrides: list[str], out: Path, labels: np.ndarray) -> float:
    """Writes the codes of the training digits; returns the share of the variance that decoding them leaves."""
    x = enlarged(images(0)[0])
    given = {"variant": "adversarial", "overrides": overrides}
    codes = api.run_method("vfmtok_tokenizer", weights, {"x": x}, "torch", method="encode", **given)
    made = api.run_method("vfmtok_tokenizer", weights, {"x": x}, "torch", **given)
    np.savez(out / "tokens.npz", tokens=next(iter(codes.values())), y=labels)
    return float(np.square(next(iter(made.values())) - x).mean() / x.var())


if __name__ == "__main__":
    sys.exit(main())
