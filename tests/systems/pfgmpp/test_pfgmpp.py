"""PFGM++: its kernel for any D, its limits, and r = sigma sqrt(D)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forked import python

from latentc.api import emit
from latentc.checkpoint import network_params
from latentc.components import load
from latentc.diagnostics import DiagnosticError
from latentc.ir.builder import ModuleBuilder, f32
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B
from latentc.lower import lower
from latentc.spec import load_spec
from latentc_runtime.distributions import draw

Array = np.ndarray
TINY = [
    *("data={kind: digits}", "conditioning.augment=null", "backbone.early=[class]", "conditioning.time.frequencies=16"),
    *("backbone.width=16", "backbone.multipliers=[1, 2]", "backbone.blocks=1", "backbone.attention=[1]"),
    *("backbone.block.groups=4", "sampler.steps=4"),
]

BASE = "{kind: diffusion, process: {kind: pfgmpp}, predicts: preconditioned}"


def noise(extra: float, shape: tuple[int, ...], count: int) -> Array:
    """Noise of the process by the registry's draws, over sigma."""
    process: Any = load("processes")["pfgmpp"].model_validate({"kind": "pfgmpp", "extra_dimensions": extra})
    kernel = process.kernel(shape)
    module = ModuleBuilder()
    b = module.function("noise")
    b.output(kernel.apply(b, b.input("z", f32(B, *shape)), b.input("share", f32(B))))
    b.finish()
    seeds = np.arange(count)
    z = draw("normal", seeds, "z", shape)
    share = draw(kernel.draw.distribution, seeds, "share", (), **kernel.draw.parameters).astype(np.float32)
    (made,) = Interpreter(module.finish()).run("noise", z, share)
    return made


@pytest.mark.parametrize("extra", [1.0, 8.0, 64.0, 1024.0])
def test_the_kernel_is_that_of_the_field(extra: float) -> None:
    """Its radial density R^(N-1) / (R^2 + D)^((N + D) / 2), integrated numerically, against the draws."""
    size, count = 12, 4000
    made = noise(extra, (3, 2, 2), count)
    radius = np.sort(np.sqrt((made.reshape(count, -1) ** 2).sum(1)))
    grid = np.exp(np.linspace(math.log(1e-2), math.log(1e6), 200_000))
    log_density = size * np.log(grid) - (size + extra) / 2 * np.log(grid**2 + extra)  # by log R
    density = np.exp(log_density - log_density.max())
    exact = np.cumsum(density) / density.sum()
    found = np.interp(radius, grid, exact)
    assert np.abs(found - (np.arange(count) + 0.5) / count).max() < 1.63 / math.sqrt(count)  # Kolmogorov, 1 %
    direction = made.reshape(count, -1) / np.linalg.norm(made.reshape(count, -1), axis=1)[:, None]
    assert np.abs(direction.mean(0)).max() < 4 / math.sqrt(size * count)


def test_a_large_d_is_edm() -> None:
    """The noise of many dimensions is normal, and a sampler that starts at one point ends where EDM's does."""
    made = noise(1e9, (1, 8, 8), 2000)
    assert abs(made.std() - 1) < 0.01 and abs((made**4).mean() - 3) < 0.05
    low, edm = lower(load_spec("pfgmpp", "cifar10-D128", TINY)), lower(load_spec("edm", "cifar10", TINY))
    limit = lower(load_spec("pfgmpp", "cifar10-D128", [*TINY, "objective.process.extra_dimensions=1e10"]))
    rng = np.random.default_rng(0)
    weights = {
        f"main.{n}": 0.1 * rng.standard_normal([int(d) for d in p.type.shape]) for n, p in parameters_of(edm).items()
    }
    x, y = rng.standard_normal((2, 1, 8, 8)), np.eye(10)[[3, 7]]
    (wanted,) = run(edm, weights, {"x": x, "y": y})
    squared = (x**2).sum((1, 2, 3))
    (found,) = run(limit, weights, {"x": x, "y": y, "share": squared / (squared + 1e10)})
    assert np.abs(found - wanted).max() < 1e-6 * np.abs(wanted).max()
    # For any D the flow is EDM's too: only where it starts is drawn differently.
    (same,) = run(low, weights, {"x": x, "y": y, "share": squared / (squared + 128)})
    assert np.abs(same - wanted).max() < 1e-6 * np.abs(wanted).max()


