"""How much of a large codebook is used: IBQ, whose rows all get gradients, against nearest rows.

    python benchmarks/ibq_digits.py [--out out/ibq_digits] [--seeds 0 1 2] [--steps 200]

Two tokenizers of digits with 1024 rows of 32 channels, the same layers, data and steps: `ibq_tokenizer` and one whose
bottleneck is `codebook`, which moves only the rows that are chosen. Both without entropy losses, which would spread the
codes by themselves. Trains them per seed if their weights are not in the folder, then counts the rows that held-out
digits use, and the share of their variance that the reconstruction leaves.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from common import verdict
from on_digits import images, spread, trained

from latentc import api

ROWS = 1024
LAYERS = "{kind: autoencoder, width: 32, multipliers: [1, 2], blocks: 1, groups: 8, middle_attention: false, "
BOTTLENECKS = {
    "ibq": f"bottleneck: {{kind: index_propagation, size: {ROWS}, channels: 32}}",
    "nearest rows": f"bottleneck: {{kind: codebook, size: {ROWS}, channels: 32}}",
}
SIZES = ("data={kind: digits}", "networks.discriminator=null", "networks.perceptual=null")
SIZES += ("objective={kind: autoencoding, reconstruction: l2}",)
SIZES += ("train.batch_size=64", "train.optimizer={kind: adamw, lr: 1e-3}", "train.optimizers={}", "train.ema=null")
SIZES += ("train.schedule={kind: cosine, warmup: 50}", "train.clip=1.0", "train.parallel=none", "train.workers=0")
SIZES += ("train.precision=fp32", "train.log_every=20")


def main() -> int:
    """Runs the benchmark; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/ibq_digits"), help="projects and weights")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the trainings")
    parser.add_argument("--steps", type=int, default=200, help="of each training")
    given = parser.parse_args()
    held_out = images(1)[0]
    used: dict[str, list[float]] = {name: [] for name in BOTTLENECKS}
    left: dict[str, list[float]] = {name: [] for name in BOTTLENECKS}
    for seed in given.seeds:
        for name, bottleneck in BOTTLENECKS.items():
            overrides = (*SIZES, f"networks.main={LAYERS}{bottleneck}}}")
            project = given.out / f"{name.replace(' ', '_')}{seed}"
            run = trained("ibq_tokenizer", project, overrides=overrides, seed=seed, steps=given.steps)
            codes = api.forward(
                "ibq_tokenizer", run.weights, {"x": held_out}, "torch", overrides=overrides, method="encode"
            )
            back = api.forward("ibq_tokenizer", run.weights, {"x": held_out}, "torch", overrides=overrides)
            used[name].append(len(np.unique(codes)))
            left[name].append(float(((back - held_out) ** 2).mean() / held_out.var(0).mean()))
            print(
                f"{name}, seed {seed}: {run.seconds:.0f} s of a processor, {used[name][-1]} rows used, "
                f"{left[name][-1]:.4f} of the variance left",
                flush=True,
            )
    for name in BOTTLENECKS:
        print(f"{name}: {spread(used[name], 0)} of {ROWS} rows used, {spread(left[name], 4)} of the variance left")
    ratio = [own / other for own, other in zip(used["ibq"], used["nearest rows"], strict=True)]
    error = [own / other for own, other in zip(left["ibq"], left["nearest rows"], strict=True)]
    lines = [
        verdict("rows used, of IBQ over nearest rows", ratio, 2.0),
        verdict("variance left, of IBQ over nearest rows", error, 1.0, least=False),
    ]
    print("\n".join(lines))
    return int(any("MISSED" in line for line in lines))


if __name__ == "__main__":
    sys.exit(main())
