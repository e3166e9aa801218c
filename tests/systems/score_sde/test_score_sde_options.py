"""Score SDEs at the authors' further options: filters, networks that are not told the time, discrete levels, edits."""

from __future__ import annotations

import math
from itertools import count
from typing import Any

import numpy as np
import pytest

from latentc.checkpoint import name_map, network_types, symbols
from latentc.components import load
from latentc.components.blocks.unet.layers import resampled
from latentc.components.processes.process import Parameterization
from latentc.components.samplers.table import run
from latentc.diagnostics import DiagnosticError
from latentc.ir.builder import ModuleBuilder, f32
from latentc.ir.core import parameters
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.weights import Array as Held
from latentc.weights.names import check_inverse, export_weights

Array = np.ndarray
TINY = ["data={kind: npz, path: x.npz, shape: [3, 4, 4], classes: 0}", "backbone.width=8", "backbone.blocks=1"]
TINY += ["backbone.multipliers=[1, 1]", "backbone.attention=[]", "conditioning.time.frequencies=8"]


# ---- networks


def filtered(x: Array, taps: tuple[float, ...], up: bool) -> Array:
    """upfirdn2d along both axes: zeros between pixels, padding, the filter, every second value."""
    kernel, extra = np.array(taps) / sum(taps) * (2 if up else 1), len(taps) - 2
    for axis in (2, 3):
        x = np.moveaxis(x, axis, -1)
        if up:
            x = np.stack([x, np.zeros_like(x)], -1).reshape(*x.shape[:-1], -1)
        before, after = ((extra + 1) // 2 + 1, extra // 2) if up else ((extra + 1) // 2, extra // 2)
        x = np.pad(x, [(0, 0)] * 3 + [(before, after)])
        x = np.apply_along_axis(lambda row: np.convolve(row, kernel, "valid"), -1, x)[..., :: 1 if up else 2]
        x = np.moveaxis(x, -1, axis)
    return x


@pytest.mark.parametrize("taps", [(1.0, 1.0), (1.0, 2.0, 1.0), (1.0, 3.0, 3.0, 1.0), (1.0, 4.0, 6.0, 4.0, 1.0)])
def test_filters_of_any_length_resample_as_upfirdn2d_does(taps: tuple[float, ...]) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 6, 6))
    for way in ("down", "up"):
        mb = ModuleBuilder()
        b = mb.function("f")
        b.output(resampled(b, b.input("x", f32(2, 3, 6, 6)), way, taps))  # type: ignore[arg-type]
        mb.entries["f"] = b.finish()
        (found,) = Interpreter(mb.finish(), {}).run("f", x)
        assert np.allclose(found, filtered(x, taps, way == "up"), atol=1e-6), way


@pytest.mark.parametrize(
    ("taps", "message"), [("[1, 2]", "not symmetric"), ("[1, -2, 1]", "sums to 0"), ("[1]", "2 to 16 weights")]
)
def test_filters_that_cannot_be_are_refused(taps: str, message: str) -> None:
    with pytest.raises(DiagnosticError, match=message):
        load_spec("score_sde", "vp-ddpmpp", [*TINY, f"backbone.block.resample={taps}"])


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "elu"])
def test_activations_are_those_named(activation: str) -> None:
    low = lower(load_spec("score_sde", "vp-ddpmpp", [*TINY, f"backbone.block.activation={activation}"]))
    ops = {node.op for fn in low.module.functions.values() for node in fn.nodes}
    assert activation in ops and "silu" not in ops


@pytest.mark.parametrize("variant", ["vp-ddpmpp", "ve-ncsnpp"])
def test_networks_that_are_not_told_the_time_have_official_names(variant: str) -> None:
    spec = load_spec("score_sde", variant, [*TINY, "backbone.time_embedding=false"])
    low = lower(spec)
    types, sizes = network_types(low, "main"), symbols(low, low.networks["main"])
    assert not any("embed" in name or "affine" in name for name in types)
    rules = name_map(spec, "main", "official")
    check_inverse(rules, types, sizes)
    own = {n: Held(np.zeros(shape, np.float32)) for n, (shape, _) in types.items()}
    numbers = {int(name.split(".")[1]) for name in export_weights(own, rules, sizes=sizes) if name != "sigmas"}
    first = int(variant == "ve-ncsnpp")  # the features of the time, which nothing reads
    assert numbers == set(range(first, max(numbers) + 1))