def parameters_of(low: Any) -> Any:
    from latentc.ir.core import parameters

    return parameters(low.module, low.networks["main"].main.function)


def run(low: Any, weights: dict[str, Array], given: dict[str, Array]) -> Any:
    program = low.programs[0]
    return Interpreter(low.module, weights).run(program.entry, *(given[name] for name in program.sources))


@pytest.mark.parametrize(
    ("overrides", "what"),
    [
        (["programs=[{kind: classify, trials: 2}]"], "program `classify`"),
        (["sampler={kind: probability_flow, likelihood: {}}"], "program `likelihood`"),
        (["sampler={kind: predictor_corrector, inpaint: true}"], "program `inpaint`"),
        (["sampler={kind: staged, condition: class, sampler: {kind: heun}}"], "sampler `staged`"),
        (["objective={kind: token_diffusion, process: {kind: pfgmpp}}"], "objective `token_diffusion`"),
        ([f"objective={{kind: score_implicit_matching, base: {BASE}}}"], "objective `score_implicit_matching`"),
        ([f"objective={{kind: progressive_distillation, base: {BASE}}}"], "objective `progressive_distillation`"),
    ],
)
def test_what_would_draw_normal_noise_is_refused(overrides: list[str], what: str) -> None:
    with pytest.raises(DiagnosticError) as refused:
        load_spec("pfgmpp", "cifar10-D128", [*TINY, *overrides])
    assert any(f"the {what} draws white Gaussian noise" in d.message for d in refused.value.diagnostics), refused.value


def test_the_loss_draws_the_kernel() -> None:
    """With the draw that leaves a normal as it is, the loss is EDM's."""
    low, edm = lower(load_spec("pfgmpp", "cifar10-D2048", TINY)), lower(load_spec("edm", "cifar10", TINY))
    rng = np.random.default_rng(1)
    weights = {
        f"main.{n}": 0.1 * rng.standard_normal([int(d) for d in p.type.shape]) for n, p in parameters_of(edm).items()
    }
    given = {"x": rng.uniform(-1, 1, (3, 1, 8, 8)), "y": np.array([1, 2, 3]), "u": rng.standard_normal(3)}
    given["noise"] = rng.standard_normal((3, 1, 8, 8))
    squared = (given["noise"] ** 2).sum((1, 2, 3))
    given["share"] = squared / (squared + 2048)
    (update,) = low.updates
    assert [draw.name for draw in update.draws] == ["u", "noise", "share"]
    values = []
    for made in (low, edm):
        names = [value.name for value in made.module.entry("loss").inputs]
        values.append(Interpreter(made.module, weights).run("loss", *(given[n] for n in names))[0])
    assert values[0] == pytest.approx(values[1], rel=1e-9)


