"""SoFlow beyond what was recorded: both losses in one batch against the paper's formulas, samples, refusals."""

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

SMALL = ("backbone.width=16", "backbone.depth=1", "backbone.block.mixer.heads=2", "train.steps=200")
SMALL += ("conditioning.time.frequencies=16", "conditioning.span.frequencies=16")
GUIDED = ("objective.guidance={scale: 2, decay: 0.6, mix: 0.4}", "objective.power=0.5")
WITHOUT_MIX = ("objective.guidance={scale: 2, decay: 1, mix: 1}",)
COUNT = 6


@cache
def lowered(*overrides: str) -> tuple[Any, Lowered]:
    spec = load_spec("digits_soflow", overrides=[*SMALL, *overrides])
    return spec, lower(spec)


def batch() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    given = {name: rng.standard_normal(COUNT) for name in ("u", "u_t", "u_s")}
    given["u_t"][3], given["u_s"][3] = -2.0, 4.0  # s is to be after t
    return given | {
        "x": rng.standard_normal((COUNT, 1, 8, 8)),
        "y": rng.integers(0, 10, COUNT),
        "share": np.array([0.1, 0.6, 0.9, 0.8, 0.24, 0.7]),
        "noise": rng.standard_normal((COUNT, 1, 8, 8)),
        "drop": np.array([0.5, 0.05, 0.5, 0.5, 0.05, 0.5]),
        "training_step": np.array(80),
    }


def expected(o: Any, network: Any, given: dict[str, np.ndarray]) -> tuple[float, float]:
    """(what is minimised, mean squared error), sample by sample."""
    losses, errors = [], []
    for i in range(COUNT):
        x0, e, y = (given[name][i : i + 1] for name in ("x", "noise", "y"))
        times = {"u": (-0.2, 1.0), "u_t": o.start, "u_s": o.end}
        of = {name: 1 / (1 + np.exp(-(given[name][i] * n[1] + n[0]))) for name, n in times.items()}
        matched, dropped = given["share"][i] < o.matched, given["drop"][i] < 0.1
        t = of["u"] if matched else max(of["u_t"], 1e-4)
        x, v = (1 - t) * x0 + t * e, e - x0

        def average(x: np.ndarray, t: float, s: float, y: np.ndarray) -> np.ndarray:
            return network(x, np.array([t]), y, np.array([t - s]))

        if (g := o.guidance) and not dropped:
            d = min((1 - t) / (1 - g.decay), 1 - 1e-6) if t > g.decay else None
            w = 1 if d is None else 1 - np.exp(-0.025 * d / (1 - d))
            guided = v + w * (g.scale - 1) * (v - average(x, t, t, np.array([10])))
            v = g.mix * guided + (1 - g.mix) * average(x, t, t, y)
        y = np.array([10]) if dropped else y
        if matched:
            error = average(x, t, t, y) - v
        else:
            s = min(of["u_s"], t - 1e-4)
            nearby = min(t + (s - t) * o.first_gap * (o.last_gap / o.first_gap) ** 0.4, t - 1e-4)
            x_l = x + v * (nearby - t)
            f_t, f_l = x + (s - t) * average(x, t, s, y), x_l + (s - nearby) * average(x_l, nearby, s, y)
            error = (f_t - f_l) / (t - nearby)
        errors.append(np.mean(error**2))
        weight = (errors[-1] + o.eps) ** -o.power
        losses.append(weight * (errors[-1] if matched else np.mean(-average(x, t, s, y) * error)))
    return float(np.mean(losses)), float(np.mean(errors))


@pytest.mark.parametrize("overrides", [(), GUIDED, WITHOUT_MIX], ids=["plain", "guided", "without_mix"])
def test_the_loss_is_the_papers(overrides: tuple[str, ...]) -> None:
    spec, low = lowered(*overrides)
    oracle = Interpreter(low.module, weights_of(low, 0.3))
    given = batch()

    def network(*operands: np.ndarray) -> np.ndarray:
        return oracle.run(low.networks["main"].methods["forward"].function, *operands, prefix="main")[0]

    found = oracle.run("loss", *(given[v.name] for v in low.module.entry("loss").inputs))
    assert found == pytest.approx(expected(spec.objective, network, given), rel=1e-6)


@pytest.mark.parametrize("steps", [1, 3])
def test_a_sample_goes_to_the_data_and_back_to_the_next_time(steps: int) -> None:
    _, low = lowered(f"sampler.steps={steps}")
    oracle = Interpreter(low.module, weights_of(low, 0.3))
    x, y = batch()["x"], batch()["y"]
    noise = np.random.default_rng(5).standard_normal((steps, *x.shape))
    z, times = x, np.linspace(1, 0, steps + 1)
    for i, t in enumerate(times[:-1]):
        operands = z, np.full(COUNT, t), y, np.full(COUNT, t)
        z = z - t * oracle.run(low.networks["main"].methods["forward"].function, *operands, prefix="main")[0]
        if (s := times[i + 1]) > 0:
            z = (1 - s) * z + s * noise[i]
    (found,) = oracle.run(f"sample.{steps}", x, y, *([noise] if steps > 1 else []))
    assert np.abs(found - z).max() < 1e-9 * np.abs(z).max()


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["conditioning.span=null"], "does not take the span"),
        (["objective.process={kind: interpolant}"], "the straight path with noise at time 1"),
        (["objective.guidance={scale: 2}", "conditioning.class.dropout=0"], "no condition is ever dropped"),
        (["conditioning.span=null", "objective={kind: flow}"], "needs a network that predicts average velocities"),
    ],
)
def test_what_does_not_fit_is_refused(overrides: list[str], says: str) -> None:
    with pytest.raises(DiagnosticError) as caught:
        load_spec("digits_soflow", overrides=overrides)
    assert any(says in one.message for one in caught.value.diagnostics), caught.value
