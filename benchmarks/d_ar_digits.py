"""D-AR on digits: what its codes say, group by group, and an engine that draws codes, then pixels of them.

    python benchmarks/d_ar_digits.py [--out out/d_ar_digits] [--seeds 0 1 2]

Trains `digits_d_ar_tokenizer` per seed if its weights are not in the folder, encodes held-out digits by its engine, and
draws them from their own codes, from codes whose last groups are those of other digits, and from codes whose first
groups are. The figure is the squared error over the variance of the digits. Codes of the first steps should say more.
Dead places, which the authors count, too, have the same code in all digits. Then trains `digits_d_ar` on the codes of
the other digits; the classifier of examples/digits judges 1000 samples of an engine that ends with the pixel decoder.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from common import verdict
from numpy.typing import NDArray
from on_digits import drawn, images, judged, spread, trained

from latentc import api
from latentc_runtime import Pipeline, load

TOKENIZER, MODEL = "digits_d_ar_tokenizer", "digits_d_ar"
SAMPLES, FIRST = 1000, 7_000_000  # and the seed of the first one


def main() -> int:
    """Runs the benchmark; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/d_ar_digits"), help="projects, weights and engines")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the trainings")
    given = parser.parse_args()
    left: dict[str, list[float]] = {"own codes": [], "first half of another": [], "second half of another": []}
    accuracy, frechet = [], []
    for seed in given.seeds:
        out = given.out.resolve()
        run = trained(TOKENIZER, out / f"seed{seed}", seed=seed)
        bundle = out / f"seed{seed}.latentc"
        api.compile(TOKENIZER, run.weights, bundle, force=True)
        pipe = load(bundle, "cpu")
        codes, errors = reconstructed(pipe, images(1)[0][:500])
        for name, error in errors.items():
            left[name].append(error)
        said = ", ".join(f"{name} {error:.3f}" for name, error in errors.items())
        dead = float((codes.std(0) < 1e-5).mean())
        rows = " ".join(str(len(np.unique(place))) for place in codes.T)
        print(f"seed {seed}: {run.seconds:.0f} s of a processor, dead places {dead:.2f}, rows by place {rows}, {said}")

        x, labels = images(0)
        tokens = np.asarray(pipe.sample(program="encode", conditions={"x": x}, seeds=0))
        np.savez(out / f"codes{seed}.npz", tokens=tokens, y=labels)
        stage = f"first_stage: {{spec: {TOKENIZER}, weights: {run.weights}}}"
        field = "tokens: {vocabulary: 64, grid: [8]}"
        overrides = [f"data={{kind: npz, path: {out / f'codes{seed}.npz'}, classes: 10, {field}, {stage}}}"]
        model = trained(MODEL, out / f"model{seed}", overrides=overrides, seed=seed)
        api.compile(MODEL, model.weights, out / f"model{seed}.latentc", overrides=overrides, force=True)
        found = judged(drawn(out / f"model{seed}.latentc", SAMPLES, FIRST), np.arange(SAMPLES) % 10)
        accuracy.append(found.accuracy)
        frechet.append(found.frechet)
        print(f"seed {seed}: model {model.seconds:.0f} s of a processor, {found}", flush=True)
    for name, values in left.items():
        print(f"{name}: {spread(values)} of the variance left")
    print(f"Fréchet distance of samples: {spread(frechet)}")
    first, second = left["first half of another"], left["second half of another"]
    lines = [
        verdict("variance left by a digit's own codes", left["own codes"], 0.5, unit="", least=False),
        verdict("error of another first half over another second half", np.divide(first, second).tolist(), 1.0),
        verdict("class accuracy of samples", accuracy, 0.9, unit=""),
    ]
    print("\n".join(lines))
    return int(any("MISSED" in line for line in lines))


def reconstructed(pipe: Pipeline, x: NDArray[np.float32]) -> tuple[NDArray[np.int64], dict[str, float]]:
    """Codes i64[N, Q] of digits, and the shares of their variance left by images of codes, own and exchanged."""
    codes = np.asarray(pipe.sample(program="encode", conditions={"x": x}, seeds=0))
    other, half, seeds = np.roll(codes, 1, axis=0), codes.shape[1] // 2, np.arange(len(x))
    mixed = {
        "own codes": codes,
        "first half of another": np.concatenate([other[:, :half], codes[:, half:]], axis=1),
        "second half of another": np.concatenate([codes[:, :half], other[:, half:]], axis=1),
    }
    found = {}
    for name, these in mixed.items():
        back = np.asarray(pipe.sample(program="decode", conditions={"codes": these}, seeds=seeds))
        found[name] = float(((back - x) ** 2).mean() / x.var(0).mean())
    return codes, found


if __name__ == "__main__":
    sys.exit(main())
