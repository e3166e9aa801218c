"""Quantisation of programs that no sampler of the vocabulary makes: several networks, discrete and continuous ones."""

from __future__ import annotations

import numpy as np
import pytest
from quantised import QUICK, small

from latentc.components.contract import Lowered, Method, Network, Port, Program
from latentc.ir.builder import B, ModuleBuilder, f32, i64, module_class
from latentc.ir.core import parameters
from latentc.ir.inits import INITS
from latentc.ir.verify import verify
from latentc.lower import lower
from latentc.quantize.calibrate import calibrate
from latentc.quantize.model import Model
from latentc.quantize.plan import choice
from latentc.quantize.quality import quality_of_logits
from latentc.spec import load_spec
from latentc.weights import Array
from latentc_runtime.sources import RandomSource

VOCABULARY, LENGTH, STEPS, REPEATS = 11, 6, 4, 3


@module_class("Scorer")
def scorer(b, tokens):
    """Scores every token of a sequence, as a masked-token model does."""
    x = b.embedding(b.param("embed.weight", f32(VOCABULARY, 32), "normal", std=1.0), tokens, out="x")
    return b.dense("out", b.dense("hidden", x, 32), VOCABULARY)


@module_class("Decoder")
def decoder(b, tokens):
    x = b.embedding(b.param("embed.weight", f32(VOCABULARY, 32), "normal", std=1.0), tokens, out="x")
    return b.dense("out", b.relu(b.dense("hidden", x, 32)), 4)


def decoded_tokens(pixels: bool) -> tuple[Lowered, dict[str, Array]]:
    """Tokens refined in two nested loops by `main`, then decoded by `decoder` if `pixels`; and random weights."""
    mb = ModuleBuilder()
    tokens = i64(B, LENGTH)
    score, decode = mb.define(scorer, [tokens], {}), mb.define(decoder, [tokens], {})

    def again(b, i, kept, state, rows):
        return (b.argmax(b.call(score, "main", state[0]), axis=2),), ()

    def body(b, i, kept, state, rows):
        return b.loop("again", REPEATS, again, carried=state), ()

    b = mb.function("sample")
    u = b.input("u", f32(B, LENGTH))
    (out,) = b.loop("body", STEPS, body, carried=[b.cast(b.mul(u, float(VOCABULARY)), to="i64")])
    b.output(b.call(decode, "decoder", out) if pixels else out)
    mb.entries |= {"sample": b.finish(), "main.forward": score}
    mb.entries |= {"decoder.forward": decode} if pixels else {}
    module = verify(mb.finish())
    state = Port("tokens", tokens, "state", values=VOCABULARY)
    networks = {
        "main": Network(
            "main",
            {"forward": Method(score, (state,), (Port("logits", f32(B, LENGTH, VOCABULARY), "logits"),))},
            frozenset(),
        ),
        "decoder": Network(
            "decoder", {"forward": Method(decode, (state,), (Port("x", f32(B, LENGTH, 4), "output"),))}, frozenset()
        ),
    }
    networks = networks if pixels else {"main": networks["main"]}
    program = Program("sample", "masked", STEPS, STEPS * REPEATS, {"u": RandomSource("uniform", "u")})
    rng, weights = np.random.default_rng(0), {}
    for path, param in parameters(module, "sample").items():
        weights[path] = Array(INITS[param.init.kind](rng, param.type.shape, **param.init.args).astype(np.float32))
    return Lowered(module, networks, (), (program,)), weights


@pytest.mark.parametrize("pixels", [False, True])
def test_networks_that_score_tokens_are_judged_by_perplexity(pixels: bool) -> None:
    lowered, weights = decoded_tokens(pixels)
    spec = small("digits_dit").spec
    seen = calibrate(Model(lowered, spec, weights))
    assert [len(feeds) for feeds in seen.feeds.values()] == [3, 1][: 1 + pixels]
    assert seen.points["main.forward"] == ("call 1 of 12", "call 7 of 12", "call 12 of 12")
    assert np.array_equal(seen.samples.shape, (3, LENGTH, 4) if pixels else (3, LENGTH))
    found = choice(Model(lowered, spec, weights), seen)
    assert set(found.quantization.plan) == set(found.layers)
    quality = found.quality
    assert quality.perplexity is not None and 0 < quality.perplexity < 0.01
    assert quality.agreement is not None and quality.agreement > 0.8
    assert (quality.psnr is not None) == pixels, "ids of tokens have no PSNR; values decoded from them do"
    assert quality.psnr is None or 20 < quality.psnr < 100


def test_every_cache_of_a_decoded_step_is_kept() -> None:
    """Keys and values are ports of one name."""
    model = small("digits_givt").model
    feeds = calibrate(model).feeds["main.decode"]
    inputs = model.lowered.module.entry("main.decode").inputs
    assert len(inputs) == 4 and all(set(feed) == {value.name for value in inputs} for feed in feeds)


def test_perplexity_is_that_of_the_exact_model() -> None:
    exact = np.log(np.array([[0.5, 0.25, 0.25]]))
    other = np.log(np.array([[0.25, 0.5, 0.25]]))
    quality = quality_of_logits([other], [exact])
    assert quality.perplexity == pytest.approx(np.exp(0.25 * np.log(2)) - 1) and quality.agreement == 0
    same = quality_of_logits([exact + 3.0], [exact])
    assert same.perplexity == pytest.approx(0, abs=1e-12) and same.agreement == 1
    assert quality_of_logits([exact * np.nan], [exact]).perplexity == 1e9


def test_calibration_takes_the_noise_of_the_runtime() -> None:
    """A generator's calibration sees noise within its truncation."""
    quantize = f"optimize.quantize={{scheme: int8, {QUICK}}}"
    spec = load_spec("digits_biggan", None, [quantize, "sampler.truncation=0.5"])
    lowered = lower(spec)
    rng, weights = np.random.default_rng(0), {}
    entry = lowered.module.entries[lowered.programs[0].entry]
    for path, param in parameters(lowered.module, entry).items():
        value = INITS[param.init.kind](rng, tuple(int(d) for d in param.type.shape), **param.init.args)
        weights[path] = Array(np.asarray(value + 0.05 * rng.standard_normal(value.shape), np.float32))
    ((feed,),) = calibrate(Model(lowered, spec, weights)).feeds.values()
    noise = feed[lowered.networks["main"].methods["forward"].input("noise").name]
    assert 0.3 < np.abs(noise).max() <= 0.5
