"""Score implicit matching: both losses against the paper's formulas, and what is refused."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from random_weights import random_weights

from latentc.components.contract import Lowered
from latentc.diagnostics import DiagnosticError
from latentc.ir.core import parameters
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec

SMALL = ["networks.main.width=16", "networks.main.depth=1", "networks.main.block.mixer.heads=2"]
FLOW = ["objective={kind: score_implicit_matching, base: {kind: flow}}"]
FLOW += ["sampler={kind: euler, steps: 1, guidance: null}"]
EDM = ["objective={kind: score_implicit_matching, scale: 2.0, base: {kind: diffusion, process: {kind: edm}, "]
EDM[0] += "predicts: preconditioned}}"
EDM += ["sampler={kind: ddim, steps: 1, timesteps: [2.5], guidance: null}"]
COUNT = 4


@cache
def lowered(*overrides: str) -> tuple[Any, Lowered, dict[str, np.ndarray]]:
    spec = load_spec("digits_sim", overrides=[*SMALL, *overrides])
    low = lower(spec)
    params = {
        f"{name}.{path}": p
        for name, net in low.networks.items()
        for path, p in parameters(low.module, net.methods["forward"].function).items()
    }
    return spec, low, random_weights(params, np.random.default_rng(0), 0.2)


def batch(entry: Any) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    given = {
        "y": rng.integers(0, 10, COUNT),
        "z": rng.standard_normal((COUNT, 1, 8, 8)),
        "noise": rng.standard_normal((COUNT, 1, 8, 8)),
        "t": np.array([5, 300, 700, 950]),
        "u": np.array([0.1, 0.4, 0.6, 0.9]),
    }
    return {v.name: given[v.name] for v in entry.inputs}


def column(a: Any) -> np.ndarray:
    return np.asarray(a, float)[:, None, None, None]


@pytest.mark.parametrize("overrides", [[], FLOW, EDM], ids=["velocity", "flow", "edm"])
def test_the_losses_are_the_papers(overrides: list[str]) -> None:
    """Theorem 3.1, with scores written as denoised samples: s = (alpha D - x) / sigma^2."""
    spec, low, weights = lowered(*overrides)
    oracle, base = Interpreter(low.module, weights), spec.objective.base
    given = batch(low.module.entry("loss.generator"))
    y, none = given["y"], np.full(COUNT, 10)

    def network(name: str, x: np.ndarray, t: np.ndarray, label: np.ndarray) -> np.ndarray:
        return oracle.run(low.networks[name].methods["forward"].function, x, t, label, prefix=name)[0]

    def denoised(name: str, x: np.ndarray, t: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(the data, the network's output) at time t of the process."""
        if base.process.kind == "edm":
            s = column(t)
            out = network(name, x / np.sqrt(s**2 + 0.25), np.log(t) / 4, label)
            return 0.25 / (s**2 + 0.25) * x + s * 0.5 / np.sqrt(s**2 + 0.25) * out, out
        out = network(name, x, t, label)
        if base.kind == "flow":
            return x + (1 - column(t)) * out, out
        bar = column(base.process.alphas_cumprod[t.astype(int)])
        return np.sqrt(bar) * x - np.sqrt(1 - bar) * out, out

    if base.process.kind == "edm":
        start, t, prior = 2.5, np.exp(1.2 * given["u"] - 1.2), 2.5
        alpha, sigma = np.ones(COUNT), t
        u, w = t / (0.5 * np.sqrt(t**2 + 0.25)), -0.5 / np.sqrt(t**2 + 0.25)
    elif base.kind == "flow":
        start, t, prior = 0.0, given["u"], 1.0
        alpha, sigma, u, w = t, 1 - t, np.ones(COUNT), -np.ones(COUNT)
    else:
        start, t, prior = 800.0, given["t"].astype(float), 1.0
        bar = base.process.alphas_cumprod[given["t"]]
        alpha, sigma = np.sqrt(bar), np.sqrt(1 - bar)
        u, w = -sigma, alpha
    x0, _ = denoised("main", prior * given["z"], np.full(COUNT, start), y)
    x_t = column(alpha) * x0 + column(sigma) * given["noise"]
    online, out = denoised("online", x_t, t, y)
    found = oracle.run("loss.online", *batch(low.module.entry("loss.online")).values())
    target = column(u) * x0 + column(w) * given["noise"]
    assert found[0] == pytest.approx(np.mean((out - target) ** 2), rel=1e-6)

    scale, wanted = spec.objective.scale, []
    teacher = scale * denoised("teacher", x_t, t, y)[0] + (1 - scale) * denoised("teacher", x_t, t, none)[0]
    for mine, theirs, sample in zip(online, teacher, x0, strict=True):
        difference = (mine - theirs).ravel()
        huber = difference / np.sqrt(difference @ difference + spec.objective.c**2 * difference.size)
        wanted.append(-huber @ (mine - sample).ravel())
    found = oracle.run("loss.generator", *given.values())
    assert found[0] == pytest.approx(np.mean(wanted), rel=1e-6)
    assert found[1] == pytest.approx(np.abs(online - teacher).mean(), rel=1e-6)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["sampler={kind: ddim, steps: 2, guidance: null}"], "the generator takes a single step"),
        (["conditioning.class.dropout=0"], "guidance needs a teacher"),
        (["networks.online.copy_of=null"], "starts from random weights"),
        (["networks.teacher.pretrained=null"], "needs trained weights"),
    ],
)
def test_what_does_not_fit_is_refused(overrides: list[str], says: str) -> None:
    with pytest.raises(DiagnosticError, match=says):
        load_spec("digits_sim", overrides=overrides)
