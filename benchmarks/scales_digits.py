"""VAR and LPD on digits: next-scale prediction of a multi-scale tokenizer's tokens, groups of pixels in 12 evaluations.

    python benchmarks/scales_digits.py [--out out/scales_digits] [--only var|lpd]

Trains each if its weights are not in the folder, and has the classifier of examples/digits judge 2000 samples of each
engine; VAR's ends in pixels. The steps were chosen before any sample was judged. Goal: class accuracy of at least 0.95.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from common import verdict
from distil_digits import FIRST, SAMPLES, trained
from reduce_digits import METRICS
from safetensors.numpy import load_file, save_file

import latentc_runtime
from latentc import api

TOKENIZER = "digits_vq_multi_scale"


def main() -> int:
    """Runs the benchmark; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/scales_digits"), help="folder of projects and bundles")
    parser.add_argument("--only", choices=("var", "lpd"), help="one of the two")
    arguments = parser.parse_args()
    out: Path = arguments.out.resolve()
    lines = [
        verdict(f"{name}: class accuracy", accuracy(*run(out), out), 0.95)
        for name, run in (("var", var), ("lpd", lpd))
        if arguments.only in (None, name)
    ]
    print("\n".join(lines))
    return int(any("MISSED" in line for line in lines))


def lpd(out: Path) -> tuple[str, list[str], list[str]]:
    """(spec, its weights, overrides)."""
    return "digits_lpd", [f"main={trained('digits_lpd', out / 'lpd', None)}"], []


def var(out: Path) -> tuple[str, list[str], list[str]]:
    """The same; trains the tokenizer first, and writes its codes and its quantiser."""
    tokenizer = trained(TOKENIZER, out / "tokenizer", None)
    sys.path.insert(0, str(METRICS.parent))
    from metrics import split

    given, _ = split()
    images, labels = (given.images[:, None] / 8 - 1).astype(np.float32), given.labels
    codes = api.run_method(TOKENIZER, tokenizer, {"x": images}, "torch", method="encode")
    made = api.forward(TOKENIZER, tokenizer, {"x": images}, "torch")
    print(f"{TOKENIZER}: mean squared error {np.square(made - images).mean():.4f} of {images.var():.4f}")
    np.savez(out / "tokens.npz", tokens=next(iter(codes.values())), y=labels)
    kept = {n: a for n, a in load_file(tokenizer).items() if n.startswith(("codebook.", "smooth."))}
    kept = {n: a for n, a in kept.items() if not n.startswith("smooth.3.")}  # of the last scale alone
    save_file(kept, out / "quantizer.safetensors")
    overrides = [f"data.path={out / 'tokens.npz'}", f"data.first_stage.weights={tokenizer}"]
    overrides += [f"networks.quantizer.pretrained={out / 'quantizer.safetensors'}"]
    weights = trained("digits_var", out / "var", None, overrides)
    files = [f"main={weights.parent / 'main.safetensors'}", f"quantizer={out / 'quantizer.safetensors'}"]
    return "digits_var", files, overrides


def accuracy(spec: str, weights: list[str], overrides: list[str], out: Path) -> float:
    """Class accuracy of samples from the engine."""
    sys.path.insert(0, str(METRICS.parent))
    from metrics import judged

    api.compile(spec, weights, out / f"{spec}.bundle", overrides=overrides)
    pipe, labels = latentc_runtime.load(out / f"{spec}.bundle", "cpu"), np.arange(SAMPLES) % 10
    samples = pipe.sample(labels, np.arange(FIRST, FIRST + SAMPLES))
    if samples.dtype.kind == "i":  # grey levels
        samples = samples.reshape(-1, 1, 8, 8) / 8 - 1
    found = judged(samples, labels)
    print(f"{spec}: accuracy {found['accuracy'][0]:.4f}, Fréchet distance {found['frechet']:.4f}")
    return float(found["accuracy"][0])


if __name__ == "__main__":
    sys.exit(main())
