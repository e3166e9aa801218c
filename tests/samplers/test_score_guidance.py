"""Guidance by scores of the predicted data: gradients through the network against differences, events, likeness."""

from __future__ import annotations

from math import erfc, log, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import tiny_bundle
from random_weights import random_weights, weights_of

from latentc.checkpoint import network_params
from latentc.diagnostics import DiagnosticError
from latentc.ir.builder import ModuleBuilder
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B, f32
from latentc.lower import lower
from latentc.measure.emitted import Emitted
from latentc.spec import load_spec
from latentc.systems.event.event import log_normal_cdf
from latentc.verify.run import verify

RNG = np.random.default_rng(13)
TINY = ("backbone.width=8", "backbone.depth=1", "backbone.patch=4", "backbone.block.mixer.heads=2")
ONE_STEP = (*TINY, "sampler.steps=1", "sampler.timesteps=[400]", "sampler.spacing=null")
SEEING = (
    "networks.eye={kind: resnet_classifier, layers: [1, 1, 1, 1], width: 4}",
    *("data.fields={sketch: {shape: [1, 8, 8]}}", "conditioning.sketch={kind: array}", "backbone.conditions=[class]"),
)
PATCHES = "{kind: patch_encoder, width: 8, depth: 1, patch: 4, positions: {kind: learned}, head: {features: 3}, block: "
PATCHES += (
    "{mixer: {kind: attention, heads: 2}, feed_forward: {kind: gelu_mlp}, norm: {kind: layer_norm, affine: true}, "
)
PATCHES += "condition: {kind: in_context}}}"
MAPPED = (
    *(f"networks.eye={PATCHES}", "conditioning.map={kind: array}", "backbone.conditions=[class]"),
    "data={kind: npz, path: x.npz, classes: 10, shape: [1, 8, 8], fields: {map: {shape: [3, 4]}}}",
)
DEPTH = (
    "networks.eye={kind: map_predictor, stem: 4, stages: [{channels: 4, halve: true, ratio: 2}], features: 4, head: 4, "
    "positive: false}",
    *("conditioning.map={kind: array}", "backbone.conditions=[class]"),
    "data={kind: npz, path: x.npz, classes: 10, shape: [1, 8, 8], fields: {map: {shape: [1, 8, 8]}}}",
)
NOISY = "{kind: clip_resnet, layers: [1, 1, 1, 1], width: 2, heads: 2, features: 5, image: 32, "
NOISY = (f"networks.eye={NOISY}time: {{frequencies: 8, width: 6}}}}", *SEEING[1:])
WORDS = ("data.fields={words: {shape: [5]}}", "conditioning.words={kind: array}", "backbone.conditions=[class]")
SCORES = {
    "noisy content": ("{kind: likeness, reference: sketch, network: eye}, at: state", NOISY),
    "noisy style": ("{kind: likeness, reference: sketch, network: eye, match: style}, at: state", NOISY),
    "noisy meaning": (
        "{kind: likeness, reference: words, network: eye, match: meaning}, at: state",
        (NOISY[0], *WORDS),
    ),
    "noisy map": ("{kind: prediction, network: eye, reference: map}, at: state", DEPTH),
    "mean above": ("{kind: event, number: mean, above: 0.3}", ()),
    "square below": ("{kind: event, number: square, below: 1.0, channels: [0]}", ()),
    "pixels": ("{kind: likeness, reference: sketch}", SEEING),
    "content": ("{kind: likeness, reference: sketch, network: eye}", SEEING),
    "style": ("{kind: likeness, reference: sketch, network: eye, match: style}", SEEING),
    "squared map": ("{kind: prediction, network: eye, reference: map}", MAPPED),
    "absolute map": ("{kind: prediction, network: eye, reference: map, match: absolute}", MAPPED),
    "map of classes": ("{kind: prediction, network: eye, reference: map, match: classes}", MAPPED),
    "meaning": (
        "{kind: likeness, reference: words, network: eye, match: meaning}",
        (
            *SEEING[:1],
            *("data.fields={words: {shape: [32]}}", "conditioning.words={kind: array}", "backbone.conditions=[class]"),
        ),
    ),
}


def log_p(x: float) -> float:
    return log(erfc(-x / sqrt(2)) / 2)


def cosine(x: np.ndarray, y: np.ndarray) -> float:
    lengths = [np.sqrt((v**2).sum(0) + 1e-8) for v in (x, y)]
    return float(((x * y).sum(0) / (lengths[0] * lengths[1])).mean())


