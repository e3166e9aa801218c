"""FlowTurbo: the refiner's loss and the sampler against the paper's equations in numpy, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import tiny_bundle
from random_weights import random_weights

from latentc.diagnostics import DiagnosticError
from latentc.ir.core import parameters
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.verify.run import verify

RNG = np.random.default_rng(3)
COUNT, NULL = 3, np.full(3, 10)
TINY = tuple(f"networks.{n}.{size}" for n in ("main", "refiner") for size in ("width=16", "block.mixer.heads=2"))
TINY = (*TINY, "networks.main.depth=2")


class System:
    """A lowered spec with random weights and inputs, its networks as functions."""

    def __init__(self, *overrides: str) -> None:
        self.spec = load_spec("digits_flowturbo", None, [*TINY, *overrides])
        self.lowered = lower(self.spec)
        params = {
            f"{name}.{path}": p
            for name, net in self.lowered.networks.items()
            for path, p in parameters(self.lowered.module, net.methods["forward"].function).items()
        }
        self.oracle = Interpreter(self.lowered.module, random_weights(params, RNG, 0.3))

    def predict(self, network: str, x: np.ndarray, t: Any, y: np.ndarray, v: np.ndarray | None = None) -> np.ndarray:
        method = self.lowered.networks[network].methods["forward"]
        given = {"x": x, "t": np.broadcast_to(t, COUNT), "y": y, "velocity": v}
        arrays = [given[port.name] for port in method.inputs]
        return np.asarray(self.oracle.run(method.function, *arrays, prefix=network)[0])


def column(a: np.ndarray) -> np.ndarray:
    return a[:, None, None, None]


def test_the_refiner_learns_what_the_velocity_changes_by() -> None:
    """Equation 7 of the paper, with the condition dropped for the later velocity and the refiner alike."""
    system = System()
    x, noise = RNG.standard_normal((2, COUNT, 1, 8, 8))
    t, step, y = np.array([0.1, 0.5, 0.8]), np.array([0.01, 0.05, 0.12]), np.array([1, 4, 9])
    given = {"x": x, "y": y, "u": t, "noise": noise, "step": step, "drop": np.array([0.5, 0.05, 0.5])}
    x_t = column(t) * x + column(1 - t) * noise
    v = system.predict("main", x_t, t, y)
    later, dropped = x_t + column(step) * v, np.where(given["drop"] < 0.1, 10, y)
    refined = v + system.predict("refiner", later, t + step, dropped, v)
    wanted = np.mean((refined - system.predict("main", later, t + step, dropped)) ** 2)
    names = [value.name for value in system.lowered.module.entry("loss").inputs]
    (found,) = system.oracle.run("loss", *(given[name] for name in names))
    assert wanted > 1e-3 and found == pytest.approx(wanted, rel=1e-9)
    assert system.lowered.updates[0].networks == ("refiner",)


@pytest.mark.parametrize(
    ("counts", "guidance"),
    [((1, 2, 2), "null"), ((2, 1, 1), "{scale: 2}"), ((0, 3, 1), "{scale: 2}"), ((1, 1, 2), "{schedule: linear}")],
    ids=["plain", "guided", "pseudo first", "scheduled"],
)
def test_the_sampler(counts: tuple[int, int, int], guidance: str) -> None:
    heun, pseudo, refined = counts
    sizes = (f"sampler.heun={heun}", f"sampler.pseudo={pseudo}", f"sampler.refined={refined}")
    system = System(*sizes, f"sampler.guidance={guidance}")
    x, y, scale = RNG.standard_normal((COUNT, 1, 8, 8)), np.array([1, 4, 9]), np.array([1.5, 2.0, 3.0])
    program = system.lowered.programs[0]
    given = {"x": x, "y": y, "scale": scale}
    names = [value.name for value in system.lowered.module.entry(program.entry).inputs]
    (ours,) = system.oracle.run(program.entry, *(given[name] for name in names))
    calls = {"main": 0, "refiner": 0}

    def guided(network: str, x: np.ndarray, t: float, v: np.ndarray | None = None) -> np.ndarray:
        calls[network] += 1
        out = system.predict(network, x, t, y, v)
        if guidance == "null":
            return out
        none = system.predict(network, x, t, NULL, v)
        strength = 1 + (scale - 1) * t if "linear" in guidance else scale
        return none + column(strength) * (out - none)

    total = sum(counts)
    times, h, v = np.linspace(0, 1, total + 1), 1 / total, None
    for i in range(total):
        t, after = times[i : i + 2]
        if i < heun + pseudo:
            first = guided("main", x, t) if i < heun or v is None else v
            second = guided("main", x + h * first, after)
            v = second
        else:
            assert v is not None
            first = v + guided("refiner", x, t, v)
            second = first + guided("refiner", x + h * first, after, v)
            v = first
        x = x + h / 2 * (first + second)
    assert np.max(np.abs(ours - x)) <= 1e-9 * np.max(np.abs(x))
    assert program.steps == total and program.evaluations == sum(calls.values())


@pytest.mark.parametrize("form", ["loop", "host"])
def test_engines_and_emitted_sampler_agree(form: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    report = verify(tiny_bundle("digits_flowturbo", tmp_path / "bundle", (*TINY, f"target.form={form}")))
    assert report.ok, report.text()
    assert {"forward", "forward refiner", "sampler"} <= {c.what for c in report.comparisons}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("sampler={heun: 0, pseudo: 0}", "no velocity to start from"),
        ("networks.main.pretrained=null", "has no weights"),
        ("networks.main.conditions=null", "needs a network `main` that predicts noise, data or a velocity"),
        ("networks.refiner.conditions=[class]", "needs a network `refiner` that corrects a prediction"),
        ("conditioning.other={kind: carried}", "refines one array"),
        ("objective={kind: flow, predicts: noise}", "integrates a flow's velocity"),
    ],
)
def test_what_is_refused(override: str, words: str) -> None:
    with pytest.raises(DiagnosticError) as refused:
        load_spec("digits_flowturbo", None, [*TINY, override.replace("sampler={", "sampler={kind: flow_turbo, ")])
    assert any(words in d.message for d in refused.value.diagnostics), refused.value
