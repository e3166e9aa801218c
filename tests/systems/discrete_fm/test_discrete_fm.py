"""The losses and the chain of discrete flow matching as the authors' code computes them, with their small network."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from parity_data import LIMIT, Numbers, error, excess, load
from tiny_systems import SYSTEMS

from latentc.components.backbone import add_method
from latentc.components.contract import Network, Port
from latentc.diagnostics import DiagnosticError
from latentc.ir.builder import ModuleBuilder, f32, i64, module_class
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.systems.discrete_fm.token_jumps import TokenJumps

sys.path.insert(0, str(Path(__file__).parents[2] / "parity"))
from maskgit import uniforms

WIDTH = 16


def spec_of(length: int, vocabulary: int, *overrides: str):
    tokens = f"data.fields.tokens={{shape: [{length}], classes: {vocabulary}, medium: array, tokenizer: null}}"
    sizes = ("backbone.width=16", "backbone.depth=1", "backbone.block.mixer.heads=2")
    return load_spec("discrete_fm", overrides=[tokens, *sizes, *overrides])


@module_class("Recorded")
def recorded(b, idx, t, *, length, states):
    """The predictor of the recordings: embedded tokens, each plus the mean of all, and the time, in two layers."""
    x = b.embedding(b.param("emb.weight", f32(states, WIDTH), "zeros"), idx)
    x = x + b.mean(x, axes=(1,), keepdims=True)
    time = b.broadcast_to(b.reshape(t, shape=(B, 1, 1)), x, shape=(B, length, 1))
    layers = [
        (b.param(f"{n}.weight", f32(*shape), "zeros"), b.param(f"{n}.bias", f32(shape[0]), "zeros"))
        for n, shape in (("l1", (WIDTH, WIDTH + 1)), ("l2", (states, WIDTH)))
    ]
    return b.linear(b.tanh(b.linear(b.concat(x, time, axis=2), *layers[0])), *layers[1], out="logits")


def networks_of(mb: ModuleBuilder, length: int, states: int, masks: bool) -> dict[str, Network]:
    """As the authors' solver, samplers may draw every value, the mask too."""
    state = Port("idx", i64(B, length), "state", states, states - 1 if masks else None)
    static = {"length": length, "states": states}
    method = add_method(mb, "main", "forward", recorded, (state, Port("t", f32(B), "time")), static, ("logits",))
    return {"main": Network("main", {"forward": method}, frozenset({"denoise_tokens"}))}


def interpreter(mb: ModuleBuilder, numbers: Numbers, dtype: str = "f64") -> Interpreter:
    return Interpreter(mb.finish(), {f"main.{name}": array for name, array in numbers.weights.items()}, dtype)


def logits_of(numbers: Numbers, tokens: np.ndarray, t: float | np.ndarray) -> np.ndarray:
    mb = ModuleBuilder()
    states = len(numbers.weights["emb.weight"])
    method = networks_of(mb, tokens.shape[1], states, False)["main"].methods["forward"]
    time = np.broadcast_to(np.asarray(t, np.float32), (len(tokens),))
    return interpreter(mb, numbers).run(method.function, tokens, time, prefix="main")[0]


@pytest.mark.parametrize(("loss", "name"), [("cross_entropy", "ce"), ("{kl}", "loss")])
def test_losses(loss, name):
    """The recorded per-token values are means here per sample."""
    numbers = load("discrete_fm.loss")
    kind = ("objective.loss=generalized_kl", "objective.most=0.999") if loss == "{kl}" else ()
    spec, mb = spec_of(9, 10, "objective.source=mask", "objective.exponent=2", *kind), ModuleBuilder()
    spec.objective.build(mb, networks_of(mb, 9, 11, True), spec)
    u = numbers.inputs["t"].astype(np.float64) / spec.objective.most
    (losses,) = interpreter(mb, numbers).run(mb.entries["loss.terms"], numbers.inputs["x1"], u, numbers.noise[0])
    wanted = numbers.outputs[f"out.{name}"]
    assert error(losses.mean(), wanted) < 1e-6
    assert excess(losses.mean(), wanted, numbers.name) <= LIMIT
    if name == "loss":
        assert error(losses, numbers.outputs["out.per_token"].mean(1)) < 1e-6


def test_noisy_tokens():
    numbers = load("discrete_fm.loss")
    logits = logits_of(numbers, numbers.outputs["out.x_t"], numbers.inputs["t"])
    assert error(logits, numbers.outputs["out.logits"]) < 1e-6


def replayed(numbers: Numbers, p0: np.ndarray, columns: dict[str, np.ndarray], rows: list[np.ndarray]):
    """Uniforms that make the program draw what the authors' code drew, which `rows` of probabilities must agree with.

    `rows` gets the unnormalised probabilities of every draw, in order.
    """
    x, noise, steps = numbers.inputs["x_init"].copy(), iter(numbers.noise), len(columns["t"])
    u, v, w = [], [], []
    for i in range(steps):
        logits = logits_of(numbers, x, columns["t"][i])
        p = np.exp(logits - logits.max(-1, keepdims=True))
        rows.append((p / p.sum(-1, keepdims=True)).reshape(-1, len(p0)))
        predicted = next(noise).reshape(x.shape)
        u.append(uniforms(logits, predicted))
        v.append(np.zeros(x.shape))
        w.append(np.full(x.shape, 0.5))
        if i == steps - 1:
            x = predicted
            continue
        rates = columns["forward"][i] * np.eye(len(p0))[predicted] + columns.get("back", np.zeros(steps))[i] * p0
        rates[np.eye(len(p0))[x] == 1] = 0.0
        drawn = next(noise).astype(np.float64)
        jumps = drawn < 1 - np.exp(-rates.sum(-1))
        v[-1] = 1 - drawn
        if jumps.any():
            target = next(noise).ravel()
            rows.append(rates[jumps] * steps)
            to = np.zeros(x.shape, int)
            to[jumps] = target
            for at in zip(*np.nonzero(jumps), strict=True):
                w[-1][at] = _place(rates[at], x[at], predicted[at], to[at], columns.get("back", [0] * steps)[i] * p0)
            x = np.where(jumps, to, x)
    assert next(noise, None) is None
    return {"u": np.stack(u), "v": np.stack(v), "w": np.stack(w)}


