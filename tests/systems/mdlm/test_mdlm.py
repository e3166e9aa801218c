"""Masked diffusion of tokens: its times and draws, and the parts that do not go together."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_systems import SYSTEMS

from latentc.diagnostics import DiagnosticError
from latentc.ir.builder import ModuleBuilder, f32
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.systems.mdlm.ancestral_unmasking import draw_or_mask
from latentc.systems.mdlm.masked_diffusion_tokens import MaskedDiffusionLoss

SIZES = SYSTEMS["mdlm"].sizes


def test_times_are_spread_over_the_batch():
    mb = ModuleBuilder()
    b = mb.function("spread")
    b.output(MaskedDiffusionLoss(kind="masked_diffusion_tokens").spread(b, b.input("u", f32(B))))
    mb.entries["spread"] = b.finish("Uniform numbers, one in each part of the interval.")
    u = np.array([0.9, 0.25, 0.5, 0.0])
    (spread,) = Interpreter(mb.finish(), {}).run("spread", u)
    np.testing.assert_allclose(spread, (u / 4 + np.arange(4) / 4) % 1, rtol=1e-12)


def test_tokens_are_drawn_or_stay_masked():
    logits = np.log(np.array([0.5, 0.25, 0.25]))
    u = np.array([[0.05, 0.19, 0.25, 0.35, 0.45, 0.99]])
    mb = ModuleBuilder()
    b = mb.function("drawn")
    given = (b.input("logits", f32(B, 6, 3)), b.input("u", f32(B, 6)), b.input("chance", f32()))
    b.output(draw_or_mask(b, *given))
    mb.entries["drawn"] = b.finish("Tokens, or the mask.")
    run = Interpreter(mb.finish(), {}).run
    inputs = np.broadcast_to(logits, (1, 6, 3)), u
    (some,) = run("drawn", *inputs, np.array(0.4))
    assert some.tolist() == [[0, 0, 1, 2, 3, 3]]  # cumulative 0.2, 0.3, 0.4, then the mask
    (every,) = run("drawn", *inputs, np.array(1.0))
    assert every.tolist() == [[0, 0, 0, 0, 0, 2]]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("backbone.block.mixer.causal=true", "must not be causal"),
        ("objective.most=0", "no token is ever masked"),
        (("objective.most=1", "backbone.time=noise"), "infinite at time 1"),
        ("data.fields.tokens_mask={shape: [5], dtype: bool}", "but samples have 64 tokens"),
        ("sampler.guidance.channels=3", "does not apply to tokens"),
        ("backbone.block.mixer.heads=3", "do not divide"),
        ("objective={kind: masked_token}", "predicts masked tokens from the others"),
    ],
)
def test_contradictions_are_refused(override, message):
    overrides = [override] if isinstance(override, str) else override
    with pytest.raises(DiagnosticError, match=message):
        lower(load_spec("mdlm", overrides=[*SIZES, *overrides]))