@pytest.mark.parametrize(
    ("kind", "reference", "pool", "dropout"),
    [
        *(("pfgmpp", 1, "class", 0), ("edm", 1, "class", 0), ("pfgmpp", 2, "class", 0), ("pfgmpp", 2, "batch", 0)),
        *(("pfgmpp", 1, "class", 0.5), ("edm", 2, "class", 0.5)),
    ],
)
def test_stable_targets_are_posterior_means_of_the_batch(kind: str, reference: int, pool: str, dropout: float) -> None:
    """The network's error against E[x0 | x_t], the mean of the pool's samples under the densities of the noise.

    With a `reference` it is trained on the first of the batch. The pool of samples whose class is dropped is the batch.
    """
    process = "{kind: pfgmpp, extra_dimensions: 128}" if kind == "pfgmpp" else "{kind: edm}"
    of_pool = f"reference: {reference}, pool: {pool}"
    objective = f"objective={{kind: stable_target, process: {process}, predicts: preconditioned, {of_pool}}}"
    lowered = lower(load_spec("pfgmpp", None, [*TINY, objective, f"conditioning.class.dropout={dropout}"]))
    params, rng, count = network_params(lowered, lowered.networks["main"]), np.random.default_rng(0), 6
    held = {name: rng.normal(size=param.type.shape) * 0.2 for name, param in params.items()}
    oracle = Interpreter(lowered.module, {f"main.{name}": array for name, array in held.items()})
    x, y, count = rng.normal(size=(count, 1, 8, 8)) * 0.1, np.arange(count) % 2, count // reference
    z = rng.normal(size=(count, 1, 8, 8))
    given = {"x": x, "noise": z, "y": y, "u": np.linspace(-1, 2, count), "share": np.full(count, 0.4)}
    given["drop"] = np.resize([0.9, 0.2, 0.6], count)
    found = oracle.run("loss.terms", *(given[v.name] for v in lowered.module.entry("loss.terms").inputs))[0]
    sigma, n = np.exp(1.2 * given["u"] - 1.2), 64
    if kind == "pfgmpp":  # N < D: the share is of R^2
        radius = np.sqrt(128 * 0.4 / 0.6)
        z = z / np.linalg.norm(z.reshape(count, -1), axis=1)[:, None, None, None] * radius
    x_t = x[:count] + sigma[:, None, None, None] * z
    for i in range(count):
        distance = ((x_t[i] - x) ** 2).sum(axis=(1, 2, 3))
        r2 = 128 * sigma[i] ** 2
        log = -(n + 128) / 2 * np.log(distance + r2) if kind == "pfgmpp" else -distance / (2 * sigma[i] ** 2)
        likely = np.exp(log - log.max()) * ((y == y[i]) | (pool == "batch") | (given["drop"][i] < dropout))
        mean = (likely[:, None] * x.reshape(len(x), -1)).sum(0).reshape(1, 8, 8) / likely.sum()
        deviation = np.sqrt(sigma[i] ** 2 + 0.25)
        told = np.array([np.log(sigma[i]) / 4])
        network = Interpreter(lowered.module, held)
        (out,) = network.run(
            "main.forward", x_t[i : i + 1] / deviation, told, np.eye(10)[y[i : i + 1]] * (given["drop"][i] >= dropout)
        )
        denoised = 0.25 / deviation**2 * x_t[i] + sigma[i] * 0.5 / deviation * out[0]
        weight = (sigma[i] ** 2 + 0.25) / (sigma[i] * 0.5) ** 2
        assert abs(found[i] / (weight * np.mean((denoised - mean) ** 2)) - 1) < 1e-5
    assert np.abs(mean - x[count - 1]).max() > 0.05  # not the sample itself


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["train.batch_size=9"], "a multiple of 4 samples, but the batch has 9"),
        (
            ["train.batch_size=12", "train.accumulate=6"],
            "a multiple of 4 samples in each of 6 parts .*, but the batch has 12",
        ),
        (["objective.sample_weight={field: y}"], "fields of every sample"),
    ],
)
def test_what_a_reference_does_not_fit_is_refused(overrides: list[str], says: str) -> None:
    with pytest.raises(DiagnosticError, match=says):
        load_spec("pfgmpp", None, [*TINY, "objective.kind=stable_target", "objective.reference=4", *overrides])


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ([], "averaged over samples of one class, but there is also condition `augment`"),
        (["conditioning.class=null", "backbone.early=[augment]"], "needs a class, but the network takes none"),
    ],
)
def test_what_a_pool_of_one_class_does_not_fit_is_refused(overrides: list[str], says: str) -> None:
    with pytest.raises(DiagnosticError, match=says):
        load_spec("pfgmpp", None, ["objective.kind=stable_target", "objective.pool=class", *overrides])


def test_the_project_refuses_a_batch_that_the_reference_does_not_divide(tmp_path: Path) -> None:
    """Settings of a project change after the spec was checked."""
    overrides = [*TINY, "objective.kind=stable_target", "objective.reference=4"]
    emit("pfgmpp", tmp_path / "project", overrides=[*overrides, "train.batch_size=8"])
    found = python(tmp_path / "project", "train.py", "--out", "run", "--batch_size", "10")
    assert "batch_size: 10 is not divisible by processes x accumulate x reference = 4" in found.stderr


def test_noise_of_steps_has_its_name_beside_that_of_the_kernel() -> None:
    lowered = lower(load_spec("digits_edm2", None, ["objective.process.kind=pfgmpp", "sampler={kind: ddpm, steps: 3}"]))
    (program,) = lowered.programs
    assert {value.name for value in lowered.module.entry(program.entry).inputs} == set(program.sources)