def test_a_network_without_embedding_takes_no_vectors() -> None:
    with pytest.raises(DiagnosticError, match="without an embedding, blocks cannot take condition `class`"):
        load_spec("digits_edm", None, ["backbone.time_embedding=false"])


# ---- discrete levels


def score(x: Array, t: float) -> Array:
    return np.asarray(-np.tanh(x + t / 10) - 0.1 * x)


@pytest.mark.parametrize("kind", ["discrete", "geometric"])
def test_correctors_and_predictors_with_a_network_of_discrete_levels(kind: str) -> None:
    """In the authors' code the score is of the level that the SDE's time falls into, and the steps are the SDE's."""
    levels, eps, snr = 8, 1e-3 if kind == "discrete" else 1e-5, 0.2
    ends = {"beta_start": 0.1 / 8, "beta_end": 4 / 8} if kind == "discrete" else {}
    process: Any = load("processes")[kind].model_validate({"kind": kind, "steps": levels, **ends})
    fields = {"steps": levels, "predictor": "euler_maruyama", "corrector": "annealed", "snr": snr}
    sampler = load("samplers")["predictor_corrector"].model_validate({"kind": "predictor_corrector", **fields})
    rng = np.random.default_rng(0)
    x, z = rng.standard_normal((2, 1, 4, 4)), rng.standard_normal((2 * levels, 2, 1, 4, 4))
    predicts: Any = "noise" if kind == "discrete" else "scaled_score"
    found = run(sampler.table(Parameterization(process, predicts)), score, x, z)  # type: ignore[attr-defined]
    betas, noise = np.linspace(0.1, 4, levels) / levels, iter(z)
    sigmas = np.geomspace(50, 0.01, levels)
    x = x * (50 if kind == "geometric" else 1)
    for i, t in enumerate(np.linspace(1, eps, levels)):
        if kind == "discrete":
            told, k = t * (levels - 1), math.floor(t * (levels - 1) + 1e-6)
            level, alpha = -math.sqrt(1 - np.prod(1 - betas[: k + 1])), 1 - betas[k]
            std = math.sqrt(1 - math.exp(-0.5 * t * t * 3.9 - t * 0.1))
            drift, g2 = -0.5 * (0.1 + 3.9 * t), 0.1 + 3.9 * t
        else:
            told = round((1 - t) * (levels - 1))
            level, alpha, std = sigmas[told], 1.0, 0.01 * 5000**t
            drift, g2 = 0.0, std**2 * 2 * math.log(5000)
        step = 2 * alpha * (snr * std) ** 2
        x = x + step * score(x, told) / level + math.sqrt(2 * step) * next(noise)
        n = next(noise) * (i < levels - 1)
        x = x - (drift * x - g2 * score(x, told) / level) / levels + math.sqrt(g2 / levels) * n
    assert np.abs(found - x).max() < 1e-5 * np.abs(x).max()


def test_the_loss_of_discrete_levels_may_be_half_the_sum() -> None:
    options = ["objective.process.steps=10", "sampler=null"]
    low = lower(load_spec("score_sde", "ve-ncsnpp-levels", [*TINY, *options]))
    main, rng = low.networks["main"].main.function, np.random.default_rng(0)
    weights = {f"main.{n}": 0.1 * rng.standard_normal(p.type.shape) for n, p in parameters(low.module, main).items()}
    x, z, t = rng.uniform(size=(2, 3, 4, 4)), rng.standard_normal((2, 3, 4, 4)), np.array([0, 7])
    oracle, sigma = Interpreter(low.module, weights), np.geomspace(50, 0.01, 10)[t].reshape(2, 1, 1, 1)
    (found,) = oracle.run("loss.terms", x, t, z)
    (out,) = oracle.run(main, x + sigma * z, t.astype(float), prefix="main")
    assert np.allclose(found, 0.5 * ((out + z) ** 2).sum((1, 2, 3)), rtol=1e-5)


