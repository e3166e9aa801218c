"""Self-supervised variational autoencoders beside their recordings: transformations, the flow, programs, refusals."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import tiny_bundle
from parity_data import load
from PIL import Image
from random_weights import weights_of
from scipy.stats import norm

import latentc_runtime
from latentc.components.contract import Lowered
from latentc.diagnostics import DiagnosticError
from latentc.ir.builder import ModuleBuilder, f32
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.systems.self_vae.real_nvp import squeezed, unsqueezed
from latentc.systems.self_vae.transforms import transformed

SMALL = (
    "backbone.latent_channels=2",
    "backbone.mixture=2",
    "backbone.embedding=3",
    "backbone.prior.growth=3",
    *(f"backbone.{name}.growth=4" for name in ("latent_prior", "joint_prior", "joint_likelihood")),
    *(f"backbone.{name}.growth=4" for name in ("last_posterior", "image_prior", "likelihood", "last_likelihood")),
    "sampler.likelihood_samples=3",
)


def made(kind: Any, x: np.ndarray, values: int) -> np.ndarray:
    """An image, transformed by the oracle."""
    mb = ModuleBuilder()
    b = mb.function("made")
    b.output(transformed(b, b.input("x", f32(B, *x.shape[1:])), kind, values, "made"))
    b.finish("")
    (found,) = Interpreter(mb.finish()).run("made", x)
    return np.asarray(found)


def test_half_the_resolution_is_that_of_pillow_and_of_the_recording() -> None:
    levels = np.random.default_rng(0).integers(0, 256, (1, 1, 12, 8))
    wanted = np.asarray(Image.fromarray(levels[0, 0].astype(np.uint8)).resize((4, 6), Image.Resampling.BILINEAR))
    found = made("downscale", levels / 127.5 - 1, 256)
    assert np.array_equal(np.round((found[0, 0] + 1) * 127.5), wanted)
    numbers = load("self_vae")
    found = made("downscale", 2 * numbers.inputs["x"].astype(float) - 1, 256)
    assert np.allclose(found, 2 * numbers.outputs["out.y"] - 1, atol=1e-6)


def test_edges_are_derivatives_in_levels() -> None:
    """Of a step from black to white between two columns, the two columns beside it."""
    x = np.full((1, 1, 6, 6), -1.0)
    x[..., 3:] = 1
    found = made("edges", x, 17)
    assert np.array_equal(found[0, 0], np.where(np.isin(np.arange(6), (2, 3)), 1.0, -1.0) * np.ones((6, 1)))


@pytest.mark.parametrize("alternate", [False, True])
def test_squares_of_pixels_come_back(alternate: bool) -> None:
    mb, x = ModuleBuilder(), np.arange(2 * 3 * 4 * 6, dtype=float).reshape(2, 3, 4, 6)
    b = mb.function("both")
    one = squeezed(b, b.input("x", f32(B, 3, 4, 6)), alternate)
    b.output(one, unsqueezed(b, one, alternate))
    b.finish("")
    there, back = Interpreter(mb.finish()).run("both", x)
    assert there.shape == (2, 12, 2, 3) and np.array_equal(back, x)
    assert set(there[0, :, 0, 0]) == {0, 1, 6, 7, 24, 25, 30, 31, 48, 49, 54, 55}


@cache
def lowered(variant: str) -> tuple[Any, Lowered, dict[str, np.ndarray]]:
    spec = load_spec("digits_self_vae", variant, list(SMALL))
    low = lower(spec)
    return spec, low, weights_of(low, 0.5)


@pytest.mark.parametrize(("side", "scales"), [(1, 1), (4, 2)])
def test_the_flow_counts_the_volume_that_it_changes(side: int, scales: int) -> None:
    """The log-density of a draw is that of its noise, less the log-determinant of the Jacobian by differences."""
    sizes = ("backbone.transforms=[]", f"backbone.latent_side={side}", f"backbone.prior.scales={scales}")
    low = lower(load_spec("digits_self_vae", None, [*SMALL, *sizes]))
    weights = {name.removeprefix("main."): a for name, a in weights_of(low, 0.5).items()}
    run, methods = Interpreter(low.module, weights), low.networks["main"].methods
    noise, step = np.random.default_rng(0).standard_normal((1, 2, side, side)), 1e-5
    count = noise.size
    moved = step * np.concatenate([np.eye(count), -np.eye(count)]).reshape(2 * count, *noise.shape[1:])
    above, below = np.asarray(run.run(methods["prior_draw"].function, noise + moved)[0]).reshape(2, count, count)
    volume = np.linalg.slogdet((above - below) / (2 * step))[1]
    (z,) = run.run(methods["prior_draw"].function, noise)
    (found,) = run.run(methods["prior_log_prob"].function, z)
    assert np.abs(z - noise).max() > 0.1
    assert np.allclose(found, norm.logpdf(noise).sum() - volume, atol=1e-6)


@pytest.mark.parametrize("variant", ["0", "3"])
def test_importance_weights_bound_the_likelihood(variant: str) -> None:
    """By one draw the estimate is the negative loss; by three their log-mean."""
    _, low, weights = lowered(variant)
    run, rng, count = Interpreter(low.module, weights), np.random.default_rng(0), int(variant) + 1
    x = rng.integers(0, 17, (2, 1, 8, 8)) / 8 - 1
    y, noise = np.array([3, 5]), rng.standard_normal((count, 3, 2, 2, 1, 1))
    program = next(p for p in low.programs if p.name == "log_likelihood")
    inputs = {"x": x, "y": y, **{f"noise_{k}": z for k, z in enumerate(noise)}}
    (found,) = run.run(program.entry, *(inputs[v.name] for v in low.module.entry(program.entry).inputs))
    losses = []
    for i in range(3):
        inputs = {"x": x, "y": y, "training_step": np.int64(10**6)}
        inputs |= {f"noise_{k}": z[i] for k, z in enumerate(noise)}
        losses.append(run.run("loss.terms", *(inputs[v.name] for v in low.module.entry("loss.terms").inputs))[0])
    assert np.allclose(found, np.log(np.mean(np.exp(-np.stack(losses)), axis=0)), rtol=1e-9)


def test_an_engine_draws_by_class_and_from_a_simpler_image(tmp_path: Path) -> None:
    pipe = latentc_runtime.load(tiny_bundle("digits_self_vae", tmp_path / "b", SMALL, std=0.3), "cpu")
    x = pipe.sample([1, 2], seeds=0)
    assert x.shape == (2, 1, 8, 8) and np.array_equal(x, pipe.sample([1, 2], seeds=0))
    assert np.abs(x - pipe.sample([3, 2], seeds=0))[0].max() > 0
    simpler = np.random.default_rng(0).integers(0, 17, (2, 1, 4, 4)).astype(np.float32) / 8 - 1
    asked = {"simpler": simpler, "class": np.array([1, 2])}
    fine = pipe.sample(program="from_simpler", conditions=asked, seeds=0)
    other = pipe.sample(program="from_simpler", conditions=asked | {"simpler": -simpler}, seeds=0)
    assert fine.shape == (2, 1, 8, 8) and np.abs(fine - other).max() > 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["backbone.transforms=[downscale, downscale, downscale, downscale]"], "`downscale` takes no image of side 1"),
        (["backbone.latent_side=3"], "image 0 has side 8, which halvings do not bring"),
        (
            ["backbone.last_likelihood.growth=1", "backbone.transforms=[edges]"],
            "a growth of 1 cannot be halved at each",
        ),
        (["backbone.prior.scales=2"], "latents of side 1 cannot be halved for a second scale"),
        (["backbone.latent_channels=3"], "couples two halves of the channels, but there are 3"),
    ],
)
def test_what_does_not_fit_is_refused(options: list[str], said: str) -> None:
    with pytest.raises(DiagnosticError, match=said):
        load_spec("digits_self_vae", overrides=options)
