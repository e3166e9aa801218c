"""Further terms of a denoiser's loss against plain formulas: options that the authors' numbers do not have."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gradients import grad
from random_weights import random_weights
from tiny_systems import SYSTEMS

from latentc.diagnostics import DiagnosticError
from latentc.ir.builder import ModuleBuilder, module_class
from latentc.ir.core import parameters
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B, f32
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.systems.lightning_dit.direction import Direction

DATA = "data={kind: npz, path: train.npz, classes: 5, shape: [1, 8, 8], fields: {near: {shape: [16, 6]}, "
SIZES = [DATA + "far: {shape: [16, 3]}}}", "backbone.width=16", "backbone.depth=2", "backbone.block.mixer.heads=2"]
SIZES += ["backbone.alignment={blocks: 1, hidden: 8, features: [6, 3]}"]
TERMS = "objective.further=[{kind: contrast, weight: 0.1, conditional_only: true}, "
SIZES += [TERMS + "{kind: feature_alignment, features: [near, far], weight: 0.5}]"]
PLAIN = "backbone=!replace {kind: patch_transformer, width: 16, depth: 2, patch: 2, positions: {kind: sincos_2d}, "
PLAIN += "block: {mixer: {kind: attention, heads: 2}, feed_forward: {kind: gelu_mlp}, norm: {kind: layer_norm}, "
PLAIN += "condition: {kind: adaln_zero}}}"
SCALE = "{kind: multi_scale, scales: [0.25], weight: %d}"
COUNT = 4


def column(a: np.ndarray) -> np.ndarray:
    return a[:, None, None, None]


MEAN = ("networks.mean={kind: constant}", TERMS.replace("true}", "true, mean: mean}") + SIZES[-1].removeprefix(TERMS))
WEIGHED = "objective.sample_weight={field: trust, dropped: false}"


@pytest.mark.parametrize("path", ["linear", "gvp"])
def test_contrast_of_labelled_samples_and_two_encoders(path: str) -> None:
    process = f"objective.process={{kind: interpolant, noise_time: 1, path: {path}}}"
    low = lower(load_spec("delta_fm", overrides=[*SIZES, process]))
    method, rng = low.networks["main"].methods["train_forward"], np.random.default_rng(0)
    weights = random_weights(parameters(low.module, method.function), rng, 0.3)
    oracle = Interpreter(low.module, {f"main.{name}": w for name, w in weights.items()})
    given: dict[str, Any] = {
        "x": rng.standard_normal((COUNT, 1, 8, 8)),
        "noise": rng.standard_normal((COUNT, 1, 8, 8)),
        "y": np.array([0, 1, 2, 3]),
        "near": rng.standard_normal((COUNT, 16, 6)),
        "far": rng.standard_normal((COUNT, 16, 3)),
        "u": np.array([0.1, 0.4, 0.6, 0.9]),
        "drop": np.array([0.5, 0.05, 0.5, 0.5]),
        "other": np.array([0.0, 0.4, 0.7, 0.99]),
    }
    t, others = given["u"], np.array([1, 2, 3, 2])  # of the three others in order: the first, second, third, third
    angle = np.pi / 2 * t
    alpha, sigma = (1 - t, t) if path == "linear" else (np.cos(angle), np.sin(angle))
    slopes = (-np.ones(COUNT), np.ones(COUNT)) if path == "linear" else (-np.pi / 2 * sigma, np.pi / 2 * alpha)
    z = column(alpha) * given["x"] + column(sigma) * given["noise"]
    target = column(slopes[0]) * given["x"] + column(slopes[1]) * given["noise"]
    dropped = given["drop"] < 0.1
    out, *features = oracle.run(method.function, z, t, np.where(dropped, 5, given["y"]), prefix="main")
    flow = ((out - target) ** 2).mean(axis=(1, 2, 3))
    apart = ((out - target[others]) ** 2).mean(axis=(1, 2, 3)) * ~dropped * COUNT / (~dropped).sum()
    cosines = []
    for ours, theirs in zip(features, (given["near"], given["far"]), strict=True):
        lengths = np.linalg.norm(ours, axis=2) * np.linalg.norm(theirs, axis=2)
        cosines.append(((ours * theirs).sum(axis=2) / lengths).mean(axis=1))
    total = flow - 0.1 * apart - 0.5 * np.mean(cosines, axis=0)
    found = oracle.run("loss", *(given[v.name] for v in low.module.entry("loss").inputs))
    wanted = [total, flow, -apart, -np.mean(cosines, axis=0)]
    assert [float(value) for value in found] == pytest.approx([value.mean() for value in wanted], rel=1e-6)


def test_terms_of_one_kind_count_each() -> None:
    tiny, rng = SYSTEMS["dimr"], np.random.default_rng(0)
    thrice, twice = (
        lower(load_spec(tiny.spec, overrides=[*tiny.sizes, f"objective.further=[{', '.join(terms)}]"]))
        for terms in (["{kind: multi_scale, scales: [0.25], weight: 3}"], [SCALE % 1, SCALE % 2])
    )
    called = parameters(thrice.module, thrice.networks["main"].methods["train_forward"].function)
    weights = {f"main.{name}": w for name, w in random_weights(called, rng, 0.3).items()}
    inputs = {v.name: v.type for v in thrice.module.entry("loss").inputs}
    given = {name: rng.uniform(size=[2 if n == B else n for n in t.shape]) for name, t in inputs.items()}
    given = {name: v.astype(int) if inputs[name].dtype == "i64" else v for name, v in given.items()}
    whole, parts = (
        [float(v) for v in Interpreter(low.module, weights).run("loss", *given.values())] for low in (thrice, twice)
    )
    assert [update.metrics for update in twice.updates] == [("loss", "base", "multi_scale", "multi_scale_2")]
    assert parts[:3] == pytest.approx(whole, rel=1e-9) and parts[2] == parts[3]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ([PLAIN], "features"),
        (["backbone.alignment.features=[6]"], "2 feature fields, but the network has 1 feature projections"),
        (["backbone.alignment.features=[6, 4]"], r"feature field `far`: of shape \[16, 3\]"),
        (["backbone.alignment.blocks=3"], "the alignment follows block 3"),
        (["train.batch_size=1"], "a contrast needs another sample"),
        (["objective.sample_weight={field: trust}"], "has no such field `trust`"),
        (["objective.sample_weight={field: near}"], r"a field of f32\[16, 6\] `near`"),
    ],
)
def test_what_does_not_fit_is_refused(overrides: list[str], says: str) -> None:
    with pytest.raises(DiagnosticError, match=says):
        load_spec("delta_fm", overrides=[*SIZES, *overrides])


def test_flash_dit_learns_directions_at_logit_normal_times_and_samples_at_shifted_ones() -> None:
    """As LightningDiT's `transport`: the mean of 1 - cosine over the places of a map is added to the squared error."""
    spec = load_spec("iwin", overrides=[*SYSTEMS["iwin"].sizes, "sampler.steps=4", "sampler.guidance=null"])
    low, rng = lower(spec), np.random.default_rng(0)
    method = low.networks["main"].methods["forward"]
    weights = random_weights(parameters(low.module, method.function), rng, 0.3)
    oracle = Interpreter(low.module, {f"main.{name}": w for name, w in weights.items()})
    shape = (COUNT, *spec.data.shape)
    given = {"x": rng.standard_normal(shape), "noise": rng.standard_normal(shape), "y": np.array([0, 1, 2, 3])}
    given |= {"u": rng.standard_normal(COUNT), "drop": np.full(COUNT, 0.5)}
    inputs = [value.name for value in low.module.entry("loss.terms").inputs]
    total, mse, direction = oracle.run("loss.terms", *(given[name] for name in inputs))
    t = 1 / (1 + np.exp(-given["u"]))
    z, target = column(t) * given["x"] + column(1 - t) * given["noise"], given["x"] - given["noise"]
    (out,) = oracle.run(method.function, z, t, given["y"], prefix="main")
    lengths = np.linalg.norm(out, axis=1) * np.linalg.norm(target, axis=1)
    assert np.allclose(mse, ((out - target) ** 2).mean(axis=(1, 2, 3)), rtol=1e-6)
    assert np.allclose(direction, (1 - (out * target).sum(axis=1) / lengths).mean(axis=(1, 2)), rtol=1e-6)
    assert np.allclose(total, mse + direction)
    table = spec.sampler.table(spec.objective.parameterization())
    s = np.linspace(0, 1, 5)
    assert np.allclose(np.cumsum(np.asarray(table.columns["d"])), (0.3 * s / (1 - 0.7 * s))[1:])


