"""Flows of splines, and NeuralCSA's bounds, against the formulas of their papers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from emitted import emitted
from random_weights import random_weights
from tiny_systems import SYSTEMS

from latentc.checkpoint import network_params
from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec

Array = np.ndarray
BINS, BOUND = 4, 3.0
RNG = np.random.default_rng(0)


def knots(numbers: Array) -> tuple[Array, Array, Array, Array]:
    """Ends of bins along both axes, slopes there, and shares, of one spline's numbers [4 K - 1]."""
    logits, heights, slopes, shares = np.split(numbers, [BINS, 2 * BINS, 3 * BINS - 1])

    def ends(x: Array) -> Array:
        sizes = 1e-3 + (1 - 1e-3 * BINS) * np.exp(x) / np.exp(x).sum()
        return np.concatenate([[-BOUND], -BOUND + 2 * BOUND * np.cumsum(sizes)])

    slopes = np.concatenate([[0.999], np.log1p(np.exp(slopes)) + 1e-3, [0.999]])
    return ends(logits), ends(heights), slopes, 0.025 + 0.95 / (1 + np.exp(-shares))


def spline(x: float, numbers: Array) -> float:
    """Dolatabadi et al. 2020, equations 8 to 10: of the two pieces of a bin, the one that x falls into."""
    if abs(x) > BOUND:
        return x
    xs, ys, slopes, shares = knots(numbers)
    k = min(int(np.searchsorted(xs, x, side="right")) - 1, BINS - 1)
    share, wa = shares[k], 1.0
    wb = np.sqrt(slopes[k] / slopes[k + 1])
    slope = (ys[k + 1] - ys[k]) / (xs[k + 1] - xs[k])
    wc = (share * wa * slopes[k] + (1 - share) * wb * slopes[k + 1]) / slope
    yc = ((1 - share) * wa * ys[k] + share * wb * ys[k + 1]) / ((1 - share) * wa + share * wb)
    theta = (x - xs[k]) / (xs[k + 1] - xs[k])
    if theta <= share:
        return (wa * ys[k] * (share - theta) + wc * yc * theta) / (wa * (share - theta) + wc * theta)
    numerator = wc * yc * (1 - theta) + wb * ys[k + 1] * (theta - share)
    return float(numerator / (wc * (1 - theta) + wb * (theta - share)))


def mlp(weights: dict[str, Array], prefix: str, x: Array) -> Array:
    last = sum(name.startswith(f"{prefix}layers.") for name in weights) // 2 - 1
    for i in range(last + 1):
        x = weights[f"{prefix}layers.{i}.weight"] @ x + weights[f"{prefix}layers.{i}.bias"]
        x = np.maximum(x, 0) if i < last else x
    return x


def mapped(weights: dict[str, Array], z: Array, told: Array) -> Array:
    """A sample of a latent [D]."""
    seen = [np.concatenate([told, z[:i]]) for i in range(len(z))]
    return np.array([spline(z[i], mlp(weights, f"dims.{i}.", s)) for i, s in enumerate(seen)])


def log_det(weights: dict[str, Array], z: Array, told: Array) -> float:
    """By differences; the Jacobian is triangular."""
    step, found = 1e-6, 0.0
    for i in range(len(z)):
        up, down = (mapped(weights, z + s * np.eye(len(z))[i], told)[i] for s in (step, -step))
        found += np.log((up - down) / (2 * step))
    return found


def lowered(*options: str) -> tuple[Any, dict[str, dict[str, Array]], dict[str, Array]]:
    """What NeuralCSA is lowered to at a tiny size, random weights by network, and by whole path."""
    system = SYSTEMS["neural_csa"]
    low = lower(load_spec(system.spec, None, [*system.sizes, *options]))
    rng = np.random.default_rng(1)
    own = {name: random_weights(network_params(low, net), rng, 0.7) for name, net in low.networks.items()}
    return low, own, {f"{name}.{key}": a for name, held in own.items() for key, a in held.items()}