@pytest.mark.parametrize("name", SCORES)
def test_a_step_adds_the_gradient_of_the_score(name: str) -> None:
    """DDIM from t = 400 to the data, with the score of the state changed by a gradient found by differences."""
    text, more = SCORES[name]
    guidance = f"sampler.guidance={{kind: score, score: {text}, scale: 2}}"
    spec: Any = load_spec("digits_dit", None, [*ONE_STEP, *more, guidance])
    lowered = lower(spec)
    weights = weights_of(lowered, 0.3, RNG)
    weights |= {path: np.abs(a) + 0.05 for path, a in weights.items() if path.endswith("running_var")}
    oracle = Interpreter(lowered.module, weights)
    x, sketch, y = RNG.standard_normal((2, 1, 8, 8)), RNG.uniform(-1, 1, (2, 1, 8, 8)), np.array([3, 8])
    scale = np.array([2.0, 0.5])
    words, mapped = (
        RNG.standard_normal((2, 5 if "noisy" in name else 32)),
        RNG.uniform(0, 1, (2, 1, 8, 8)) if name == "noisy map" else RNG.dirichlet(np.ones(3), (2, 4)).swapaxes(1, 2),
    )
    given = {"x": x, "y": y, "sketch": sketch, "words": words, "map": mapped, "score_scale": scale}
    given["sketch_noise"] = RNG.standard_normal((1, 2, 1, 8, 8))
    program = lowered.programs[0]
    (ours,) = oracle.run(program.entry, *(given[v.name] for v in lowered.module.entry(program.entry).inputs))
    point = spec.objective.process.point(400)
    alpha, sigma = float(point.alpha), float(point.sigma)
    forward = lowered.networks["main"].methods["forward"].function

    def data(state: np.ndarray, i: int) -> np.ndarray:
        out = oracle.run(forward, state[None], np.array([400.0]), y[i : i + 1], prefix="main")[0][0]
        return alpha * state - sigma * np.asarray(out)  # from a velocity

    def seen(image: np.ndarray) -> np.ndarray:
        see = lowered.networks["eye"].methods["see"].function
        return np.asarray(oracle.run(see, image[None], prefix="eye")[0][0])

    def of_state(state: np.ndarray, i: int) -> float:
        """SDG's scores: cosines of vectors, or 1e10 times the mean over levels of the error of Gram matrices."""
        if name == "noisy map":
            return -float(((seen(state) - mapped[i]) ** 2).mean())
        noised = alpha * sketch[i] + sigma * given["sketch_noise"][0, i]
        method = "see_levels" if "style" in name else "see"
        see = lowered.networks["eye"].methods[method].function
        looks = [oracle.run(see, image[None], np.array([400.0]), prefix="eye") for image in (state, noised)]
        if "meaning" in name:
            return cosine(looks[0][0][0][:, None], words[i][:, None])
        if "content" in name:
            return cosine(*(look[0][0][:, None] for look in looks))
        grams = [
            [f[0].reshape(len(f[0]), -1) @ f[0].reshape(len(f[0]), -1).T / f[0].size for f in look] for look in looks
        ]
        return -1e10 * float(np.mean([((a - b) ** 2).mean() for a, b in zip(*grams, strict=True)]))

    def number(x0: np.ndarray) -> float:
        return float(x0.mean()) if "mean" in name else float((x0**2).mean())

    def score(x0: np.ndarray, i: int, variance: float) -> float:
        if name == "mean above":
            return log_p((number(x0) - 0.3) / sqrt(variance))
        if name == "square below":
            return log_p((1.0 - number(x0)) / sqrt(variance))
        if name == "pixels":
            return -float(((x0 - sketch[i]) ** 2).mean())
        if name == "meaning":
            return cosine(seen(x0).mean((1, 2))[:, None], words[i][:, None])
        if name.endswith("map"):
            difference = seen(x0) - mapped[i]
            return -float((np.abs(difference) if name == "absolute map" else difference**2).mean())
        if name == "map of classes":
            return float((mapped[i] * (seen(x0) - np.log(np.exp(seen(x0)).sum(0)))).sum(0).mean())
        both = [seen(image) for image in (x0, sketch[i])]
        if name == "content":
            return cosine(*both)
        flat = [f.reshape(len(f), -1) for f in both]
        return -1e10 * float((((flat[0] @ flat[0].T) - (flat[1] @ flat[1].T)) ** 2).mean()) / flat[0].size ** 2

    def gradient(f: Any, at: np.ndarray) -> np.ndarray:
        found = np.zeros_like(at)
        for k in range(at.size):
            step = np.zeros(at.size)
            step[k] = 1e-5
            step = step.reshape(at.shape)
            found.reshape(-1)[k] = (f(at + step) - f(at - step)) / 2e-5
        return found

    for i in range(2):
        x0, variance = data(x[i], i), 1.0
        if name in ("mean above", "square below"):
            g = gradient(number, x0)
            change = (data(x[i] + 1e-5 * g, i) - data(x[i] - 1e-5 * g, i)) / 2e-5
            variance = max(sigma**2 / alpha * float((g * change).sum()), 1e-6)
        if name.startswith("noisy"):
            slope = gradient(lambda s, i=i: of_state(s, i), x[i])
        else:
            slope = gradient(lambda s, i=i, v=variance: score(data(s, i), i, v), x[i])
        wanted = x0 + sigma**2 / alpha * scale[i] * slope
        assert np.max(np.abs(ours[i] - wanted)) <= 2e-5 * np.max(np.abs(wanted)), name


