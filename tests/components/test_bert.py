"""Tokens of `bert` as digits and bits, and its training with a decoder that sees tokens its encoder does not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from random_weights import random_weights
from tiny_systems import SYSTEMS

from latentc.components.kit.tokens import bits_of, digit_base, hidden_fraction, joined_digits, split_digits
from latentc.components.objectives._common import hidden_share
from latentc.components.samplers._masked import known_counts
from latentc.diagnostics import DiagnosticError
from latentc.ir.builder import ModuleBuilder
from latentc.ir.core import parameters
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B, f32, i64
from latentc.lower import lower
from latentc.spec import load_spec


def run(tokens: np.ndarray, *bodies: object) -> list[np.ndarray]:
    mb = ModuleBuilder()
    b = mb.function("f")
    x = b.input("x", i64(B, tokens.shape[1]))
    b.output(*(body(b, x) for body in bodies))  # type: ignore[operator]
    mb.entries["f"] = b.finish()
    return Interpreter(mb.finish()).run("f", tokens)  # type: ignore[return-value]


def test_digits_of_tokens_and_back() -> None:
    tokens = np.array([[0, 7, 8, 511]])
    digits, again, bits = run(
        tokens,
        lambda b, x: split_digits(b, x, 8, 3),
        lambda b, x: joined_digits(b, split_digits(b, x, 8, 3), 8, 3),
        lambda b, x: bits_of(b, x, 3),
    )
    assert digits.reshape(1, 4, 3).tolist() == [[[0, 0, 0], [7, 0, 0], [0, 1, 0], [7, 7, 7]]]
    assert np.array_equal(again, tokens)
    assert bits.tolist() == [[[-1, -1, -1], [1, 1, 1], [0, 0, 0], [0, 0, 0]]]  # 8 and 511 are no 3 bits
    assert (digit_base(2**18, 2), digit_base(27, 3), digit_base(12, 2)) == (512, 3, None)


def test_hidden_tokens_are_rounded_down_and_the_last_step_knows_all() -> None:
    """As MaskGIT counts them: at least one is hidden before the last step, at least one more is known in each."""
    for steps, length in ((5, 256), (12, 16), (16, 16), (1, 4)):
        masked, wanted = length, []
        for step in range(steps):
            hidden = math.floor(length * math.cos(math.pi / 2 * (step + 1) / steps))
            masked = max(1, min(masked - 1, hidden))
            wanted.append(length - masked)
        counts = known_counts("cosine", np.arange(1, steps + 1) / steps, length, hidden=True, double=True)
        assert counts.tolist() == [*wanted[:-1], length]


@pytest.mark.parametrize("schedule", ["arccos", "cosine", "cubic", "linear", "power_2.5", "root", "square"])
def test_the_loss_masks_the_fraction_that_samplers_hide(schedule: Any) -> None:
    mb = ModuleBuilder()
    b = mb.function("f")
    b.output(hidden_share(b, schedule, b.input("u", f32(B))))
    mb.entries["f"] = b.finish()
    u = np.linspace(0, 1, 9)
    (found,) = Interpreter(mb.finish()).run("f", u)
    assert np.abs(found - hidden_fraction(schedule, u)).max() < 1e-7


def test_schedules_that_depend_on_the_number_of_tokens() -> None:
    """MaskGIT's logarithmic and exponential ones."""
    progress = np.arange(1, 9) / 8
    for schedule, ratios in (("log", -np.log2(progress) / 4), ("exp", 1 - 16 ** (progress - 1))):
        masked, wanted = 16, []
        for ratio in ratios:
            masked = max(1, min(masked - 1, math.floor(16 * max(ratio, 1e-6))))
            wanted.append(16 - masked)
        counts = known_counts(schedule, progress, 16, hidden=True, double=True)  # type: ignore[arg-type]
        assert counts.tolist() == [*wanted[:-1], 16]


def test_an_encoder_that_is_not_given_masked_tokens_gets_the_loss_over_them() -> None:
    """The objective's loss is the smoothed cross-entropy of `forward_kept`'s logits, a mean over all masked tokens."""
    system = SYSTEMS["mage"]
    spec = load_spec(system.spec, overrides=list(system.sizes))
    lowered = lower(spec)
    rng = np.random.default_rng(0)
    (update,) = lowered.updates
    network = lowered.networks["main"]
    params = parameters(lowered.module, network.functions[0])
    own = random_weights(params, rng, 0.1)
    weights = own | {f"main.{name}": array for name, array in own.items()}  # of methods, and of the loss
    length, vocabulary = spec.data.tokens.length, spec.data.tokens.vocabulary
    tokens, u = rng.integers(0, vocabulary, (2, length)), np.array([0.55, 0.9], np.float32)
    rank = np.argsort(rng.random((2, length)))
    run = Interpreter(lowered.module, weights).run
    masked = rank < np.ceil(u * length)[:, None]
    seen = np.where(masked, network.methods["forward"].input("state").null, tokens)
    (logits,) = run("main.forward_kept", seen, rank)
    logits = logits[..., :vocabulary].astype(np.float64)
    p = logits - logits.max(-1, keepdims=True)
    p -= np.log(np.exp(p).sum(-1, keepdims=True))
    losses = 0.9 * -np.take_along_axis(p, tokens[..., None], -1)[..., 0] - 0.1 * p.mean(-1)
    found, *_ = run(update.loss, tokens, u, rank)
    assert found == pytest.approx((losses * masked).sum() / masked.sum(), rel=1e-5)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["backbone.splits=2"], "not a power of 2"),
        (["backbone.embedding={kind: bits}"], "cannot be written as bits"),
        (["backbone.embedding={labels: 3}"], "has 11 values"),
        (["backbone.embedding={labels: 20, blank: 20}"], "is out of range"),
        (["backbone.decoder={width: 16, depth: 1, heads: 3}"], "3 heads do not divide"),
        (["backbone.embedding={condition: last}", "backbone.decoder={width: 16, depth: 1, heads: 2}"], "in front"),
    ],
)
def test_what_does_not_fit_is_refused(overrides: list[str], message: str) -> None:
    block = (
        "{mixer: {kind: attention, heads: 2}, feed_forward: {kind: gelu_mlp}, norm: {kind: layer_norm, affine: true}"
    )
    block += ", condition: {kind: in_context}}"
    bert = f"backbone={{kind: bert, width: 16, depth: 1, block: {block}}}"
    with pytest.raises(DiagnosticError, match=message):
        load_spec("digits_maskgit", overrides=[bert, *overrides])
