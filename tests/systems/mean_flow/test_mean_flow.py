"""MeanFlow: the loss against the paper's formulas, the sampler against its algorithm, PyTorch against the oracle."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_weights import weights_of

from latentc import api
from latentc.components.contract import Lowered
from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.weights import Array, write_safetensors

SMALL = ("backbone.width=16", "backbone.depth=1", "backbone.block.mixer.heads=2")
SMALL += ("conditioning.time.frequencies=16", "conditioning.span.frequencies=16")
PROCESS = "objective.process={kind: interpolant, times: logit_normal, logit_mean: -0.4, "
FROM_ZERO = (PROCESS + "noise_time: 0}",)
CURVED = (PROCESS + "noise_time: 1, path: gvp}",)
PARTLY = ("objective.guidance={omega: 0.6, kappa: 0.7, interval: [0.3, 0.6]}", "objective.power=0.5")
PLAIN = ("objective.guidance=null", "objective.power=0")
COUNT = 6


@cache
def lowered(*overrides: str) -> tuple[Any, Lowered]:
    spec = load_spec("digits_mean_flow", overrides=[*SMALL, *overrides])
    return spec, lower(spec)


def batch() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {
        "x": rng.standard_normal((COUNT, 1, 8, 8)),
        "y": rng.integers(0, 10, COUNT),
        "u": rng.standard_normal(COUNT),
        "u_r": rng.standard_normal(COUNT),
        "instant": np.array([0.9, 0.2, 0.8, 0.95, 0.5, 0.99]),
        "noise": rng.standard_normal((COUNT, 1, 8, 8)),
        "drop": np.array([0.5, 0.5, 0.05, 0.5, 0.5, 0.5]),
    }


def column(a: np.ndarray) -> np.ndarray:
    return a[:, None, None, None]


def expected(spec: Any, network: Any, given: dict[str, np.ndarray]) -> tuple[float, float]:
    """(loss, mean squared error) by the paper's formulas; the derivative along the path by central differences."""
    o = spec.objective
    first, second = (1 / (1 + np.exp(-(given[name] - 0.4))) for name in ("u", "u_r"))
    late, early = (np.maximum, np.minimum) if o.process.noise_time else (np.minimum, np.maximum)
    t = late(first, second)
    r = np.where(given["instant"] < 1 - o.averaged, t, early(first, second))
    s = 1 - t if o.process.noise_time else t  # progress to the data
    way = -1 if o.process.noise_time else 1
    if o.process.path == "linear":
        alpha, sigma, d_alpha, d_sigma = s, 1 - s, np.full(COUNT, way), np.full(COUNT, -way)
    else:
        alpha, sigma = np.sin(np.pi / 2 * s), np.cos(np.pi / 2 * s)
        d_alpha, d_sigma = way * np.pi / 2 * sigma, -way * np.pi / 2 * alpha
    x, e, y = given["x"], given["noise"], given["y"]
    z, v = column(alpha) * x + column(sigma) * e, column(d_alpha) * x + column(d_sigma) * e
    dropped, none = given["drop"] < 0.1, np.full(COUNT, 10)
    if (g := o.guidance) is not None:
        of = [network(z, t, label, np.zeros(COUNT)) for label in (none, y)]
        guided = g.omega * v + (1 - g.omega - g.kappa) * of[0] + g.kappa * of[1]
        inside = (g.interval[0] <= t) & (t <= g.interval[1]) & ~dropped
        v = np.where(column(inside), guided, v)
    told, h = np.where(dropped, 10, y), 1e-5

    def at(step: float) -> np.ndarray:
        return network(z + step * v, t + step, told, np.abs(t + step - r) if step else np.abs(t - r))

    # |t - r| has a corner where r is t, and there its derivative is multiplied by 0.
    u, du_dt = at(0.0), (at(h) - at(-h)) / (2 * h)
    squared = ((u - (v - column(t - r) * du_dt)) ** 2).sum(axis=(1, 2, 3))
    return float((squared / (squared + o.eps) ** o.power).mean()), float(squared.mean() / 64)


