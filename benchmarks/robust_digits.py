"""PFGM++ on the digits: how well samples bear noise in the steps, and weights of few bits, by D.

    python benchmarks/robust_digits.py [--out out/training_digits]

The paper's third claim (Xu et al. 2023, arXiv:2302.04265, section 6.2): a smaller D is more robust. Takes the networks
of `training_digits.py --only pfgmpp`, which it trains if they are not in the folder, and samples 500 digits in 18 steps
of Heun's method, with alpha sigma times normal noise added to the state after each step but the last, or with weights
that are rounded to a number of bits, symmetrically per tensor. The classifier of examples/digits judges them. Takes a
few minutes of one core.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import sys
from pathlib import Path

import numpy as np
import torch
from common import verdict
from digits_judges import write_data
from on_digits import Figures, judged
from safetensors.torch import load_file
from training_digits import train
from training_systems import SYSTEMS

COUNT, STEPS, SEED = 500, 18, 9_000_000
SIGMA_DATA, SIGMA_MIN, SIGMA_MAX, RHO = 0.7, 0.002, 80.0, 7.0  # as digits_edm2 samples
DIMENSIONS, NOISE, BITS = ("64", "inf"), (0.0, 0.2, 0.4), (5, 4)


def main() -> int:
    """Runs the benchmark; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/training_digits"), help="folder of the trained networks")
    given = parser.parse_args()
    torch.set_num_threads(1)
    write_data(given.out.resolve())
    rises: dict[tuple[str, str], float] = {}
    for d in DIMENSIONS:
        weights = train(SYSTEMS["pfgmpp"], f"D = {d}", given.out.resolve()).weights
        plain = sampled(weights, float(d))
        print(f"D = {d}: {plain}", flush=True)
        for what, found in (
            *((f"alpha {alpha}", sampled(weights, float(d), alpha=alpha)) for alpha in NOISE[1:]),
            *((f"{bits} bits", sampled(weights, float(d), bits=bits)) for bits in BITS),
        ):
            rises[d, what] = found.frechet / plain.frechet
            print(f"D = {d}, {what}: {found}, Fréchet distance {rises[d, what]:.2f} ×", flush=True)
    lines = []
    for what in (f"alpha {NOISE[1]}", f"{BITS[0]} bits"):
        rise = rises["64", what] / rises["inf", what]
        lines.append(verdict(f"D = 64, {what}: rise, of that of D = inf", rise, 1.0, least=False))
    print("\n".join(lines))
    return int(any("MISSED" in line for line in lines))


def network(weights: Path, bits: int | None) -> torch.nn.Module:
    """The network of a trained project, with weights of so many bits."""
    file = weights.parents[2] / "model.py"
    spec = importlib.util.spec_from_file_location(f"model_{file.parent.name}".replace("-", "_"), file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.NETWORKS["main"]().eval()
    own = load_file(weights)
    model.load_state_dict({name: rounded(own[name], bits) for name in model.state_dict()})
    return model  # type: ignore[no-any-return]


def rounded(weight: torch.Tensor, bits: int | None) -> torch.Tensor:
    """A weight of two and more axes on a grid of 2^bits - 1 values around 0."""
    if bits is None or weight.ndim < 2:
        return weight
    scale = weight.abs().max() / (2 ** (bits - 1) - 1)
    return torch.round(weight / scale) * scale


@torch.no_grad()
def sampled(weights: Path, d: float, alpha: float = 0.0, bits: int | None = None) -> Figures:
    """Judges samples of all digits in turn by Heun's method, as EDM has it, with noise in the steps."""
    model, rng = network(weights, bits), np.random.default_rng(SEED)
    labels = np.arange(COUNT) % 10
    y = torch.eye(10)[torch.from_numpy(labels)]
    ramp = np.linspace(SIGMA_MAX ** (1 / RHO), SIGMA_MIN ** (1 / RHO), STEPS) ** RHO
    sigmas = [*ramp, 0.0]

    def denoised(x: torch.Tensor, sigma: float) -> torch.Tensor:
        deviation = (sigma**2 + SIGMA_DATA**2) ** 0.5
        out = model(x / deviation, torch.full((COUNT,), np.log(sigma) / 4, dtype=torch.float32), y)
        return SIGMA_DATA**2 / deviation**2 * x + sigma * SIGMA_DATA / deviation * out  # type: ignore[no-any-return]

    noise = rng.standard_normal((COUNT, 1, 8, 8))
    if np.isfinite(d):  # R^2 / (R^2 + r^2) is beta distributed, r = sigma sqrt(D)
        share = rng.beta(32, d / 2, (COUNT, 1, 1, 1))
        noise *= np.sqrt(share / (1 - share) * d) / np.sqrt((noise**2).sum(axis=(1, 2, 3), keepdims=True))
    x = torch.from_numpy(np.float32(sigmas[0] * noise))
    for sigma, after in itertools.pairwise(sigmas):
        slope = (x - denoised(x, sigma)) / sigma
        moved = x + (after - sigma) * slope
        if after:
            slope = (slope + (moved - denoised(moved, after)) / after) / 2
            moved = x + (after - sigma) * slope
            moved += alpha * after * torch.from_numpy(np.float32(rng.standard_normal(x.shape)))
        x = moved
    return judged(x.numpy(), labels)


if __name__ == "__main__":
    sys.exit(main())
