"""pMF beyond what was recorded: scales of noise, uniform times, the perceptual distance, a request, refusals."""

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

SMALL = ("width=16", "depth=2", "velocity_head=1", "block.mixer.heads=2", "bottleneck=4")
SMALL = tuple(f"backbone.{size}" for size in SMALL)
SMALL += tuple(f"conditioning.{name}.frequencies=16" for name in ("span", "omega", "t_min", "t_max"))
IMAGES = ("data={kind: npz, path: train.npz, classes: 10, shape: [3, 16, 16]}", "backbone.patch=8")
PERCEPTUAL = ("networks.perceptual={kind: lpips, width: 1}", "objective.perceptual={weight: 0.4, until: 0.6}")
COUNT, NULL = 6, 10


@cache
def lowered(*overrides: str) -> tuple[Lowered, dict[str, np.ndarray]]:
    low = lower(load_spec("digits_pmf", overrides=[*SMALL, *overrides]))
    weights = {}
    for name, network in low.networks.items():
        method = "train_forward" if name == "main" else "forward"
        params = parameters(low.module, network.methods[method].function)
        drawn = random_weights(params, np.random.default_rng(0), 0.3)
        weights |= {f"{name}.{key}": value for key, value in drawn.items()}
    return low, weights


def batch(shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {
        "x": rng.uniform(-1, 1, (COUNT, *shape)),
        "y": rng.integers(0, 10, COUNT),
        "omega": np.array([1.5, 2.0, 4.0, 1.0, 3.0, 2.5]),
        "t_min": np.array([0.1, 0.4, 0.0, 0.3, 0.2, 0.45]),
        "t_max": np.array([0.9, 0.6, 1.0, 0.55, 0.8, 0.5]),
        "u": np.array([-4.0, 0.3, 1.2, -0.7, 0.1, -0.3]),  # the first time is below the least divisor
        "u_r": np.array([0.5, -0.2, 1.9, 0.4, -0.8, 0.6]),
        "instant": np.array([0.2, 0.9, 0.8, 0.95, 0.3, 0.99]),
        "even": np.array([0.5, 0.05, 0.5, 0.5, 0.5, 0.5]),
        "u_even": np.full(COUNT, 0.35),
        "u_r_even": np.full(COUNT, 0.8),
        "noise": rng.standard_normal((COUNT, *shape)),
        "drop": np.array([0.5, 0.5, 0.05, 0.5, 0.5, 0.5]),
    }


def column(a: np.ndarray) -> np.ndarray:
    return a[:, None, None, None]


def test_the_loss_is_the_papers() -> None:
    """With noise twice as large, some uniform times, and the distance of LPIPS at the less noisy ones."""
    images = (*IMAGES, *PERCEPTUAL, "objective.process.noise_scale=2", "objective.uniform=0.1")
    low, weights = lowered(*images)
    oracle = Interpreter(low.module, weights)
    method, given = low.networks["main"].methods["train_forward"], batch((3, 16, 16))

    def heads(z: np.ndarray, t: np.ndarray, **told: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        operands = {"x": z, "t": t, **told}
        average, velocity = oracle.run(method.function, *(operands[p.name] for p in method.inputs), prefix="main")
        return average, velocity

    evenly = given["even"] < 0.1
    first, second = (
        np.where(evenly, given[even], 1 / (1 + np.exp(-(given[name] - 0.4))))
        for name, even in (("u", "u_even"), ("u_r", "u_r_even"))
    )
    matched, zero, one = given["instant"] < 0.5, np.zeros(COUNT), np.ones(COUNT)
    second = np.where(matched, first, second)
    t, r = np.maximum(first, second), np.minimum(first, second)
    assert t[0] < 0.05 and t[1] == 0.8 and r[1] == 0.35
    z = column(1 - t) * given["x"] + column(t) * 2 * given["noise"]
    v = (z - given["x"]) / column(np.clip(t, 0.05, 1))
    told = {name: given[name] for name in ("y", "omega", "t_min", "t_max")}
    told |= {"t_min": np.where(matched, 0, told["t_min"]), "t_max": np.where(matched, 1, told["t_max"])}
    w = np.where((told["t_min"] <= t) & (t <= told["t_max"]), told["omega"], 1.0)
    always = {"t_min": zero, "t_max": one, "span": zero}
    v_c = heads(z, t, y=given["y"], omega=w, **always)[1]
    v_u = heads(z, t, y=np.full(COUNT, NULL), omega=one, **always)[1]
    dropped = given["drop"] < 0.1
    target = np.where(column(dropped), v, v + column(1 - 1 / w) * (v_c - v_u))
    told["y"] = np.where(dropped, NULL, given["y"])

    def at(step: float) -> tuple[np.ndarray, np.ndarray]:
        return heads(z + step * v_c, t + step, **told, span=t + step - r)

    h = 1e-5
    du_dt = (at(h)[0] - at(-h)[0]) / (2 * h)
    average, velocity = at(0.0)
    squares = [(average + column(t - r) * du_dt - target) ** 2, (velocity - target) ** 2]
    wanted = sum(np.mean(s / (s + 0.01)) for s in (square.sum(axis=(1, 2, 3)) for square in squares))
    compare = low.networks["perceptual"].methods["forward"].function
    (distance,) = oracle.run(compare, z - column(t) * average, given["x"], prefix="perceptual")
    distance = np.where(t < 0.6, distance, 0)
    assert 0 < (distance > 0).sum() < COUNT
    wanted += 0.4 * np.mean(distance / (distance + 0.01))
    found = oracle.run("loss", *(given[v.name] for v in low.module.entry("loss").inputs))
    assert found[0] == pytest.approx(wanted, rel=1e-6)
    assert found[1:] == pytest.approx([squares[0].mean(), squares[1].mean(), distance.mean()], rel=1e-6)


def test_weights_start_as_the_authors() -> None:
    """Normal, with deviations of 0.32 / sqrt(inputs) in blocks, 0.02 of positions; patches uniformly as a matrix."""
    sizes = ("width=64", "depth=2", "velocity_head=1", "block.mixer.heads=2")
    data = ("data.classes=50", "data.class_names=null", "data.shape=[3, 64, 64]", "networks.perceptual=null")
    overrides = [*(f"backbone.{size}" for size in sizes), *data, "objective.perceptual=null"]
    low = lower(load_spec("pmf", None, overrides))
    rng, seen = np.random.default_rng(0), dict[str, float]()
    for name, param in parameters(low.module, low.networks["main"].methods["train_forward"].function).items():
        shape = tuple(int(d) for d in param.type.shape)
        seen[name] = float(INITS[param.init.kind](rng, shape, **param.init.args).std())
    assert seen["blocks.0.attn.qkv.weight"] == pytest.approx(0.32 / 8, rel=0.05)
    assert seen["pos_embed"] == pytest.approx(0.02, rel=0.1)
    assert seen["class_tokens"] == pytest.approx(1 / 8, rel=0.2)
    limit = np.sqrt(6 / (3 * 16**2 + 128))
    assert seen["x_embedder.proj1.weight"] == pytest.approx(limit / np.sqrt(3), rel=0.02)
    assert seen["x_embedder.proj2.weight"] == pytest.approx(np.sqrt(6 / (128 + 64)) / np.sqrt(3), rel=0.02)
    assert seen["output.weight"] == seen["blocks.0.attn_scale"] == 0


def test_a_request_gets_the_image_of_the_first_head(tmp_path: Path) -> None:
    """From noise of the process's scale; the second head is not in the bundle."""
    overrides = [*SMALL, "objective.process.noise_scale=2"]
    low, weights = lowered("objective.process.noise_scale=2")
    own = {name.removeprefix("main."): Array(w.astype(np.float32)) for name, w in weights.items()}
    file, bundle = tmp_path / "main.safetensors", tmp_path / "bundle"
    write_safetensors(file, own)
    api.compile("digits_pmf", file, bundle, overrides=overrides, run=False)
    pipe, given = latentc_runtime.load(bundle, device="cpu"), batch((1, 8, 8))
    noise = given["noise"].astype(np.float32)
    settings = {"guidance": 3.0, "guidance_start": 0.25, "guidance_end": 0.75}
    out = pipe.sample(conditions={"class": given["y"]}, noise={"x": noise}, settings=settings)
    told = {"omega": 3.0, "t_min": 0.25, "t_max": 0.75, "span": 1.0, "t": 1.0}
    operands = {"x": 2 * given["noise"], "y": given["y"], **{name: np.full(COUNT, v) for name, v in told.items()}}
    method = low.networks["main"].methods["forward"]
    oracle = Interpreter(low.module, weights)
    u = oracle.run(method.function, *(operands[p.name] for p in method.inputs), prefix="main")[0]
    wanted = 2 * given["noise"] - u
    assert np.abs(np.asarray(out) - wanted).max() < 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["objective.process={kind: interpolant, noise_time: 1}"], "interpolant"),
        (["objective.end=[0, 1]"], "both times are drawn from the distribution of `process`"),
        (["objective.perceptual={}"], "perceptual"),
        (["backbone.positions={kind: rope_1d}"], "rope_1d"),
        (["backbone.patch=3"], "patches of 3 do not tile a side of 8"),
        (["conditioning.omega.distribution=power", "conditioning.omega.power=0.5"], "power"),
    ],
)
def test_what_does_not_fit_is_refused(overrides: list[str], says: str) -> None:
    with pytest.raises(DiagnosticError) as caught:
        load_spec("digits_pmf", overrides=overrides)
    assert any(says in f"{one.message} {one}" for one in caught.value.diagnostics), caught.value