def test_a_flow_of_splines_and_its_inverse() -> None:
    low, own, _ = lowered("data.fields.x.shape=[2]")
    z, told = 1.5 * RNG.standard_normal((6, 2)), RNG.standard_normal((6, 2))
    z[0], z[1, 0] = [4.0, -0.5], 3.5  # beyond the splines
    run = Interpreter(low.module, own["main"]).run
    x, slopes = run("main.shift", z, told[:, :1], told[:, 1:])
    np.testing.assert_allclose(x, [mapped(own["main"], *row) for row in zip(z, told, strict=True)], rtol=1e-9)
    wanted = [log_det(own["main"], *row) for row in zip(z, told, strict=True)]
    np.testing.assert_allclose(slopes, wanted, rtol=0, atol=1e-6)
    back, of_inverse = run("main.forward", x, told[:, :1], told[:, 1:])
    np.testing.assert_allclose(back, z, rtol=0, atol=1e-9)
    np.testing.assert_allclose(of_inverse, -np.array(wanted) / 2, rtol=0, atol=1e-6)


F = {
    "kl": lambda r: r * np.log(r),
    "total_variation": lambda r: abs(r - 1) / 2,
    "hellinger": lambda r: (np.sqrt(r) - 1) ** 2,
    "chi_squared": lambda r: (r - 1) ** 2,
}


@pytest.mark.parametrize("model", ["marginal", "rosenbaum", *F])
def test_the_lagrangian(model: str) -> None:
    low, own, held = lowered(f"objective.model={model}", "objective.gamma=1.5", "objective.penalty=2")
    told, u = RNG.standard_normal((2, 2)), RNG.standard_normal((2, 4, 1))
    names = [value.name for value in low.module.entry("loss.bounds").inputs]
    given = {"covariates": told[:, :1], "treatment": told[:, 1:], "latents": u}
    loss, *logged = Interpreter(low.module, held).run("loss.bounds", *(given[name] for name in names))
    total, means = 0.0, []
    for k, (side, sign) in enumerate((("lower", 1), ("upper", -1))):
        for i in range(2):
            v = np.array([mapped(own[side], z, told[i]) for z in u[i]])
            log_q = [-(z @ z) / 2 - log_det(own[side], z, told[i]) for z in u[i]]
            r = np.exp(np.array(log_q) + (v * v).sum(-1) / 2)
            if model == "marginal":
                slack = np.log(1.5) - abs(np.log(r)).max()
            elif model == "rosenbaum":
                slack = np.log(1.5) - np.log(r.max() / r.min())
            else:
                f = F[model]
                slack = 1.5 - max((f(r) / r).mean(), (f(1 / r) / r).mean())
            mean = np.mean([mapped(own["main"], z, told[i]) for z in v])
            held_at = np.log1p(np.exp(mlp(own["multipliers"], "", told[i])[k]))
            grown = max(held_at - 2 * slack, 0)
            total += (sign * mean + (grown**2 - held_at**2) / 4 + (held_at - grown) ** 2 / 2) / 2
            means.append(mean)
    np.testing.assert_allclose(loss, total, rtol=0, atol=1e-5)
    np.testing.assert_allclose([logged[0], logged[2]], [np.mean(means[:2]), np.mean(means[2:])], rtol=1e-6)


