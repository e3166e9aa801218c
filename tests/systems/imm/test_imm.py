"""IMM beyond what was recorded: the loss against the paper's formulas, written out particle by particle; refusals."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from random_weights import weights_of

from latentc.components.contract import Lowered
from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec

SMALL = ("backbone.width=16", "backbone.depth=1", "backbone.block.mixer.heads=2", "train.batch_size=12")
SMALL += ("conditioning.time.frequencies=16", "conditioning.span={kind: scaled_span, frequencies: 16}")
CASES = {
    "paper": ("objective.particles=3",),
    "one_particle": ("objective.particles=1", "objective.power=1"),
    "cifar": ("objective.particles=2", "objective.power=1.5", "objective.shift=5", "objective.decrement=0.5"),
}
COUNT = 6


@cache
def lowered(*overrides: str) -> tuple[Any, Lowered]:
    spec = load_spec("digits_imm", overrides=[*SMALL, *overrides])
    return spec, lower(spec)


def batch() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {
        "x": rng.standard_normal((COUNT, 1, 8, 8)),
        "y": rng.integers(0, 10, COUNT),
        "u_t": np.array([0.7, 0.1, 0.4, 0.9, 0.3, 0.6]),
        "u_s": np.array([0.3, 0.9, 0.9999, 0.999, 0.2, 0.1]),  # r is s in some groups
        "noise": rng.standard_normal((COUNT, 1, 8, 8)),
        "drop": np.array([0.5, 0.05, 0.5, 0.5, 0.05, 0.5]),
    }


def step(spec: Any, network: Any, x: np.ndarray, t: float, s: float, y: np.ndarray) -> np.ndarray:
    """The paper's f(x, s, t) with its Euler parameterization of flow matching; t and s of every sample."""
    std = spec.objective.process.sigma_data
    many = np.ones(len(x))
    scaled = x / (std * np.sqrt((1 - t) ** 2 + t**2))
    return x - (t - s) * std * network(scaled, 1000 * t * many, y, (t - s) * many)


def expected(spec: Any, network: Any, given: dict[str, np.ndarray]) -> tuple[float, float]:
    """(the loss, its discrepancies without their weights), group by group."""
    o, std = spec.objective, spec.objective.process.sigma_data
    losses, discrepancies = [], []
    for first in range(0, COUNT, o.particles):
        group = slice(first, first + o.particles)
        x0, noise = given["x"][group], given["noise"][group]
        y = np.where(given["drop"][group] < 0.1, 10, given["y"][group])
        t = 0.994 * given["u_t"][first]
        s = given["u_s"][first] * t
        level = t / (1 - t) - o.decrement
        r = max(s, min(t - o.least_gap, level / (1 + level)))
        x_t = (1 - t) * x0 + t * std * noise
        # The interpolant of DDIM from x_t and x0, of equation 7.
        x_r = ((1 - r) - (1 - t) * r / t) * x0 + r / t * x_t
        y_t, y_r = step(spec, network, x_t, t, s, y), step(spec, network, x_r, r, s, y)

        def kernel(a: np.ndarray, b: np.ndarray, span: float = t - s) -> float:
            return float(np.exp(-max(np.linalg.norm(a - b), 1e-8) / (span * std * a.size)))

        pairs = [
            (kernel(a, b), kernel(c, d), kernel(a, d))
            for a, c in zip(y_t, y_r, strict=True)
            for b, d in zip(y_t, y_r, strict=True)
        ]
        mmd = np.mean([one + other - 2 * between for one, other, between in pairs])
        snr = 2 * np.log((1 - t) / t)
        growth = 2 / t + 2 / (1 - t)  # -d lambda / dt
        weight = 0.5 / (1 + np.exp(snr - o.shift)) * growth * (1 - t) ** o.power / ((1 - t) ** 2 + t**2)
        losses.append(weight * mmd)
        discrepancies.append(mmd)
    return float(np.mean(losses)), float(np.mean(discrepancies))


@pytest.mark.parametrize("name", CASES)
def test_the_loss_is_the_papers(name: str) -> None:
    spec, low = lowered(*CASES[name])
    oracle = Interpreter(low.module, weights_of(low, 0.3))
    given = batch()

    def network(*operands: np.ndarray) -> np.ndarray:
        return oracle.run(low.networks["main"].methods["forward"].function, *operands, prefix="main")[0]

    found = oracle.run("loss", *(given[v.name] for v in low.module.entry("loss").inputs))
    assert found == pytest.approx(expected(spec, network, given), rel=1e-6)


def test_a_smaller_last_group_repeats_its_last_sample() -> None:
    _, low = lowered("objective.particles=3")
    oracle = Interpreter(low.module, weights_of(low, 0.3))
    given = {name: x[:4] for name, x in batch().items()}
    names = [v.name for v in low.module.entry("loss").inputs]
    repeated = {name: x[[0, 1, 2, 3, 3, 3]] for name, x in given.items()}
    terms = oracle.run("loss.terms", *(given[name] for name in names))
    wanted = oracle.run("loss.terms", *(repeated[name] for name in names))
    for found, all_of in zip(terms, wanted, strict=True):
        assert np.abs(found - all_of[:4]).max() < 1e-12


@pytest.mark.parametrize("steps", [1, 3])
def test_a_restarted_sample_goes_to_the_data_and_back(steps: int) -> None:
    spec, low = lowered(f"sampler={{kind: renoised_flow_map, steps: {steps}, guidance: null}}")
    oracle = Interpreter(low.module, weights_of(low, 0.3))
    x, y = batch()["x"], batch()["y"]
    noise = np.random.default_rng(5).standard_normal((steps, *x.shape))
    z, times = 0.7 * x, np.linspace(0.994, 0, steps + 1)

    def network(*operands: np.ndarray) -> np.ndarray:
        return oracle.run(low.networks["main"].methods["forward"].function, *operands, prefix="main")[0]

    for i, t in enumerate(times[:-1]):
        z = step(spec, network, z, t, 0.0, y)
        if (s := times[i + 1]) > 0:
            z = (1 - s) * z + s * 0.7 * noise[i]
    (found,) = oracle.run(f"sample.{steps}", x, y, *([noise] if steps > 1 else []))
    assert np.abs(found - z).max() < 1e-9 * np.abs(z).max()


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["conditioning.span=null"], "does not take the span"),
        (["train.batch_size=6"], "no whole number of groups of 4 particles"),
    ],
)
def test_what_does_not_fit_is_refused(overrides: list[str], says: str) -> None:
    with pytest.raises(DiagnosticError) as caught:
        load_spec("digits_imm", overrides=overrides)
    assert any(says in one.message for one in caught.value.diagnostics), caught.value
