"""Digits by masked diffusion (MDLM): held-out bound, samples, and what times spread over a batch do for its loss.

    python benchmarks/mdlm_digits.py [--out out/mdlm_digits] [--seeds 0 1 2]

Trains `digits_mdlm` per seed if its weights are not in the folder; the classifier of examples/digits judges 1000
samples of 32 steps. The bound of the negative log-likelihood is that of the half of the digits that training does not
see, with 8 times per digit. The spread is the standard deviation of the loss over random batches of the same 48
digits: with independent times over that with one time in each 48th of the interval. The goals were chosen before
anything was trained.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from common import verdict
from numpy.typing import NDArray
from on_digits import Figures, figures, halves, spread, trained
from safetensors.numpy import load_file

from latentc.checkpoint import buffer, computed, network_params
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec

SPEC, BATCH = "digits_mdlm", 48
INDEPENDENT = "objective.stratified=false"
HEIGHT = np.log(17)  # nats per token of the uniform distribution


class Losses:
    """The loss of held-out digits, one value per sample, by the oracle in float32."""

    def __init__(self, weights: Path, overrides: Sequence[str] = (), spec: str = SPEC) -> None:
        lowered = lower(load_spec(spec, overrides=list(overrides)))
        params = network_params(lowered, lowered.networks["main"])
        arrays = load_file(weights) | {name: buffer(p).array for name, p in params.items() if computed(p)}
        arrays = {f"main.{name}": array for name, array in arrays.items()}
        self.inputs = [value.name for value in lowered.module.functions["loss.terms"].inputs]
        self.interpreter = Interpreter(lowered.module, arrays)
        self.digits = halves()[1]

    def of(self, chosen: NDArray[np.integer], rng: np.random.Generator) -> NDArray[np.floating]:
        """f32[B] of the digits with these numbers and new draws; no class is dropped."""
        given = {
            "tokens": self.digits.images[chosen].reshape(-1, 64).astype(np.int64),
            "y": self.digits.labels[chosen].astype(np.int64),
            "u": rng.random(len(chosen), np.float32),
            "v": rng.random((len(chosen), 64), np.float32),
        }
        ones = np.ones(len(chosen), np.float32)  # at which no condition is dropped
        values = self.interpreter.run("loss.terms", *(given.get(name, ones) for name in self.inputs))[0]
        return np.asarray(values)

    def bound(self, draws: int = 8) -> float:
        """The mean over all held-out digits, in nats per token."""
        rng, every = np.random.default_rng(0), np.arange(len(self.digits.labels))
        return float(np.mean([self.of(every[i::8], rng).mean() for _ in range(draws) for i in range(8)]))

    def deviation(self, draws: int = 200) -> float:
        """Standard deviation of the mean loss of a batch of the same digits."""
        rng, chosen = np.random.default_rng(1), np.arange(BATCH)
        return float(np.std([self.of(chosen, rng).mean() for _ in range(draws)]))


def main() -> int:
    """Runs the benchmark; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/mdlm_digits"), help="folder of projects and bundles")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the trainings")
    given = parser.parse_args()
    samples, bounds, ratios = list[Figures](), list[float](), list[float]()
    for seed in given.seeds:
        run = trained(SPEC, given.out / f"seed{seed}", seed=seed)
        samples.append(figures(SPEC, run.weights, given.out / f"seed{seed}-bundle"))
        losses = Losses(run.weights)
        bounds.append(losses.bound())
        own, other = losses.deviation(), Losses(run.weights, (INDEPENDENT,)).deviation()
        ratios.append(other / own)
        print(
            f"seed {seed}: {run.seconds:.0f} s of a processor, {samples[-1]}, bound {bounds[-1]:.4f} nats per token "
            f"(uniform: {HEIGHT:.3f}), deviation of a batch's loss {own:.4f}, {other:.4f} with independent times",
            flush=True,
        )
    accuracies, distances = zip(*samples, strict=True)
    print(f"class accuracy {spread(accuracies)}, Fréchet distance {spread(distances)}, bound {spread(bounds)}")
    lines = [
        verdict("class accuracy", accuracies, 0.9, ""),
        verdict("deviation of the loss with independent times, of that with spread ones", ratios, 1.1),
    ]
    print(*lines, sep="\n")
    return int(any("MISSED" in line for line in lines))


if __name__ == "__main__":
    sys.exit(main())