def test_multipliers_of_samples_and_a_penalty_that_grows(tmp_path: Path) -> None:
    """As in the authors' code: -l s + mu s^2 / 2 trains the shifts, max(0, l - mu s) replaces multipliers l."""
    system, rows, step, mu = SYSTEMS["neural_csa_per_sample"], np.array([3, 0]), 7, 0.5 * 1.5**2
    spec = load_spec(
        system.spec, system.variant, [*system.sizes, "objective.growth_every=3", "objective.multipliers_span=1"]
    )
    low, rng = lower(spec), np.random.default_rng(1)
    own = {name: random_weights(network_params(low, net), rng, 0.7) for name, net in low.networks.items()}
    table = own["multipliers"]["weight"] = rng.uniform(0, 1, (5, 2))
    held = {f"{name}.{key}": a for name, weights in own.items() for key, a in weights.items()}
    told, u = RNG.standard_normal((2, 2)), RNG.standard_normal((2, 4, 1))
    given = {"covariates": told[:, :1], "treatment": told[:, 1:], "row": rows, "latents": u, "training_step": step}
    loss, *_ = Interpreter(low.module, held).run(
        "loss.bounds", *(np.array(given[value.name]) for value in low.module.entry("loss.bounds").inputs)
    )
    wanted, off, grown = 0.0, 0.0, table.copy()
    for k, (side, sign) in enumerate((("lower", 1), ("upper", -1))):
        for i in range(2):
            v = np.array([mapped(own[side], z, told[i]) for z in u[i]])
            log_q = np.array([-(z @ z) / 2 - log_det(own[side], z, told[i]) for z in u[i]])
            slack = np.log(2) - abs(log_q + (v * v).sum(-1) / 2).max()
            mean = np.mean([mapped(own["main"], z, told[i]) for z in v])
            wanted += (sign * mean - table[rows[i], k] * slack + mu * slack**2 / 2) / 2
            grown[rows[i], k] = max(table[rows[i], k] - mu * slack, 0)
            off += (grown[rows[i], k] - table[rows[i], k]) ** 2 / 4
    np.testing.assert_allclose(loss, wanted, rtol=0, atol=1e-5)
    assert [(u.name, u.networks, u.every) for u in low.updates[1:]] == [
        ("bounds", ("lower", "upper"), 1),
        ("multipliers", ("multipliers",), 10),
    ]
    assert [c.name for c in low.conditions] == ["covariates", "treatment"]  # a request has no number of a sample
    with emitted(low, spec, tmp_path / "project") as project:
        nets = {name: project.model.NETWORKS[name]().double() for name in own}
        for name, net in nets.items():
            net.load_state_dict({key: torch.from_numpy(np.array(a)) for key, a in own[name].items()}, strict=False)
        update = project.objective.UPDATES[2]
        tensors = {name: torch.as_tensor(np.array(value)) for name, value in given.items()}
        found = update.loss(*(nets[name] for name in update.networks), **tensors)
        found.backward()
        settings = spec.train.optimizers["multipliers"]
        assert (settings.lr, settings.momentum) == (spec.train.batch_size, 0)
        after = nets["multipliers"].weight - 2 * nets["multipliers"].weight.grad  # a batch of 2
    np.testing.assert_allclose(found.item(), off, rtol=0, atol=1e-5)
    np.testing.assert_allclose(after.detach(), grown, rtol=0, atol=1e-5)


WITHIN = "within={lower: [-0.5], upper: [0.8]}"


