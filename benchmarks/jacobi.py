"""Inverses of STARFlow by Jacobi iterations against one token after the other: how many they take, and what they save.

    python benchmarks/jacobi.py [--out out/jacobi] [--only digits|speed] [--steps 400]

On digits a small STARFlow is trained for 400 steps; its samples under guidance of 2 by blocks of 4, 8 and all 16 tokens
are compared with those of the sequential inverse, from the same noise: the largest difference, of the largest value,
after each number of iterations. Speed: engines of two blocks of layers of STARFlow for classes at its width of
2048, latents of 16 x 16 with random weights, OpenVINO in bf16, batch 1 with guidance; processor seconds of one thread,
so that other work does not count. Blocks of 16 tokens, as in the authors' script, in 4 and 8 iterations.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from common import cpu_seconds, random_bundle, verdict
from on_digits import trained

import latentc_runtime
from latentc import api

COUNT = 200
SPEED = ("data.first_stage=null", "data.shape=[4, 16, 16]", "backbone.flows=1", "backbone.depths=[2]")
SPEED += ("target.engine=openvino", "target.precision=bf16", "target.form=loop", "target.max_batch=1")
SAMPLERS = {"one by one": "null", **{f"16 at a time, {n} times": f"{{block: 16, iterations: {n}}}" for n in (4, 8)}}


def main() -> int:
    """Runs the benchmark; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/jacobi"), help="project, weights, bundles")
    parser.add_argument("--only", choices=("digits", "speed"), help="one half of it")
    parser.add_argument("--steps", type=int, default=400, help="of the training")
    given = parser.parse_args()
    lines = [] if given.only == "speed" else [iterations(given.out, given.steps)]
    lines += [] if given.only == "digits" else [speed(given.out)]
    print("\n".join(lines))
    return int(any("MISSED" in line for line in lines))


def iterations(out: Path, steps: int) -> str:
    """Differences from the sequential inverse of a trained flow."""
    weights = trained("digits_starflow", out / "digits", overrides=[f"train.steps={steps}"]).weights
    labels, seeds = np.arange(COUNT) % 10, np.arange(COUNT)

    def samples(jacobi: str) -> np.ndarray:
        options = [
            "target.engine=onnxruntime",
            "target.form=loop",
            "sampler.kind=starflow_inverse",
            f"sampler.jacobi={jacobi}",
            "sampler.denoise=0",
        ]
        bundle = out / "engine"
        api.compile("digits_starflow", str(weights), bundle, overrides=options, max_batch=COUNT, force=True)
        return latentc_runtime.load(bundle, device="cpu").sample(classes=labels, seeds=seeds)

    wanted, worst = samples("null"), 0.0
    for block in (4, 8, 16):
        found = {n: samples(f"{{block: {block}, iterations: {n}}}") for n in (2, 4, 6) if n <= block}
        errors = {n: np.abs(x - wanted).max() / np.abs(wanted).max() for n, x in found.items()}
        print(f"blocks of {block}: " + ", ".join(f"{e:.1e} after {n}" for n, e in errors.items()), flush=True)
        worst = max(worst, errors[4])
    return verdict("largest difference after 4 iterations, of the largest value", worst, 0.01, "", least=False)


def speed(out: Path) -> str:
    """Processor seconds per sample of an engine of the published width, one after the other."""
    seconds = {}
    for name, jacobi in SAMPLERS.items():
        bundle = out / "engine"
        random_bundle(
            bundle,
            "starflow_class",
            None,
            [*SPEED, "sampler.kind=starflow_inverse", f"sampler.jacobi={jacobi}", "sampler.denoise=0"],
        )
        pipe = latentc_runtime.load(bundle, threads=1, verify=False)
        request = pipe.usual_request(1)
        seconds[name] = cpu_seconds(lambda pipe=pipe, request=request: pipe.run(request), 3)  # type: ignore[misc]
        print(f"{name}: {seconds[name]:.1f} processor seconds", flush=True)
    base, *others = seconds.values()
    return verdict("sampling one by one, of 16 tokens at a time in 4 iterations", base / others[0], 1.5)


if __name__ == "__main__":
    sys.exit(main())