def _place(rates: np.ndarray, x: int, predicted: int, to: int, back: np.ndarray) -> float:
    """A uniform number that leads from x to `to`."""
    own = rates[predicted] - back[predicted] if predicted != x else 0.0
    if to == predicted:
        return own / rates.sum() / 2
    others = [value for value in range(len(back)) if value != x]
    before = own + sum(back[value] for value in others if value < to)
    return (before + back[to] / 2) / rates.sum()


@pytest.mark.parametrize(
    ("name", "vocabulary", "overrides"),
    [
        ("sampler", 10, ("objective.source=mask", "objective.exponent=2", "sampler.steps=4")),
        ("sampler_div_free", 8, ("sampler={kind: token_jumps, steps: 5, corrector: {scale: 0.5}}",)),
    ],
)
def test_the_chain(name, vocabulary, overrides):
    """Rates and probabilities of all draws, and the tokens at the end."""
    numbers = load(f"discrete_fm.{name}")
    length, masks = numbers.inputs["x_init"].shape[1], name == "sampler"
    states = vocabulary + masks
    spec, mb = spec_of(length, vocabulary, *overrides), ModuleBuilder()
    program = spec.sampler.build(mb, networks_of(mb, length, states, masks), spec)
    rows: list[np.ndarray] = []
    uniform = np.full(states, 1 / states)
    drawn = replayed(numbers, np.eye(states)[-1] if masks else uniform, spec.sampler.columns(spec.objective), rows)
    found = np.concatenate(rows)[: len(numbers.outputs["out.probs"])]
    assert error(found, numbers.outputs["out.probs"]) < 1e-6
    assert excess(found, numbers.outputs["out.probs"], numbers.name) <= LIMIT
    function = mb.functions[mb.entries[program.entry]]
    given = {**drawn, "first": numbers.inputs["x_init"]}
    (tokens,) = interpreter(mb, numbers).run(function.name, *(given[value.name] for value in function.inputs))
    assert tokens.tolist() == numbers.outputs["out.x"].tolist()


@pytest.mark.parametrize("masks", [False, True])
def test_jumps_of_a_corrector(masks):
    """The shares of 20,000 equally spaced draws among the values, against the rates that they stand for."""
    states, back, forward, x, predicted = 4, 0.6, 0.9, 1, 2
    mask = 3 if masks else None
    mb = ModuleBuilder()
    b = mb.function("jump")
    from latentc.systems.discrete_fm.token_jumps import _corrected, _differs

    given = [b.input("x", i64(B, 1)), b.input("predicted", i64(B, 1)), b.input("w", f32(B, 1))]
    rate = b.mul(_differs(b, given[1], given[0]), forward)
    b.output(*_corrected(b, given[0], given[1], rate, b.input("back", f32()), given[2], states, mask))
    mb.entries["jump"] = b.finish("Targets of jumps.")
    w = (np.arange(20_000)[:, None] + 0.5) / 20_000
    full = np.full_like(w, x, int), np.full_like(w, predicted, int)
    target, total = Interpreter(mb.finish(), {}, "f64").run("jump", *full, w, np.array(back))
    rates = forward * np.eye(states)[predicted] + back * (np.eye(states)[3] if masks else np.full(states, 0.25))
    rates[x] = 0
    np.testing.assert_allclose(total, rates.sum(), rtol=1e-12)
    np.testing.assert_allclose(np.bincount(target[:, 0], minlength=states) / 20_000, rates / rates.sum(), atol=1e-4)


def test_times_of_a_corrector():
    """Its strength is scale t^rise (1 - t)^fall, and nothing is corrected at the source."""
    spec = spec_of(4, 8, "objective.exponent=2", "sampler.steps=4")
    sampler = TokenJumps(kind="token_jumps", steps=4, corrector={"scale": 3.0, "rise": 0.5, "fall": 0.25})
    columns, t = sampler.columns(spec.objective), np.array([0.25, 0.5, 0.75])
    strength = 3 * np.sqrt(t) * (1 - t) ** 0.25
    np.testing.assert_allclose(columns["forward"], [0, *(2 * t / (1 - t**2) * (1 + strength) / 4)])
    np.testing.assert_allclose(columns["back"], [0, *(2 / t[:2] * strength[:2] / 4), 0])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("objective.loss=generalized_kl", "infinite at time 1"),
        ("sampler.guidance.channels=3", "does not apply to tokens"),
        ("backbone.block.mixer.causal=true", "must not be causal"),
        ("objective={kind: masked_diffusion_tokens}", "predicts masked tokens from the others"),
    ],
)
def test_contradictions_are_refused(override, message):
    with pytest.raises(DiagnosticError, match=message):
        lower(load_spec("discrete_fm", overrides=[*SYSTEMS["discrete_fm"].sizes, override]))