def test_the_probability_of_a_set() -> None:
    """Shifts move the log-density of outcomes within (the authors' surrogate); bounds are means of the indicator."""
    low, own, held = lowered("objective.gamma=1.5", f"objective.{WITHIN}", f"sampler.{WITHIN}")
    told, u = RNG.standard_normal((2, 2)), RNG.standard_normal((2, 4, 1))
    told[0, 1], told[1, 1] = 1.0, 0.0

    def inside(y: Array) -> float:
        return float((y >= -0.5).all() and (y <= 0.8).all())

    def share(i: int) -> float:
        score = 1 / (1 + np.exp(-mlp(own["propensity"], "", told[i, :1])[0]))
        return float(score if told[i, 1] else 1 - score)

    given = {"covariates": told[:, :1], "treatment": told[:, 1:], "latents": u}
    names = [value.name for value in low.module.entry("sample.1").inputs]
    (found,) = Interpreter(low.module, held).run("sample.1", *(given[name] for name in names))
    names = [value.name for value in low.module.entry("loss.bounds").inputs]
    loss, *_ = Interpreter(low.module, held).run("loss.bounds", *(given[name] for name in names))
    total = 0.0
    for i in range(2):
        observed = np.array([inside(mapped(own["main"], z, told[i])) for z in u[i]])
        for k, (side, sign) in enumerate((("lower", 1), ("upper", -1))):
            moved = [mapped(own[side], z, told[i]) for z in u[i]]
            p = share(i)
            wanted = np.mean([inside(mapped(own["main"], z, told[i])) for z in moved])
            np.testing.assert_allclose(found[i, k, 0], p * observed.mean() + (1 - p) * wanted, rtol=1e-6)
            run = Interpreter(low.module, own[side]).run
            z, slope = run(f"{side}.forward", u[i], *(np.repeat(told[i : i + 1, j : j + 1], 4, 0) for j in (0, 1)))
            q = np.exp((u[i] ** 2 - z**2).sum(-1) / 2 + slope)  # over the standard normal density
            weight = observed / max(observed.sum(), 1) * (observed.sum() < 4)
            aim = (weight * np.log(p + (1 - p) * q)).sum()
            log_r = np.array(
                [(v @ v - z @ z) / 2 - log_det(own[side], z, told[i]) for v, z in zip(moved, u[i], strict=True)]
            )
            slack = np.log(1.5) - abs(log_r).max()
            held_at = np.log1p(np.exp(mlp(own["multipliers"], "", told[i])[k]))
            grown = max(held_at - 5 * slack, 0)
            total += (sign * aim + (grown**2 - held_at**2) / 10 + (held_at - grown) ** 2 / 2) / 2
    np.testing.assert_allclose(loss, total, rtol=0, atol=1e-5)


def test_bounds_of_treatments_and_effects() -> None:
    low, own, held = lowered()
    x, a, u = RNG.standard_normal((2, 1)), np.array([[1.0], [0.0]]), RNG.standard_normal((2, 4, 1))
    run = Interpreter(low.module, held).run

    def bounds(i: int, treatment: float) -> list[float]:
        told = np.array([x[i, 0], treatment])
        score = 1 / (1 + np.exp(-mlp(own["propensity"], "", x[i])[0]))
        p = score if treatment else 1 - score
        observed = np.mean([mapped(own["main"], z, told) for z in u[i]])
        moved = [[mapped(own["main"], mapped(own[s], z, told), told) for z in u[i]] for s in ("lower", "upper")]
        return [p * observed + (1 - p) * np.mean(m) for m in moved]

    for program, given in ((low.programs[0], {"treatment": a}), (low.programs[1], {})):
        inputs = {"covariates": x, "latents": u, **given}
        names = [value.name for value in low.module.entry(program.entry).inputs]
        (found,) = run(program.entry, *(inputs[name] for name in names))
        for i in range(2):
            if given:
                wanted = bounds(i, a[i, 0])
            else:
                (low_1, high_1), (low_0, high_0) = bounds(i, 1.0), bounds(i, 0.0)
                wanted = [low_1 - high_0, high_1 - low_0]
            np.testing.assert_allclose(found[i, :, 0], wanted, rtol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["objective.gamma=0.5"], "so `gamma` must exceed 1"),
        (["objective.treatment=dose"], "`dose` must be an array of one number"),
        (["networks.multipliers.numbers=1"], "`multipliers` returns 1 numbers, not 2"),
        (["networks.main.conditions=[covariates]"], "is not given `treatment`"),
        (["networks.propensity.conditions=null"], "must depend on the covariates alone"),
        ([f"sampler.{WITHIN}"], "bound different regions"),
        ([f"{part}.within={{lower: [1], upper: [0]}}" for part in ("objective", "sampler")], "the region is empty"),
    ],
)
def test_what_does_not_fit(options: list[str], message: str) -> None:
    with pytest.raises(DiagnosticError, match=message):
        lowered(*options)
