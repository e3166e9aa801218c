"""Digits of DiT-DH with a head wider than its encoder against one as narrow, on tokens of 64 numbers.

    python benchmarks/rae_digits.py [--out out/rae_digits] [--seeds 0 1 2] [--steps 1500]

A digit is one token of 64 numbers, and the encoder has 48 channels. A head of 128 lets all of the noise through, one
of 48 does not. Trains the two per seed if their weights are not in the folder; the classifier of examples/digits judges
1000 samples. The goals were chosen before anything was trained.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from on_digits import Figures, compared, figures, trained

NARROW = ("backbone.decoder_width=48",)


def main() -> int:
    """Runs the benchmark; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/rae_digits"), help="folder of projects and bundles")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the trainings")
    parser.add_argument("--steps", type=int, default=1500, help="steps of each training")
    given = parser.parse_args()
    results: dict[str, list[Figures]] = {"wide": [], "narrow": []}
    for seed in given.seeds:
        for name, overrides in (("wide", ()), ("narrow", NARROW)):
            run = trained("digits_rae", given.out / f"{name}{seed}", overrides=overrides, seed=seed, steps=given.steps)
            found = figures("digits_rae", run.weights, given.out / f"{name}{seed}-bundle", overrides=overrides)
            loss = sum(run.losses["loss"][-5:]) / 5
            print(f"{name}, seed {seed}: {run.seconds:.0f} s of a processor, loss {loss:.3f}, {found}", flush=True)
            results[name].append(found)
    return compared(results, accuracy=0.9, frechet=0.8)


if __name__ == "__main__":
    sys.exit(main())
