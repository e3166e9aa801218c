"""AutoNAT's settings: numbers per step in samplers of masked tokens, and masked fractions of a beta distribution."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from random_weights import weights_of

from latentc.components.samplers._masked import at_steps
from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec

SIZES = [
    *("data.tokens={vocabulary: 8, grid: [3, 4]}", "data.classes=3"),
    *(f"backbone.{size}" for size in ("width=16", "depth=3", "block.mixer.heads=2", "dropout=0")),
]


@pytest.mark.parametrize("kind", ["confidence", "halton"])
def test_hidden_fractions_may_be_listed(kind: str) -> None:
    sampler = f"sampler={{kind: {kind}, steps: 4, schedule: [0.9, 0.5, 0.26]}}"
    spec: Any = load_spec("maskgit_r", None, [*SIZES, "data.tokens.grid=[4, 4]", sampler])
    assert spec.sampler.counts(16).tolist() == [1, 8, 11, 16]
    assert spec.sampler.with_steps(8).counts(16).tolist()[1::2] == [2, 8, 11, 16]  # one at least in each step


def test_other_numbers_of_steps_take_numbers_between_those_listed() -> None:
    assert at_steps((1.0, 3.0), 3) == (1.0, 2.0, 3.0)
    assert at_steps((1.0, 0.5, 0.0), 5) == (1.0, 0.75, 0.5, 0.25, 0.0)
    spec: Any = load_spec("maskgit_r", "AutoNAT-L-T8", SIZES)
    for steps in (8, 5):
        sampler = spec.sampler.with_steps(steps)
        assert sampler.sharpness_of_steps().shape == sampler.guidance.weights([0.0] * steps).shape == (steps,)
        assert sampler.columns(12)["noise"].shape == (steps,)
    assert spec.sampler.with_steps(8) == spec.sampler


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("schedule=[0.5, 0.1]", "2 numbers, but there must be one for each step but the last: 7"),
        ("temperature=[1, 2]", "2 numbers, but there must be one for each step: 8"),
        ("guidance.schedule=[0.5]", "1 numbers, but there must be one for each step: 8"),
        ("final_temperature=2", "already gives one for each step"),
        ("kind=recap_confidence", "steps of one set share the values of the first"),
    ],
)
def test_lists_that_do_not_fit(change: str, message: str) -> None:
    with pytest.raises(DiagnosticError, match=message):
        load_spec("maskgit_r", "AutoNAT-L-T8", [*SIZES, f"sampler.{change}"])


def test_fractions_of_a_beta_distribution_are_rounded() -> None:
    lowered = lower(load_spec("maskgit_r", "AutoNAT-L-T8", [*SIZES, "objective.smoothing=0"]))
    (update,) = lowered.updates
    draw = update.draws[0]
    assert (draw.distribution, dict(draw.parameters)) == ("beta", {"a": 12.0, "b": 3.0})
    run, rng = Interpreter(lowered.module, weights_of(lowered, 0.4)).run, np.random.default_rng(1)
    tokens, y = rng.integers(0, 8, (2, 12)), np.array([1, 2])
    rank = np.stack([rng.permutation(12) for _ in range(2)])
    u = np.array([0.62, 0.01])  # 7.44 of 12 tokens are 7, and one at least is masked
    given = {"tokens": tokens, "y": y, "u": u, "rank": rank, "class_drop": np.ones(2)}
    names = [value.name for value in lowered.module.entry("loss.terms").inputs]
    loss = run("loss", *(given.get(name, np.ones(2)) for name in names))[0]
    masked = rank < np.array([[7], [1]])
    (logits,) = run("main.forward", np.where(masked, 8, tokens), y, prefix="main")
    log_p = logits[..., :8] - np.log(np.exp(logits[..., :8]).sum(-1, keepdims=True))
    wanted = -np.take_along_axis(log_p, tokens[..., None], -1)[..., 0]
    np.testing.assert_allclose(loss, wanted[masked].mean(), rtol=1e-6)
