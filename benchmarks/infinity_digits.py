"""Digits by bits: what training with inverted bits does for the samples of an Infinity conditioned on the class.

    python benchmarks/infinity_digits.py [--out out/infinity_digits] [--seeds 0 1 2]

Trains `digits_infinity_vae` once and `digits_infinity` on its latents per seed, with bitwise self-correction and
without, if their weights are not in the folder; the classifier of examples/digits judges 1000 samples of their engines,
which end in pixels. Also the share of the variance of held-out digits that the tokenizer's bits leave. The goals were
chosen before anything was trained.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from common import verdict
from on_digits import Figures, compared, figures, images, trained

from latentc import api

TOKENIZER, MODEL = "digits_infinity_vae", "digits_infinity"
TRAININGS = {"corrected": (), "not corrected": ("objective.flips=0",)}


def latents(weights: Path, file: Path) -> float:
    """Writes the latents of the digits to train on; the share of held-out ones' variance that their bits leave."""
    (seen, labels), (new, _) = images(0), images(1)
    codes = next(iter(api.run_method(TOKENIZER, weights, {"x": seen}, "torch", method="encode").values()))
    np.savez(file, x=codes[:, : codes.shape[1] // 2], y=labels)  # not their log-variance
    made = next(iter(api.run_method(TOKENIZER, weights, {"x": new}, "torch").values()))
    return float(((made - new) ** 2).mean() / new.var())


def main() -> int:
    """Runs the benchmark; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/infinity_digits"), help="folder of the trainings")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the trainings")
    given = parser.parse_args()
    tokenizer = trained(TOKENIZER, given.out / "tokenizer")
    file = (given.out / "latents.npz").resolve()
    left = latents(tokenizer.weights, file)
    print(f"tokenizer: {tokenizer.seconds:.0f} s of a processor, {left:.3f} of the variance is left", flush=True)
    data = (f"data.path={file}", f"data.first_stage.weights={tokenizer.weights}")
    found: dict[str, list[Figures]] = {name: [] for name in TRAININGS}
    for seed in given.seeds:
        for name, overrides in TRAININGS.items():
            folder = given.out / f"seed{seed}-{name.replace(' ', '_')}"
            run = trained(MODEL, folder, overrides=(*data, *overrides), seed=seed)
            found[name].append(figures(MODEL, run.weights, folder / "bundle", (*data, *overrides)))
            print(f"seed {seed}, {name}: {run.seconds:.0f} s of a processor, {found[name][-1]}", flush=True)
    missed = compared(found, accuracy=0.9, frechet=1.0)
    line = verdict("variance that the tokenizer leaves", left, 0.25, "", least=False)
    print(line)
    return int(missed or "MISSED" in line)


if __name__ == "__main__":
    sys.exit(main())
