"""Score entropy of a uniform chain against the sum over states that it stands for, and contradictions."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_systems import SYSTEMS

from latentc.diagnostics import DiagnosticError
from latentc.ir.builder import ModuleBuilder, f32, i64
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.systems.sedd.score_entropy import ScoreEntropyLoss


def test_score_entropy_of_a_uniform_chain():
    """sum over y != x_t of (s(y) - r(y) log s(y) + r(y) (log r(y) - 1)) / S, r(y) = p(y | x_0) / p(x_t | x_0)."""
    rng, states, sigma = np.random.default_rng(0), 5, np.array([0.3, 1.7])
    seen, tokens = np.array([[0, 1, 2, 4], [3, 3, 0, 1]]), np.array([[0, 2, 2, 1], [3, 0, 4, 1]])
    log_score = rng.normal(size=(2, 4, states))
    np.put_along_axis(log_score, seen[..., None], 0.0, -1)
    p = (1 - np.exp(-sigma))[:, None, None] / states + np.exp(-sigma)[:, None, None] * np.eye(states)[tokens]
    ratio = p / np.take_along_axis(p, seen[..., None], -1)
    terms = np.exp(log_score) - ratio * log_score + ratio * (np.log(ratio) - 1)
    expected = (terms * (np.arange(states) != seen[..., None])).sum(-1) / states
    mb = ModuleBuilder()
    b = mb.function("entropy")
    given = b.input("score", f32(B, 4, states)), b.input("seen", i64(B, 4)), b.input("tokens", i64(B, 4))
    loss = ScoreEntropyLoss(kind="score_entropy", graph="uniform")
    b.output(loss._uniform(b, *given, b.input("growth", f32(B, 1)), states))
    mb.entries["entropy"] = b.finish("Score entropy.")
    run = Interpreter(mb.finish(), {}, "f64").run
    (found,) = run("entropy", log_score, seen, tokens, np.expm1(sigma)[:, None])
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("objective.sigma_min=30", "is not below"),
        ("sampler.guidance.channels=3", "does not apply to tokens"),
        ("objective={kind: masked_diffusion_tokens}", "predicts masked tokens from the others"),
    ],
)
def test_contradictions_are_refused(override, message):
    with pytest.raises(DiagnosticError, match=message):
        lower(load_spec("sedd", overrides=[*SYSTEMS["sedd"].sizes, override]))