def test_steps_of_a_limit_have_no_timesteps() -> None:
    with pytest.raises(DiagnosticError, match="steps follow the SDE that `discrete` discretises"):
        load_spec("score_sde", "vp-ddpmpp-levels", [*TINY, "sampler.steps=2", "sampler.timesteps=[1.0, 0.5]"])


# ---- edits


@pytest.mark.parametrize("corrector_steps", [0, 1, 2])
@pytest.mark.parametrize("edit", ["inpaint", "colourise"])
def test_edits_are_those_of_the_published_code(edit: str, corrector_steps: int) -> None:
    """What is known is replaced after all correctors of a time and after its predictor; the last noise stays."""
    steps, snr, c = 3, 0.1, corrector_steps
    corrector = f"corrector: annealed, corrector_steps: {c}" if c else "corrector: none"
    own = f"predictor: euler_maruyama, {corrector}, steps: {steps}, snr: {snr}, {edit}: true"
    low = lower(load_spec("score_sde", "subvp-ddpmpp", [*TINY, f"sampler={{kind: predictor_corrector, {own}}}"]))
    rng, main = np.random.default_rng(0), low.networks["main"].main.function
    weights = {f"main.{n}": 0.1 * rng.standard_normal(p.type.shape) for n, p in parameters(low.module, main).items()}
    oracle, program, shape = Interpreter(low.module, weights), low.program(edit, steps), (2, 3, 4, 4)
    given = {"x": rng.standard_normal(shape), "given": rng.uniform(-1, 1, shape)}
    given["keep"] = (rng.uniform(size=(2, 1, 4, 4)) > 0.5).astype(float)
    given["noise"] = rng.standard_normal((steps * (c + 1), *shape))
    given["known_noise"] = rng.standard_normal((steps * (c + 1) + (c == 0), *shape))
    (found,) = oracle.run(program.entry, *(given[name] for name in program.sources))

    def part(v: Array) -> Array:
        return v * given["keep"] if edit == "inpaint" else v.mean(1, keepdims=True)

    def replaced(x: Array, alpha: float = 1.0, sigma: float = 0.0, z: Array | float = 0.0) -> Array:
        return np.asarray(x + part(alpha * given["given"] + sigma * z - x))

    noise, row, first = iter(given["noise"]), count(), np.array([0.0, 1.0, 1.0]).reshape(1, 3, 1, 1)
    x = replaced(given["x"]) if edit == "inpaint" else given["x"] * first + part(given["given"])
    for i, t in enumerate(np.linspace(1, 1e-3, steps)):
        beta, decay = 0.1 + 19.9 * t, math.exp(-0.5 * t * t * 19.9 - t * 0.1)
        alpha, sigma = math.sqrt(decay), 1 - decay
        for _ in range(c):
            (out,) = oracle.run(main, x, np.full(2, 999 * t), prefix="main")
            step = 2 * (snr * sigma) ** 2
            x = x - step * out / sigma + math.sqrt(2 * step) * next(noise)
            z = given["known_noise"][next(row)]
        x = replaced(x, alpha, sigma, z if c else given["known_noise"][next(row)])
        (out,) = oracle.run(main, x, np.full(2, 999 * t), prefix="main")
        g2 = beta * (1 - decay**2)
        x = x + (0.5 * beta * x - g2 * out / sigma) / steps + math.sqrt(g2 / steps) * next(noise)
        if c:
            x = replaced(x, alpha, sigma * (i < steps - 1), given["known_noise"][next(row)])
    x = x if c else replaced(x, alpha)
    assert np.abs(found - x).max() < 1e-5 * np.abs(x).max()
