"""What the groups of D-AR's codes say: images drawn again from all of them, and with later or earlier ones exchanged.

    python benchmarks/d_ar_digits.py [--out out/d_ar_digits] [--seeds 0 1 2]

Trains `digits_d_ar_tokenizer` per seed if its weights are not in the folder, encodes held-out digits by its engine, and
draws them from their own codes, from codes whose last groups are those of other digits, and from codes whose first
groups are. The figure is the squared error over the variance of the digits. Codes of the first steps should say more.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from common import verdict
from on_digits import images, spread, trained

from latentc import api
from latentc_runtime import load

SPEC = "digits_d_ar_tokenizer"


def main() -> int:
    """Runs the benchmark; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/d_ar_digits"), help="projects, weights and engines")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the trainings")
    given = parser.parse_args()
    x = images(1)[0][:500]
    left: dict[str, list[float]] = {"own codes": [], "first half of another": [], "second half of another": []}
    for seed in given.seeds:
        run = trained(SPEC, given.out / f"seed{seed}", seed=seed)
        bundle = given.out / f"seed{seed}.latentc"
        api.compile(SPEC, run.weights, bundle, force=True)
        pipe = load(bundle, "cpu")
        codes = np.asarray(pipe.sample(program="encode", conditions={"x": x}, seeds=0))
        other, half = np.roll(codes, 1, axis=0), codes.shape[1] // 2
        mixed = {
            "own codes": codes,
            "first half of another": np.concatenate([other[:, :half], codes[:, half:]], axis=1),
            "second half of another": np.concatenate([codes[:, :half], other[:, half:]], axis=1),
        }
        for name, these in mixed.items():
            back = np.asarray(pipe.sample(program="decode", conditions={"codes": these}, seeds=0))
            left[name].append(float(((back - x) ** 2).mean() / x.var(0).mean()))
        said = ", ".join(f"{name} {values[-1]:.3f}" for name, values in left.items())
        print(f"seed {seed}: {run.seconds:.0f} s of a processor, {len(np.unique(codes))} rows used, {said}", flush=True)
    for name, values in left.items():
        print(f"{name}: {spread(values)} of the variance left")
    first, second = left["first half of another"], left["second half of another"]
    lines = [
        verdict("variance left by a digit's own codes", left["own codes"], 0.5, unit="", least=False),
        verdict("error of another first half over another second half", np.divide(first, second).tolist(), 1.0),
    ]
    print("\n".join(lines))
    return int(any("MISSED" in line for line in lines))


if __name__ == "__main__":
    sys.exit(main())