def test_a_direction_has_a_derivative_where_a_network_predicts_zeros() -> None:
    """As `F.cosine_similarity` of PyTorch has it: networks whose last layer starts at 0 predict these at first."""

    @module_class("Term")
    def term(b: Any, x: Any, y: Any) -> Any:
        denoised: Any = SimpleNamespace(b=b, estimate=x, at=SimpleNamespace(truth=y))
        return Direction(kind="direction").value(denoised)

    mb, shape = ModuleBuilder(), (2, 4, 3, 3)
    mb.entries["main"] = mb.define(term, [f32(B, *shape[1:])] * 2, {})
    module, name = grad(mb.finish(), "main", [0])
    y = np.random.default_rng(0).standard_normal(shape)
    (found,) = Interpreter(module).run(name, np.zeros(shape), y)
    assert np.allclose(found, -1e8 / 9 * y / np.linalg.norm(y, axis=1, keepdims=True))


def test_contrast_learns_the_mean_target_and_samples_are_weighed() -> None:
    """The mean's error is added to the contrast; weights are 0 where the class is dropped, and 1 on average."""
    data = SIZES[0].replace("near:", "trust: {}, near:")
    low = lower(load_spec("delta_fm", overrides=[data, *SIZES[1:], *MEAN, WEIGHED]))
    plain = lower(load_spec("delta_fm", overrides=SIZES))
    rng, method = np.random.default_rng(0), low.networks["main"].methods["train_forward"]
    weights = random_weights(parameters(low.module, method.function), rng, 0.3)
    weights = {f"main.{name}": w for name, w in weights.items()}
    shapes = {"x": (COUNT, 1, 8, 8), "noise": (COUNT, 1, 8, 8), "near": (COUNT, 16, 6), "far": (COUNT, 16, 3)}
    given: dict[str, Any] = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    given |= {name: rng.uniform(size=COUNT) for name in ("u", "trust", "other")}
    given |= {"y": np.array([0, 1, 2, 3]), "drop": np.array([0.5, 0.05, 0.5, 0.5])}
    mean = rng.standard_normal((1, 8, 8))
    assert next(iter(low.updates)).networks == ("main", "mean")

    def run(one: Any, **own: Any) -> list[np.ndarray]:
        entry = one.module.entries["loss.terms"]
        machine = Interpreter(one.module, {**weights, **own})
        return machine.run("loss.terms", *(given[v.name] for v in one.module.functions[entry].inputs))

    _, flow, apart, cosine = run(plain)
    total, base, contrast, _ = run(low, **{"mean.value": mean})
    target = given["noise"] - given["x"]
    trust = given["trust"] * (given["drop"] >= 0.1)
    assert np.allclose(base, flow * trust / trust.mean(), rtol=1e-6)
    assert np.allclose(contrast, apart + ((mean - target) ** 2).mean(axis=(1, 2, 3)), rtol=1e-6)
    assert np.allclose(total, base + 0.1 * contrast + 0.5 * cosine, rtol=1e-6)


