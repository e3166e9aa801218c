"""Flows from coupled base densities: losses and samplers against the paper's formulas."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_weights import random_weights

import latentc_runtime
from latentc import api
from latentc.components.contract import Lowered
from latentc.diagnostics import DiagnosticError
from latentc.ir.core import parameters
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.weights import Array, write_safetensors

SMALL = ("backbone.width=16", "backbone.depth=1", "backbone.block.mixer.heads=2", "conditioning.time.frequencies=16")
EULER = ("sampler={kind: euler, steps: 3, guidance: null}",)
HOLE = ("conditioning.low=null", "conditioning.known={kind: masked_image, tiles: 4, hidden: 0.4}")
HOLE += ("objective.coupling={kind: hole}",)
COUNT = 3


@cache
def lowered(*overrides: str) -> tuple[Any, Lowered, dict[str, np.ndarray]]:
    spec = load_spec("digits_sr", overrides=[*SMALL, *EULER, *overrides])
    low = lower(spec)
    params = parameters(low.module, low.networks["main"].methods["forward"].function)
    return spec, low, random_weights(params, np.random.default_rng(0), 0.3)


def forward(low: Lowered, weights: dict[str, np.ndarray]) -> tuple[Interpreter, Any]:
    oracle = Interpreter(low.module, {f"main.{name}": w for name, w in weights.items()})
    method = low.networks["main"].methods["forward"]

    def network(**operands: np.ndarray) -> np.ndarray:
        return oracle.run(method.function, *(operands[port.name] for port in method.inputs), prefix="main")[0]

    return oracle, network


def drawn() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        "x": rng.uniform(-1, 1, (COUNT, 1, 8, 8)),
        "y": np.array([3, 1, 4]),
        "u": np.array([0.2, 0.5, 0.9]),
        "noise": rng.standard_normal((COUNT, 1, 8, 8)),
        "drop": np.array([0.5, 0.05, 0.5]),
        "known_mask": rng.uniform(0, 1, (COUNT, 1, 4, 4)),
    }


def upsampled(x: np.ndarray, factor: int) -> np.ndarray:
    return x.repeat(factor, axis=2).repeat(factor, axis=3)


def started(x: np.ndarray, noise: np.ndarray, hole: np.ndarray | None) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(where the path starts, what the network is told)."""
    if hole is None:
        low = x.reshape(COUNT, 1, 2, 4, 2, 4).mean(axis=(3, 5))
        return upsampled(low, 4) + 0.5 * noise, {"low": low}
    return (1 - hole) * x + hole * noise, {"known": (1 - hole) * x, "known_mask": 1 - hole}


@pytest.mark.parametrize("overrides", [(), HOLE], ids=["upsampled", "hole"])
def test_the_loss_is_of_the_path_from_the_coupled_start(overrides: tuple[str, ...]) -> None:
    _, low, weights = lowered(*overrides)
    oracle, network = forward(low, weights)
    given = drawn()
    hole = upsampled((given["known_mask"] < 0.4).astype(float), 2) if overrides else None
    x, t = given["x"], given["u"][:, None, None, None]
    start, told = started(x, given["noise"], hole)
    told["y"] = np.where(given["drop"] < 0.1, 10, given["y"])
    out = network(x=t * x + (1 - t) * start, t=given["u"], **told)
    error = (out if hole is None else hole * out) - (x - start)
    found = oracle.run("loss", *(given[v.name] for v in low.module.entry("loss").inputs))
    assert found[0] == pytest.approx(np.mean(error**2), rel=1e-9)


@pytest.mark.parametrize("overrides", [(), HOLE], ids=["upsampled", "hole"])
def test_the_sampler_moves_from_the_coupled_start(overrides: tuple[str, ...], tmp_path: Path) -> None:
    _, low, weights = lowered(*overrides)
    oracle, network = forward(low, weights)
    given = drawn()
    hole = np.zeros((COUNT, 1, 8, 8)) if overrides else None
    if hole is not None:
        hole[:, :, 2:6, 3:] = 1
    z, told = started(given["x"], given["noise"], hole)
    for i in range(3):
        out = network(x=z, t=np.full(COUNT, i / 3), y=given["y"], **told)
        z = z + (out if hole is None else hole * out) / 3
    request = {**told, "x": given["noise"], "y": given["y"]}
    if hole is not None:
        request["known"] = given["x"]  # what is in the hole does not matter
        assert np.array_equal(z[hole == 0], given["x"][hole == 0])
    names = [v.name for v in low.module.entry("sample.3").inputs]
    (found,) = oracle.run("sample.3", *(request[name] for name in names))
    assert np.abs(found - z).max() < 1e-9 * np.abs(z).max()

    file, bundle = tmp_path / "main.safetensors", tmp_path / "bundle"
    write_safetensors(file, {name: Array(w.astype(np.float32)) for name, w in weights.items()})
    api.compile("digits_sr", file, bundle, overrides=[*SMALL, *EULER, *overrides], run=False)
    pipe = latentc_runtime.load(bundle, device="cpu")
    conditions = {"class": given["y"]} | {name: request[name].astype(np.float32) for name in told}
    out = pipe.sample(conditions=conditions, noise={"x": given["noise"].astype(np.float32)})
    assert np.abs(np.asarray(out) - z).max() < 1e-4 * np.abs(z).max()


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["objective.predicts=x0"], "has no `x0`"),
        (["sampler={kind: euler_maruyama, steps: 4, guidance: null}"], "assumes that the path starts from pure noise"),
        (
            ["sampler={kind: euler, over: level, steps: 4, guidance: null}"],
            "assumes that the path starts from pure noise",
        ),
        (["sampler={kind: ddim, steps: 4, spacing: {kind: trailing}}"], "chooses timesteps of a discrete schedule"),
        (["conditioning.low=null"], "no condition `low` for the base density"),
        (["backbone.conditions=[]"], "the base density takes condition `low`, but network `main` does not"),
        (["objective.coupling={kind: hole, condition: low}"], "is not a masked image"),
        (["objective.coupling={kind: upsampled, condition: class}"], "is not a low-resolution image"),
        (["conditioning.low.factor=3"], "`factor: 3` does not divide the sides"),
        ([*HOLE, "conditioning.known.tiles=3"], "`tiles: 3` does not divide"),
    ],
)
def test_what_does_not_fit_is_refused(overrides: list[str], says: str) -> None:
    with pytest.raises(DiagnosticError, match=says):
        load_spec("digits_sr", overrides=overrides)