@pytest.mark.parametrize(
    "overrides", [(), FROM_ZERO, (*CURVED, *PARTLY), PLAIN], ids=["guided", "from_zero", "curved_partly", "plain"]
)
def test_the_loss_is_the_papers(overrides: tuple[str, ...]) -> None:
    spec, low = lowered(*overrides)
    oracle = Interpreter(low.module, weights_of(low, 0.3))
    given = batch()

    def network(*operands: np.ndarray) -> np.ndarray:
        return oracle.run(low.networks["main"].methods["forward"].function, *operands, prefix="main")[0]

    found = oracle.run("loss", *(given[v.name] for v in low.module.entry("loss").inputs))
    wanted = expected(spec, network, given)
    assert found[0] == pytest.approx(wanted[0], rel=1e-6) and found[1] == pytest.approx(wanted[1], rel=1e-6)


def test_pytorch_differentiates_the_network_forwards(tmp_path: Path) -> None:
    _, low = lowered()
    file = tmp_path / "main.safetensors"
    write_safetensors(file, {name[5:]: Array(w.astype(np.float32)) for name, w in weights_of(low, 0.3).items()})
    given = {name: a.astype(np.float32) if a.dtype.kind == "f" else a for name, a in batch().items()}
    ours, torch = (
        api.loss("digits_mean_flow", [f"main={file}"], given, backend, overrides=list(SMALL))
        for backend in ("oracle", "torch")
    )
    assert torch["mse"] == pytest.approx(float(ours["mse"]), rel=1e-5)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("overrides", [(), FROM_ZERO], ids=["from_one", "from_zero"])
def test_a_step_goes_by_the_average_velocity(steps: int, overrides: tuple[str, ...]) -> None:
    _, low = lowered(*overrides, f"sampler.steps={steps}")
    oracle = Interpreter(low.module, weights_of(low, 0.3))
    z = x = batch()["x"]
    y = batch()["y"]
    times = np.linspace(0, 1, steps + 1) if overrides else np.linspace(1, 0, steps + 1)
    for t, r in pairwise(times):
        operands = z, np.full(COUNT, t), y, np.full(COUNT, abs(t - r))
        u = oracle.run(low.networks["main"].methods["forward"].function, *operands, prefix="main")[0]
        z = z - (t - r) * u
    (found,) = oracle.run(f"sample.{steps}", x, y)
    assert np.abs(found - z).max() < 1e-9 * np.abs(z).max()


def test_other_samplers_ask_for_the_velocity_at_one_time() -> None:
    _, low = lowered("sampler={kind: euler, steps: 2, guidance: null}")
    oracle = Interpreter(low.module, weights_of(low, 0.3))
    x, y = batch()["x"], batch()["y"]
    z = x
    for t in (1.0, 0.5):
        operands = z, np.full(COUNT, t), y, np.zeros(COUNT)
        z = z - 0.5 * oracle.run(low.networks["main"].methods["forward"].function, *operands, prefix="main")[0]
    (found,) = oracle.run("sample.2", x, y)
    assert np.abs(found - z).max() < 1e-9 * np.abs(z).max()


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["conditioning.span=null"], "does not take the span"),
        (["objective={kind: flow}"], "does not train a network to predict average velocities"),
        (["conditioning.class.dropout=0"], "guidance needs a network trained with dropped conditions"),
        (["objective.guidance={interval: [0.5, 0.5]}"], "the interval is empty"),
        (["conditioning.span=null", "objective={kind: flow}"], "needs a network that predicts average velocities"),
    ],
)
def test_what_does_not_fit_is_refused(overrides: list[str], says: str) -> None:
    with pytest.raises(DiagnosticError, match=says):
        load_spec("digits_mean_flow", overrides=overrides)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["conditioning.span=null", "objective={kind: flow}"], "takes no span whose features could join"),
        (["backbone.early=[span]"], "the features of `span` are already concatenated with those of the time"),
        (["objective.process.times=uniform", "objective.end=[-4, 1.6]"], "`times` of the process is uniform"),
    ],
)
def test_what_the_unet_of_two_times_refuses(overrides: list[str], words: str) -> None:
    with pytest.raises(DiagnosticError) as refused:
        load_spec("mean_flow_cifar10", None, overrides)
    assert any(words in diagnostic.message for diagnostic in refused.value.diagnostics)