LEARNED = "objective={kind: diffusion, process: {kind: discrete}, predicts: noise, variance: learned_range}"
DDPM = "sampler={kind: ddpm, steps: 3}"


@pytest.mark.parametrize(
    ("system", "more", "words"),
    [
        ("umd", (LEARNED, DDPM), "returns as many channels as it takes"),
        ("dimr", ("objective.variance=learned_range",), "lower resolutions are compared with the target alone"),
    ],
)
def test_a_variance_that_a_network_cannot_learn(system: str, more: tuple[str, ...], words: str) -> None:
    with pytest.raises(DiagnosticError, match=words):
        load_spec(SYSTEMS[system].spec, SYSTEMS[system].variant, [*SYSTEMS[system].sizes, *more])


def test_terms_compare_the_mean_alone_where_a_variance_is_learned() -> None:
    """Of a network that predicts one number everywhere, and another one for the variance."""
    tiny = ["backbone.width=16", "backbone.depth=1", "backbone.block.mixer.heads=2", "sampler.steps=2"]
    both = "objective.further=[{kind: direction}, {kind: contrast, weight: 0.1}]"
    low = lower(load_spec("dit", overrides=[*tiny, "data={kind: npz, classes: 5, shape: [4, 8, 8]}", both]))
    called = parameters(low.module, low.networks["main"].main.function)
    weights = {f"main.{n}": np.zeros([*map(int, p.type.shape)]) for n, p in called.items()}
    weights["main.final_layer.linear.bias"] = np.tile([0.5] * 4 + [0.1] * 4, 4)  # p p 2C
    rng = np.random.default_rng(0)
    given = {name: rng.standard_normal((COUNT, 4, 8, 8)) for name in ("x", "noise")}
    given |= {"y": np.arange(COUNT), "t": np.full(COUNT, 400), "drop": np.ones(COUNT), "other": np.zeros(COUNT)}
    entry = low.module.entry("loss")
    found = Interpreter(low.module, weights).run("loss", *(given[v.name] for v in entry.inputs))
    terms = dict(zip(low.updates[0].metrics, found, strict=True))
    cosine = given["noise"].sum(axis=1) / 2 / np.linalg.norm(given["noise"], axis=1)
    others = given["noise"][[1, 0, 0, 0]]
    assert terms["direction"] == pytest.approx((1 - cosine).mean(), rel=1e-9)
    assert terms["contrast"] == pytest.approx(-((0.5 - others) ** 2).mean(), rel=1e-9)


def test_a_network_of_vectors_learns_a_variance() -> None:
    sizes = ["data.fields.x.shape=[6]", "backbone.width=8", "backbone.depth=1", "objective.variance=learned_range"]
    lowered = lower(load_spec("rcg_representation", None, sizes))
    assert lowered.networks["main"].methods["forward"].output("output").type.shape[1] == 12
    assert len(lowered.module.entry("loss.terms").outputs) == 3  # loss, mse, vb