def test_a_flow_is_guided_from_its_second_evaluation_on() -> None:
    """Euler from pure noise, where the state says nothing about the data, by way of t = 1/2, where it does."""
    guidance = f"sampler.guidance={{kind: score, score: {SCORES['pixels'][0]}}}"
    euler = ("sampler={kind: euler, steps: 2}", guidance)
    lowered = lower(load_spec("digits_sit", None, [*TINY, *SEEING, *euler]))
    shapes = {f"main.{p}": v.type.shape for p, v in network_params(lowered, lowered.networks["main"]).items()}
    weights = {name: 0.3 * RNG.standard_normal([int(d) for d in shape]) for name, shape in shapes.items()}
    oracle = Interpreter(lowered.module, weights)
    x, sketch, y = RNG.standard_normal((2, 1, 8, 8)), RNG.uniform(-1, 1, (2, 1, 8, 8)), np.array([3, 8])
    scale = np.array([2.0, 0.5])
    entry = lowered.programs[0].entry
    given = {"x": x, "y": y, "sketch": sketch, "score_scale": scale}
    (ours,) = oracle.run(entry, *(given[v.name] for v in lowered.module.entry(entry).inputs))
    forward = lowered.networks["main"].methods["forward"].function

    def velocity(state: np.ndarray, t: float) -> np.ndarray:
        return np.asarray(oracle.run(forward, state, np.full(len(state), t), y, prefix="main")[0])

    def score(state: np.ndarray) -> np.ndarray:
        return -((state + 0.5 * velocity(state, 0.5) - sketch) ** 2).mean((1, 2, 3))

    half = x + 0.5 * velocity(x, 0.0)
    slope = np.zeros_like(x)
    for k in np.ndindex(x.shape[1:]):
        step = np.zeros(x.shape[1:])
        step[k] = 1e-5
        slope[(slice(None), *k)] = (score(half + step) - score(half - step)) / 2e-5
    # At t = 1/2 the velocity changes by sigma^2 / alpha + sigma = 1 times the score.
    wanted = half + 0.5 * (velocity(half, 0.5) + scale[:, None, None, None] * slope)
    assert np.max(np.abs(ours - wanted)) <= 2e-5 * np.max(np.abs(wanted))


@pytest.mark.parametrize(("steps", "interval"), [(1, "[0, 1]"), (8, "[0, 0.1]")])  # of which the first is pure noise
def test_guidance_of_no_step_is_refused(steps: int, interval: str) -> None:
    term = f"{{kind: score, score: {SCORES['pixels'][0]}, interval: {interval}}}"
    with pytest.raises(DiagnosticError, match="this guidance has no effect"):
        load_spec("digits_sit", None, [*TINY, *SEEING, f"sampler={{kind: euler, steps: {steps}, guidance: {term}}}"])


def test_the_logarithm_of_a_probability_is_finite_far_below() -> None:
    mb = ModuleBuilder()
    b = mb.function("f")
    b.output(log_normal_cdf(b, b.input("x", f32(B))))
    mb.entries["f"] = b.finish()
    x = np.array([-36.0, -8.0, -3.001, -2.999, -1.0, 0.0, 3.0])
    (found,) = Interpreter(mb.finish(), {}).run("f", x)
    assert np.allclose(found, list(map(log_p, x)), rtol=1e-6) and np.all(np.diff(found) > 0)


