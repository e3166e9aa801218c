"""DiT-S/2 trained for real, then compiled in int8 for OpenVINO: its samples against fp32, its speed against bf16.

    python benchmarks/quantised_dit.py [--out out/quantised_dit] [--steps N] [--batch N]

Weights and activations of a trained network have outliers that random ones lack, so what int8 costs is measured on
these. The data are scikit-learn's digits, enlarged to 32 × 32 and printed with inks of four channels, as many as
latents have. The weights are trained once and kept in the folder (about 20 minutes on one core with bf16 arithmetic);
50 steps of DDIM with guidance are then compiled, judged and timed by `latentc compile` itself.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from common import verdict

import latentc_runtime
from latentc import api
from latentc.lower import lower
from latentc.measure.metrics import psnr
from latentc.quantize.calibration import read_calibration
from latentc.quantize.judge import BATCH, speedup
from latentc.quantize.model import Model
from latentc.quantize.plan import span
from latentc.spec import load_spec

SIDE, CHANNELS = 32, 4
# Prediction of velocities, as those of the digit DiT: a network trained for minutes does not go astray with it.
MODEL = (
    "objective={kind: diffusion, process: {kind: discrete, schedule: cosine}, predicts: velocity}",
    "sampler={kind: ddim, steps: 50, spacing: trailing, guidance: {scale: 2.0}}",
)
PSNR, SPEEDUP = 30.0, 1.25


def main() -> int:
    """Runs the benchmark; 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/quantised_dit"), help="data, weights, bundles")
    parser.add_argument("--steps", type=int, default=450, help="of training")
    parser.add_argument("--batch", type=int, default=16, help="of training")
    parser.add_argument("--smooth", type=float, help="SmoothQuant's alpha")
    parser.add_argument("--seconds", type=float, default=20.0, help="of timing; 0 only compiles and judges")
    args = parser.parse_args()
    weights = trained(args.out, args.steps, args.batch)
    quantize = f"{{scheme: int8, smooth: {args.smooth or 'null'}, min_speedup: 0}}"
    bundles = {}
    for name, scheme in (("bf16", []), ("int8", [f"optimize.quantize={quantize}"])):
        overrides = [*own(args.out), "target={engine: openvino, precision: bf16}", *scheme]
        # Bundles that are there and unchanged stay.
        api.compile("dit", weights, args.out / name, "S/2", overrides, progress=print, force=True)
        bundles[name] = latentc_runtime.load(args.out / name)
    found = bundles["int8"].manifest.quantization
    assert found is not None
    exact = read_calibration(args.out / "int8/quantization/calibration.npz").samples
    spec = load_spec("dit", "S/2", overrides)
    classes = np.array(Model(lower(spec), spec, {}).classes())
    reached = {name: psnr(pipe.sample(classes, seeds=0), exact, span(spec)) for name, pipe in bundles.items()}
    print(f"{found.layers} of {found.of} layers in int8; bf16 itself: {reached['bf16']:.1f} dB")
    lines = [verdict("PSNR of final samples against fp32", reached["int8"], PSNR, "dB")]
    if args.seconds:
        ratio = speedup([bundles["int8"], bundles["bf16"]], BATCH, args.seconds)
        lines.append(verdict(f"int8 against bf16, whole samplers at batch {BATCH}", ratio, SPEEDUP))
    print("\n".join(lines))
    return int(any("MISSED" in line for line in lines))


def own(out: Path) -> list[str]:
    """What differs from the spec that is shipped: the data, what is predicted, a sampler of 50 steps."""
    data = (
        f"data={{kind: npz, path: {(out / 'digits.npz').resolve()}, classes: 10, shape: [{CHANNELS}, {SIDE}, {SIDE}]}}"
    )
    return [data, *MODEL]


def trained(out: Path, steps: int, batch: int) -> Path:
    """The weights, trained where they are not there yet."""
    weights = out / "project/runs/train/weights.safetensors"
    if not weights.exists():
        out.mkdir(parents=True, exist_ok=True)
        write_data(out / "digits.npz")
        train = (
            f"train={{steps: {steps}, batch_size: {batch}, optimizer: {{kind: adamw, lr: 5e-4}}, ema: 0.99, clip: 1.0, "
            "schedule: {kind: cosine, warmup: 50, final: 0.1}, precision: bf16, parallel: none, log_every: 20, "
            "checkpoint_every: 200, keep: 1}"
        )
        api.train("dit", out / "project", ("--resume", "true"), "S/2", [*own(out), train])
    return weights


def write_data(file: Path) -> None:
    """Digits u8 [N, 32, 32, 4] with labels: each enlarged, in an ink and on a paper of its own."""
    from PIL import Image
    from sklearn.datasets import load_digits

    levels, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    size = (SIDE, SIDE)
    pictures = [Image.fromarray((x * (255 / 16)).astype(np.uint8).reshape(8, 8)).resize(size) for x in levels]
    amount = np.stack([np.asarray(p) for p in pictures])[..., None] / 255.0
    ink, paper = (rng.uniform(*ends, (len(labels), 1, 1, CHANNELS)) for ends in ((130, 255), (0, 125)))
    np.savez(file, x=np.rint(paper + amount * (ink - paper)).astype(np.uint8), y=labels)


if __name__ == "__main__":
    sys.exit(main())
