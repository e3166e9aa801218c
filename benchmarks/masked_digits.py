"""MaskGIT as in JAX, MAGE, MaskBit and taming transformers on digits, each at the size of `digits_maskgit`.

    python benchmarks/masked_digits.py [--out out/masked_digits] [--only NAME]

Trains each if its weights are not in the folder, and has the classifier of examples/digits judge 2000 samples of each
engine. A pixel is a token of 17 grey levels, for MaskBit of 16, in two groups of two bits. MAGE is told the class by an
embedding of its own. Sizes and steps were chosen before any sample was judged. Goal: class accuracy of at least 0.95.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from common import verdict
from distil_digits import FIRST, SAMPLES, trained
from reduce_digits import METRICS

import latentc_runtime
from latentc import api

TOKENS = "data={kind: digits, as: tokens}"
SIZES = ("width=64", "depth=4", "block.mixer.heads=4", "block.mixer.dropout=0", "block.feed_forward.dropout=0")
TRAIN = (
    "train={steps: 1500, batch_size: 64, optimizer: {kind: adamw, lr: 2e-3, weight_decay: 0.03}, clip: 1.0, "
    "schedule: {kind: cosine, warmup: 50}, ema: 0.99, parallel: none}",
)
BERT = (*(f"backbone.{size}" for size in (*SIZES, "dropout=0")), *TRAIN, "sampler.steps=16")
SYSTEMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "maskgit_jax": ("maskgit_jax", (TOKENS, *BERT, "backbone.embedding.labels=10", "sampler.randomness=8")),
    "mage": (
        "mage",
        (
            *(TOKENS, *BERT, "conditioning={class: {kind: label, dropout: 0}}", "sampler.randomness=8"),
            *("backbone.decoder={width: 64, depth: 2, heads: 4}", "backbone.embedding={labels: 10, shared: false}"),
        ),
    ),
    "maskbit": (
        "maskbit",
        (
            *("data={kind: npz, path: %s, classes: 10, tokens: {vocabulary: 16, grid: [8, 8]}}", *BERT),
            *("sampler.randomness=8", "sampler.guidance={scale: 2, schedule: cosine, power: 3}"),
        ),
    ),
    "taming": (
        "taming",
        (TOKENS, *(f"backbone.{size}" for size in SIZES), *TRAIN, "sampler.top_k=0", "sampler.top_p=1.0"),
    ),
}


def main() -> int:
    """Runs the benchmark; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/masked_digits"), help="folder of projects and bundles")
    parser.add_argument("--only", choices=tuple(SYSTEMS), help="one of them")
    arguments = parser.parse_args()
    out: Path = arguments.out.resolve()
    lines = [
        verdict(f"{name}: class accuracy", accuracy(name, out), 0.95)
        for name in SYSTEMS
        if arguments.only in (None, name)
    ]
    print("\n".join(lines))
    return int(any("MISSED" in line for line in lines))


def accuracy(name: str, out: Path) -> float:
    """Class accuracy of samples from the engine."""
    sys.path.insert(0, str(METRICS.parent))
    from metrics import judged, split

    out.mkdir(parents=True, exist_ok=True)
    given, _ = split()
    levels = out / "levels.npz"
    images = np.minimum(given.images.reshape(len(given.images), -1), 15).astype(np.int64)
    np.savez(levels, tokens=images, y=given.labels)
    spec, overrides = SYSTEMS[name]
    sizes = [size % levels if "%s" in size else size for size in overrides]
    weights = trained(spec, out / name, None, sizes)
    api.compile(spec, [f"main={weights}"], out / f"{name}.bundle", overrides=sizes)
    pipe, labels = latentc_runtime.load(out / f"{name}.bundle", "cpu"), np.arange(SAMPLES) % 10
    samples = pipe.sample(labels, np.arange(FIRST, FIRST + SAMPLES)).reshape(-1, 1, 8, 8) / 8 - 1
    found = judged(samples, labels)
    print(f"{name}: accuracy {found['accuracy'][0]:.4f}, Fréchet distance {found['frechet']:.4f}")
    return float(found["accuracy"][0])


if __name__ == "__main__":
    sys.exit(main())
