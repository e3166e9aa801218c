"""TiM beyond what was recorded: the loss with directions against the paper's formulas, stochastic steps, refusals."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from random_weights import weights_of

from latentc.components.contract import Lowered
from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec

SMALL = ("backbone.width=16", "backbone.depth=1", "backbone.block.mixer.heads=2")
SMALL += ("backbone.block.condition.hidden=6", "conditioning.time.frequencies=16", "conditioning.span.frequencies=16")
COUNT = 4


@cache
def lowered(*overrides: str) -> tuple[Any, Lowered]:
    spec = load_spec("digits_tim", overrides=[*SMALL, *overrides])
    return spec, lower(spec)


def network_of(low: Lowered) -> tuple[Interpreter, Any]:
    oracle = Interpreter(low.module, weights_of(low, 0.3))

    def network(*operands: np.ndarray) -> np.ndarray:
        return oracle.run(low.networks["main"].methods["forward"].function, *operands, prefix="main")[0]

    return oracle, network


def batch() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {
        "x": rng.standard_normal((COUNT, 1, 8, 8)),
        "y": rng.integers(0, 10, COUNT),
        "u": rng.standard_normal(COUNT),
        "u_r": rng.standard_normal(COUNT),
        "instant": np.array([0.1, 0.55, 0.8, 0.95]),  # no span, two spans, one to the data
        "noise": rng.standard_normal((COUNT, 1, 8, 8)),
        "drop": np.array([0.5, 0.05, 0.5, 0.05]),
    }


def expected(o: Any, network: Any, given: dict[str, np.ndarray]) -> tuple[float, float]:
    """(what is minimised, mean squared error), sample by sample."""
    losses, errors = [], []
    for i in range(COUNT):
        x0, e = given["x"][i : i + 1], given["noise"][i : i + 1]
        y = np.array([10]) if given["drop"][i] < 0.1 else given["y"][i : i + 1]
        times = sorted(1 / (1 + np.exp(-(given[name][i] - 0.4))) for name in ("u", "u_r"))
        t, r = times[1], times[0]
        r = t if given["instant"][i] < 0.5 else 0.0 if given["instant"][i] >= 0.9 else r

        def average(t: float, r: float = r, x0: np.ndarray = x0, e: np.ndarray = e, y: np.ndarray = y) -> np.ndarray:
            return network((1 - t) * x0 + t * e, np.array([t]), y, np.array([t - r]))

        change = (average(t + o.difference) - average(t - o.difference)) / (2 * o.difference)
        target, f = e - x0 - (t - r) * change, average(t)
        mse = np.mean((f - target) ** 2)
        cosine = np.sum(f * target, 1) / (np.linalg.norm(f, axis=1) * np.linalg.norm(target, axis=1))
        error = mse + (np.mean(1 - cosine) if o.direction else 0)
        losses.append(error / (error + o.eps) ** o.power / np.sqrt(np.tan(t) - np.tan(r) + 1))
        errors.append(mse)
    return float(np.mean(losses)), float(np.mean(errors))


@pytest.mark.parametrize(
    "overrides", [(), ("objective.direction=false", "objective.power=0.5", "objective.difference=0.1")]
)
def test_the_loss_is_the_papers(overrides: tuple[str, ...]) -> None:
    spec, low = lowered(*overrides)
    oracle, network = network_of(low)
    given = batch()
    found = oracle.run("loss", *(given[v.name] for v in low.module.entry("loss").inputs))
    assert found == pytest.approx(expected(spec.objective, network, given), rel=1e-6)


@pytest.mark.parametrize("steps", [2, 4])
def test_middle_steps_replace_some_of_the_noise(steps: int) -> None:
    _, low = lowered(f"sampler={{kind: stochastic_flow_map, steps: {steps}, stochasticity: 0.3, guidance: null}}")
    oracle, network = network_of(low)
    x, y = batch()["x"], batch()["y"]
    noise = np.random.default_rng(5).standard_normal((steps, *x.shape))
    z, times, every = x, np.linspace(1, 0, steps + 1), np.ones(COUNT)
    for i, (t, r) in enumerate(pairwise(times)):
        f, dt = network(z, t * every, y, (t - r) * every), t - r
        estimate = z + (1 - t) * f
        z = z - dt * f
        if t < 1 and r > 0:
            z = z - 0.3 * estimate * dt + np.sqrt(0.3 * 2 * t * dt) * noise[i]
    (found,) = oracle.run(f"sample.{steps}", x, y, *([noise] if steps > 2 else []))
    assert np.abs(found - z).max() < 1e-9 * np.abs(z).max()


@pytest.mark.parametrize(
    ("spec", "overrides", "says"),
    [
        ("digits_tim", ["backbone.block.condition={kind: adaln_single}"], "modulates all blocks by one map"),
        ("digits_tim", ["objective.to_data=0.6"], "only 0.5 have a span"),
        ("digits_tim", ["objective.process={kind: interpolant}"], "the straight path with noise at time 1"),
        ("digits_tim", ["conditioning.span=null"], "the network takes none"),
        ("digits_dit", ["backbone.block.mixer={kind: distance_attention, heads: 4}"], "needs the embedded span"),
        ("digits_dit", ["backbone.block.condition={kind: gated_adaln}"], "needs the embedded span"),
        ("digits_tim", ["objective.alignment={fields: [z]}"], "the network has 0 feature projections"),
    ],
)
def test_what_does_not_fit_is_refused(spec: str, overrides: list[str], says: str) -> None:
    with pytest.raises(DiagnosticError) as caught:
        lower(load_spec(spec, overrides=overrides))
    assert any(says in one.message for one in caught.value.diagnostics), caught.value
