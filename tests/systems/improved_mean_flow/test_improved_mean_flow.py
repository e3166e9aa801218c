"""Improved MeanFlow: the loss against the paper's formulas, the network's two heads, the settings of a request."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from random_weights import random_weights

import latentc_runtime
from latentc import api
from latentc.components.contract import Lowered
from latentc.diagnostics import DiagnosticError
from latentc.ir.core import parameters
from latentc.ir.inits import INITS
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.weights import Array, write_safetensors

SMALL = ("backbone.width=16", "backbone.depth=2", "backbone.velocity_head=1", "backbone.block.mixer.heads=2")
SMALL += ("conditioning.span.frequencies=16",)
SMALL += tuple(f"conditioning.{name}.frequencies=16" for name in ("omega", "t_min", "t_max"))
UNGUIDED = ("objective.guidance=null", "objective.power=0.5")
COUNT = 6
NULL = 10


@cache
def lowered(*overrides: str) -> tuple[Lowered, dict[str, np.ndarray]]:
    spec = load_spec("digits_improved_mean_flow", overrides=[*SMALL, *overrides])
    low = lower(spec)
    params = parameters(low.module, low.networks["main"].methods["train_forward"].function)
    return low, random_weights(params, np.random.default_rng(0), 0.3)


def batch() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {
        "x": rng.standard_normal((COUNT, 1, 8, 8)),
        "y": rng.integers(0, 10, COUNT),
        "omega": np.array([1.5, 2.0, 4.0, 1.0, 3.0, 2.5]),
        "t_min": np.array([0.1, 0.4, 0.0, 0.3, 0.2, 0.45]),
        "t_max": np.array([0.9, 0.6, 1.0, 0.55, 0.8, 0.5]),
        "u": rng.standard_normal(COUNT),
        "u_r": rng.standard_normal(COUNT),
        "instant": np.array([0.9, 0.2, 0.8, 0.95, 0.3, 0.99]),
        "noise": rng.standard_normal((COUNT, 1, 8, 8)),
        "drop": np.array([0.5, 0.5, 0.05, 0.5, 0.5, 0.5]),
    }


def test_weights_start_as_the_authors() -> None:
    """Normal, with deviations of 0.32 / sqrt(inputs) in blocks, 1 / sqrt(inputs) in what embeds the conditions."""
    sizes = ("backbone.width=64", "backbone.depth=2", "backbone.velocity_head=1", "backbone.block.mixer.heads=2")
    low = lower(load_spec("improved_mean_flow", "B/2", [*sizes, "data.classes=50", "data.class_names=null"]))
    rng, seen = np.random.default_rng(0), set()
    for name, param in parameters(low.module, low.networks["main"].methods["train_forward"].function).items():
        shape = tuple(int(d) for d in param.type.shape)
        start = INITS[param.init.kind](rng, shape, **param.init.args)
        of = name.split(".")[0]
        if of in ("output", "velocity") or name.endswith("bias") or "scale" in name or "gate" in name:
            continue  # zeros, and gates
        if len(shape) == 2 and of != "x_embedder" and param.kind == "weight":
            wanted = (0.32 if of in ("blocks", "head", "velocity_head") else 1.0) / np.sqrt(shape[1])
            error = 5 / np.sqrt(2 * start.size)
            assert start.std() == pytest.approx(wanted, rel=error), name
            seen.add(of)
    tokens = {f"{name}_tokens" for name in ("class", "omega", "t_min", "t_max", "span")}
    embedders = {f"{name}_embedder" for name in ("y", "omega", "t_min", "t_max", "span")}
    assert seen == {"blocks", "head", "velocity_head", *tokens, *embedders}


def column(a: np.ndarray) -> np.ndarray:
    return a[:, None, None, None]


@pytest.mark.parametrize("overrides", [(), UNGUIDED], ids=["guided", "unguided"])
def test_the_loss_is_the_papers(overrides: tuple[str, ...]) -> None:
    low, weights = lowered(*overrides)
    oracle = Interpreter(low.module, {f"main.{name}": w for name, w in weights.items()})
    method, given = low.networks["main"].methods["train_forward"], batch()

    def heads(z: np.ndarray, t: np.ndarray, **told: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        operands = {"x": z, "t": t, **told}
        average, velocity = oracle.run(method.function, *(operands[p.name] for p in method.inputs), prefix="main")
        return average, velocity

    first, second = (1 / (1 + np.exp(-(given[name] - 0.4))) for name in ("u", "u_r"))
    matched, zero, one = given["instant"] < 0.5, np.zeros(COUNT), np.ones(COUNT)
    t = np.maximum(first, second)
    r = np.where(matched, t, np.minimum(first, second))
    z, v = column(1 - t) * given["x"] + column(t) * given["noise"], given["noise"] - given["x"]
    told = {name: given[name] for name in ("y", "omega", "t_min", "t_max")}
    power = 0.5
    if not overrides:
        told |= {"t_min": np.where(matched, 0, told["t_min"]), "t_max": np.where(matched, 1, told["t_max"])}
        w = np.where((told["t_min"] <= t) & (t <= told["t_max"]), told["omega"], 1.0)
        always = {"t_min": zero, "t_max": one, "span": zero}
        v_c = heads(z, t, y=given["y"], omega=w, **always)[1]
        v_u = heads(z, t, y=np.full(COUNT, NULL), omega=one, **always)[1]
        guided, power = v + column(1 - 1 / w) * (v_c - v_u), 1.0
    else:
        v_c, guided = heads(z, t, **told, span=zero)[1], v
    dropped = given["drop"] < 0.1
    target, told["y"] = np.where(column(dropped), v, guided), np.where(dropped, NULL, given["y"])

    def at(step: float) -> tuple[np.ndarray, np.ndarray]:
        return heads(z + step * v_c, t + step, **told, span=t + step - r)

    h = 1e-5
    du_dt = (at(h)[0] - at(-h)[0]) / (2 * h)
    average, velocity = at(0.0)
    squares = [(average + column(t - r) * du_dt - target) ** 2, (velocity - target) ** 2]
    sums = [s.sum(axis=(1, 2, 3)) for s in squares]
    wanted = sum(np.mean(s / (s + 0.01) ** power) for s in sums)
    found = oracle.run("loss", *(given[v.name] for v in low.module.entry("loss").inputs))
    assert found[0] == pytest.approx(wanted, rel=1e-6)
    assert found[1] == pytest.approx(squares[0].mean(), rel=1e-6)
    assert found[2] == pytest.approx(squares[1].mean(), rel=1e-9)


def test_a_request_sets_scale_and_interval(tmp_path: Path) -> None:
    """One evaluation of the first head; the second is not in the bundle."""
    low, weights = lowered()
    oracle, given = Interpreter(low.module, {f"main.{name}": w for name, w in weights.items()}), batch()
    file, bundle = tmp_path / "main.safetensors", tmp_path / "bundle"
    write_safetensors(file, {name: Array(w.astype(np.float32)) for name, w in weights.items()})
    api.compile("digits_improved_mean_flow", file, bundle, overrides=list(SMALL), run=False)
    pipe = latentc_runtime.load(bundle, device="cpu")
    settings = {"guidance": 3.0, "guidance_start": 0.25, "guidance_end": 0.75}
    noise = given["noise"].astype(np.float32)
    out = pipe.sample(conditions={"class": given["y"]}, noise={"x": noise}, settings=settings)
    told = {"omega": 3.0, "t_min": 0.25, "t_max": 0.75, "span": 1.0, "t": 1.0}
    operands = {"x": given["noise"], "y": given["y"], **{name: np.full(COUNT, v) for name, v in told.items()}}
    method = low.networks["main"].methods["forward"]
    u = oracle.run(method.function, *(operands[p.name] for p in method.inputs), prefix="main")[0]
    wanted = given["noise"] - u
    assert np.abs(np.asarray(out) - wanted).max() < 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["backbone.velocity_head=null"], "features"),
        (["conditioning.t_min=null", "backbone.tokens={}"], "no condition `t_min`"),
        (["conditioning.class.dropout=0"], "guidance needs a network trained with dropped conditions"),
        (["conditioning.omega.range=[0, 4]"], "give .low, high. with 0 < low < high"),
        (["backbone.velocity_head=4"], "leaves none of the 4 blocks to share"),
        (["backbone.tokens.nobody=2"], "`nobody` is neither a condition nor `time`"),
    ],
)
def test_what_does_not_fit_is_refused(overrides: list[str], says: str) -> None:
    with pytest.raises(DiagnosticError, match=says):
        load_spec("digits_improved_mean_flow", overrides=overrides)
