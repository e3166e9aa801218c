"""How much of the loss from quantisation distillation recovers, on digits.

    python benchmarks/quantised_training.py [--out out/quantised_training] [--seeds 0 1 2] [--cases gan-int8 …]

Trains a spec, quantises every layer that its engine can, once after training and once after `latentc train --quantize`
has fitted the weights to the rounding, and judges 1000 samples of the three engines by the classifier of
examples/digits. PSNR is that of these samples against those of the unquantised engine, from the same noise. Goal, set
before the first run: in every seed distillation raises the PSNR.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from on_digits import Figures, drawn, judged, spread, trained

from latentc import api
from latentc.measure.metrics import psnr

SAMPLES = 1000


@dataclass(frozen=True)
class Case:
    """A spec, a scheme, the target, and the settings of the distillation."""

    spec: str
    scheme: str
    target: str
    distillation: tuple[str, ...]


CASES = {
    "gan-int8": Case("digits_r3gan", "int8", "{engine: openvino}", ("train.steps=1000",)),
    "dit-int4": Case("digits_dit", "int4_weights", "{engine: onnxruntime}", ("train.steps=600",)),
}
EVERY_LAYER = "budget: {psnr: 0.001}, min_speedup: 0"  # nothing is left out or refused for its error or its time


def main() -> int:
    """Runs the benchmark; 1 if the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/quantised_training"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    flags = parser.parse_args()
    missed = 0
    for name in flags.cases:
        rows = [_measured(CASES[name], flags.out / f"{name}-{seed}", seed) for seed in flags.seeds]
        missed += sum(row["distilled"][1] <= row["quantised"][1] for row in rows)
        for way in rows[0]:
            accuracy, frechet = (spread([getattr(row[way][0], key) for row in rows]) for key in Figures._fields)
            decibels = "" if way == "full" else f", PSNR {spread([row[way][1] for row in rows], 1)} dB"
            print(f"{name}, {way}: accuracy {accuracy}, Fréchet distance {frechet}{decibels}", flush=True)
    print("goal missed" if missed else "goal met: distillation raises the PSNR in every seed")
    return int(missed > 0)


def _measured(case: Case, folder: Path, seed: int) -> dict[str, tuple[Figures, float]]:
    """{engine: how its samples are judged, and their PSNR against the unquantised engine's}."""
    target = f"target={case.target}"
    weights = trained(case.spec, folder / "project", seed=seed).weights
    project = folder / "distilled"
    fitted = (project / "runs/train/weights.safetensors").resolve()
    if not fitted.exists():
        asked = [target, *case.distillation]
        api.train(case.spec, project, ["--seed", str(seed)], None, asked, quantize=case.scheme, weights=weights)
    quantize = f"optimize.quantize={{scheme: {case.scheme}, {EVERY_LAYER}}}"
    engines = {"full": (weights, [target]), "quantised": (weights, [target, quantize])}
    engines["distilled"] = (fitted, [target, quantize])
    labels, found = np.arange(SAMPLES) % 10, dict[str, tuple[Figures, float]]()
    exact = None
    for way, (file, overrides) in engines.items():
        api.compile(case.spec, file, folder / f"{way}.latentc", overrides=overrides)
        samples = drawn(folder / f"{way}.latentc", SAMPLES)
        exact = samples if exact is None else exact
        found[way] = judged(samples, labels), float(psnr(samples, exact, 2.0)) if way != "full" else np.inf
        print(f"  {folder.name}, {way}: {found[way][0]}, PSNR {found[way][1]:.1f} dB", flush=True)
    return found


if __name__ == "__main__":
    raise SystemExit(main())
