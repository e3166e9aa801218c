"""LLaDA's loss and sampler as the authors' code computes them, with the small network that they were recorded with."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from parity_data import Numbers, error, load
from tiny_systems import SYSTEMS

from latentc.components.backbone import add_method
from latentc.components.contract import Network, Port
from latentc.diagnostics import DiagnosticError
from latentc.ir.builder import ModuleBuilder, f32, i64, module_class
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B
from latentc.lower import lower
from latentc.spec import load_spec

sys.path.insert(0, str(Path(__file__).parents[2] / "parity"))
from maskgit import uniforms

VOCABULARY, WIDTH, MASK = 24, 16, 23


def spec_of(length: int, *overrides: str):
    tokens = f"data.fields.tokens={{shape: [{length}], classes: {VOCABULARY}, medium: array, tokenizer: null}}"
    sizes = ("backbone.width=16", "backbone.depth=1", "backbone.block.mixer.heads=2", f"backbone.mask={MASK}")
    rest = ("backbone.block.feed_forward.hidden=8", "sampler={kind: semi_autoregressive, steps: 1}")
    return load_spec("llada", overrides=[tokens, *sizes, *rest, *overrides])


@module_class("Recorded")
def recorded(b, idx, *, length):
    """The predictor of the recordings: one attention over embedded tokens and positions."""
    x = b.embedding(b.param("emb.weight", f32(VOCABULARY, WIDTH), "zeros"), idx)
    places = b.param("pos", f32(1, 12, WIDTH), "zeros")
    h = x + b.slice(places, axis=1, start=0, stop=length)
    qkv = b.linear(h, b.param("qkv.weight", f32(3 * WIDTH, WIDTH), "zeros"))
    q, k, v = (b.reshape(part, shape=(B, 1, length, WIDTH)) for part in b.split(qkv, axis=2, sizes=(WIDTH,) * 3))
    h = b.tanh(h + b.reshape(b.attention(q, k, v, causal=False, scale=None), shape=(B, length, WIDTH)))
    weight, bias = b.param("out.weight", f32(VOCABULARY, WIDTH), "zeros"), b.param("out.bias", f32(VOCABULARY), "zeros")
    return b.linear(h, weight, bias, out="logits")


def networks_of(mb: ModuleBuilder, length: int) -> dict[str, Network]:
    port = Port("idx", i64(B, length), "state", VOCABULARY, MASK)
    method = add_method(mb, "main", "forward", recorded, (port,), {"length": length}, ("logits",))
    return {"main": Network("main", {"forward": method}, frozenset({"masked_tokens", "unmask_tokens"}))}


def interpreter(mb: ModuleBuilder, numbers: Numbers) -> Interpreter:
    return Interpreter(mb.finish(), {f"main.{name}": array for name, array in numbers.weights.items()}, "f64")


def logits_of(numbers: Numbers, tokens: np.ndarray) -> np.ndarray:
    mb = ModuleBuilder()
    method = networks_of(mb, tokens.shape[1])["main"].methods["forward"]
    return interpreter(mb, numbers).run(method.function, tokens, prefix="main")[0]


def sampled(numbers: Numbers, sampler: str, rows: int, *overrides: str, **inputs: np.ndarray) -> np.ndarray:
    """Tokens of program `inpaint`, given the first `rows` prompts."""
    length = numbers.outputs["out.ids"].shape[1]
    spec, mb = spec_of(length, f"sampler={sampler}", *overrides), ModuleBuilder()
    program = spec.sampler._program(mb, networks_of(mb, length), spec, "inpaint")
    prompt = numbers.inputs["prompt"][:rows]
    given = np.full((rows, length), MASK)
    given[:, : prompt.shape[1]] = prompt
    keep = np.broadcast_to((np.arange(length) < prompt.shape[1]).astype(np.float32), given.shape)
    inputs = {"given": given, "keep": keep, **inputs}
    function = mb.functions[mb.entries[program.entry]]
    return interpreter(mb, numbers).run(function.name, *(inputs[value.name] for value in function.inputs))[0]


def test_loss():
    numbers = load("llada.loss")
    (u, v), spec, mb = numbers.noise, spec_of(12), ModuleBuilder()
    spec.objective.build(mb, networks_of(mb, 12), spec)
    (losses,) = interpreter(mb, numbers).run(mb.entries["loss.terms"], numbers.inputs["ids"], u, v)
    assert error(losses.mean(), numbers.outputs["out.loss"]) < 1e-6


def test_the_likeliest_tokens_in_blocks():
    numbers = load("llada.sampler_greedy")
    sampler = "{kind: semi_autoregressive, steps: 6, block: 4, prompt: 3}"
    tokens = sampled(numbers, sampler, 2, u=np.zeros((6, 2, 11), np.float32))
    assert tokens.tolist() == numbers.outputs["out.ids"].tolist()


def test_drawn_tokens_with_guidance():
    """The second prompt is padded, which the recorded network masks, and this one has no mask for."""
    numbers = load("llada.sampler_cfg")
    sampler = "{kind: semi_autoregressive, steps: 5, prompt: 3, temperature: 0.8, guidance: {scale: 2.5}}"
    u = []
    for states, noise in zip(numbers.outputs["out.states"], numbers.noise, strict=True):
        cond, null = logits_of(numbers, states[0:1]), logits_of(numbers, states[2:3])
        logits = null + 2.5 * (cond - null)
        drawn = (logits - 0.8 * np.log(-np.log(noise[:1]))).argmax(-1)
        u.append(uniforms(logits / 0.8, drawn))
    # Guidance needs a condition; the recorded network takes none but the prompt.
    label = ("data.classes=10", "conditioning.class={kind: label, dropout: 0.1}")
    tokens = sampled(numbers, sampler, 1, *label, u=np.stack(u), scale=np.full(1, 2.5, np.float32))
    assert tokens.tolist() == numbers.outputs["out.ids"][:1].tolist()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("backbone.block.mixer.causal=true", "must not be causal"),
        ("backbone.mask=17", "out of range"),
        ("sampler.block=5", "do not divide the 62 tokens"),
        ("sampler.steps=3", "not the same number for each of 2 blocks"),
        ("sampler.prompt=64", "leaves none of 64"),
    ],
)
def test_contradictions_are_refused(override, message):
    with pytest.raises(DiagnosticError, match=message):
        lower(load_spec("llada", overrides=[*SYSTEMS["llada"].sizes, override]))