@pytest.mark.parametrize(("form", "look"), [("loop", "content"), ("host", "meaning"), ("loop", "noisy content")])
def test_engines_and_emitted_sampler_agree(form: str, look: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    terms = "[{kind: score, score: {kind: event, above: 0.1}}, {kind: score, name: look, score: LOOK}]"
    score, seeing = SCORES[look]
    terms = terms.replace("score: LOOK", f"score: {score}")
    more = (*seeing, "sampler.steps=3", f"sampler.guidance={terms}", f"target.form={form}")
    report = verify(tiny_bundle("digits_dit", tmp_path / "bundle", (*TINY, *more)))
    assert report.ok, report.text()


def test_calls_are_shown_within_a_gradient() -> None:
    """As `verify` does where PyTorch diverges: the network is called on what is differentiated."""
    pytest.importorskip("torch")
    sampler = "{kind: ddim, steps: 2, guidance: {kind: score, score: {kind: event, above: 0.1}}}"
    lowered = lower(spec := load_spec("digits_dit", None, [*TINY, f"sampler={sampler}"]))
    own = random_weights(network_params(lowered, lowered.networks["main"]), RNG, 0.1)
    emitted = Emitted(lowered, spec, {f"main.{name}": np.float32(a) for name, a in own.items()})
    x, y, scale = RNG.standard_normal((2, 1, 8, 8)), np.array([3, 8]), np.array([1.0, 0.0])
    given = {"x": np.float32(x), "y": y, "score_scale": np.float32(scale)}
    program = lowered.programs[0]
    operands = [given[v.name] for v in lowered.module.entry(program.entry).inputs]
    calls = emitted.network_calls(program, {"main": ("forward",)}, operands)  # type: ignore[arg-type]
    assert len(calls) >= 2 and np.array_equal(calls[0][2][0], given["x"])


@pytest.mark.parametrize(
    ("score", "words"),
    [
        ("{kind: event}", "the event has no bound"),
        ("{kind: event, above: 1, channels: [3]}", "channel 3 is out of range: the data has 1"),
        ("{kind: likeness, reference: sketch}", "no such condition: `sketch`"),
        ("{kind: likeness, reference: class}", "not an array of the data's shape"),
        ("{kind: likeness, reference: class, network: main}", "gives the features that it sees"),
        ("{kind: event, above: 1}, at: state", "`event` scores data, and not noisy states"),
        ("{kind: likeness, reference: class}, at: state", "`likeness` scores data, and not noisy states"),
        ("{kind: event, above: 1}, experts: [main]", "`event` has no network that `experts` could replace"),
        ("{kind: prediction, reference: class}", "`prediction` needs a network"),
        ("{kind: likeness, reference: class, match: meaning}", "`match: meaning` compares features"),
    ],
)
def test_what_is_refused(score: str, words: str) -> None:
    kind = "score_experts" if "experts: " in score else "score"
    with pytest.raises(DiagnosticError) as refused:
        load_spec("digits_dit", None, [*TINY, f"sampler.guidance={{kind: {kind}, score: {score}}}"])
    assert any(words in d.message for d in refused.value.diagnostics), refused.value


def test_maps_of_another_shape_are_refused() -> None:
    score, seeing = SCORES["map of classes"]
    for change, words in (
        ("[3, 5]", r"does not have the shape \[3, 4\] of the map"),
        ("[1, 4]", "predicts one number per position"),
    ):
        other = [text.replace("[3, 4]", change) for text in seeing]
        other += ["networks.eye.head.features=1"] if change == "[1, 4]" else []
        with pytest.raises(DiagnosticError, match=words):
            load_spec("digits_dit", None, [*TINY, *other, f"sampler.guidance={{kind: score, score: {score}}}"])


def test_a_vector_of_another_size_is_refused() -> None:
    eye = NOISY[0].replace(", time: {frequencies: 8, width: 6}", "")
    data = "data={kind: npz, path: x.npz, classes: 10, shape: [1, 8, 8], fields: {map: {shape: [7]}}}"
    score = "sampler.guidance={kind: score, score: {kind: prediction, network: eye, reference: map}}"
    with pytest.raises(DiagnosticError, match=r"`map` does not have the shape \[5\] of the map"):
        load_spec("digits_dit", None, [*TINY, eye, data, *MAPPED[1:3], score])


def test_features_of_another_number_are_refused() -> None:
    score, seeing = SCORES["meaning"]
    other = [text.replace("[32]", "[16]") for text in seeing]
    with pytest.raises(DiagnosticError, match="does not have the 32 features that `eye` computes"):
        load_spec("digits_dit", None, [*TINY, *other, f"sampler.guidance={{kind: score, score: {score}}}"])
