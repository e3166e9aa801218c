"""VAR on digits: next-scale prediction of the tokens of a multi-scale tokenizer.

    python benchmarks/scales_digits.py [--out out/scales_digits]

Trains digits_vq_multi_scale, and digits_var on its codes, if their weights are not in the folder; the classifier of
examples/digits judges 2000 samples of the engine, which ends in pixels. The steps were chosen before any sample was
judged. Goal: class accuracy of at least 0.95.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from common import verdict
from on_digits import drawn, images, judged, trained
from safetensors.numpy import load_file, save_file

from latentc import api

TOKENIZER, SPEC = "digits_vq_multi_scale", "digits_var"
SAMPLES, FIRST = 2000, 7_000_000  # and the seed of the first one


def main() -> int:
    """Runs the benchmark; 1 if the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/scales_digits"), help="folder of projects and bundles")
    out: Path = parser.parse_args().out.resolve()
    tokenizer = trained(TOKENIZER, out / "tokenizer").weights
    quantizer = write_tokens(tokenizer, out)
    overrides = [f"data.path={out / 'tokens.npz'}", f"data.first_stage.weights={tokenizer}"]
    overrides.append(f"networks.quantizer.pretrained={quantizer}")
    weights = trained(SPEC, out / "var", overrides=overrides).weights
    files = [f"main={weights.parent / 'main.safetensors'}", f"quantizer={quantizer}"]
    api.compile(SPEC, files, out / "bundle", overrides=overrides)
    found = judged(drawn(out / "bundle", SAMPLES, FIRST), np.arange(SAMPLES) % 10)
    print(f"{SPEC}: {found}")
    line = verdict("class accuracy", found.accuracy, 0.95, "")
    print(line)
    return int("MISSED" in line)


def write_tokens(tokenizer: Path, out: Path) -> Path:
    """Writes the codes of the training digits; returns the file of the quantiser, which it writes too."""
    x, labels = images(0)
    codes = api.run_method(TOKENIZER, tokenizer, {"x": x}, "torch", method="encode")
    made = api.forward(TOKENIZER, tokenizer, {"x": x}, "torch")
    print(f"{TOKENIZER}: mean squared error {np.square(made - x).mean():.4f} of {x.var():.4f}")
    np.savez(out / "tokens.npz", tokens=next(iter(codes.values())), y=labels)
    kept = {n: a for n, a in load_file(tokenizer).items() if n.startswith(("codebook.", "smooth."))}
    kept = {n: a for n, a in kept.items() if not n.startswith("smooth.3.")}  # of the last scale alone
    save_file(kept, out / "quantizer.safetensors")
    return out / "quantizer.safetensors"


if __name__ == "__main__":
    sys.exit(main())
