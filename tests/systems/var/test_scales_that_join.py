"""Scales of VAR that join in training, as the authors' loop counts them."""

from __future__ import annotations

import numpy as np
import pytest
from random_weights import random_weights
from tiny_systems import SYSTEMS

from latentc.checkpoint import network_params
from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.systems.var.next_scale_objective import Progression

VAR = SYSTEMS["var"]
PROGRESSIVE = "objective.progressive={first: 0, start: 3, stop: 17, warmup: 4}"


def weights_of_authors(step: int, first: int, start: int, stop: int, warmup: int, scales: int) -> list[float]:
    """Weights of the scales, by counting the steps of each stage from the beginning."""
    before, count = -1, 0
    for at in range(step + 1):
        part = min(max((at - start) / (stop - start), 0), 1)
        stage = first if at <= start else scales - 1 if at >= stop else first + round(part * (scales - 1 - first))
        beginning = before in (-1, first) and stage == first
        before, count = stage, count + 1 if stage == before else 1
    weight = 1.0 if beginning or stage == scales - 1 else max(min(count / warmup, 1), 0.01)
    return [1.0] * stage + [weight] + [0.0] * (scales - 1 - stage)


@pytest.mark.parametrize("first", [0, 2])
def test_steps_at_which_scales_join(first: int) -> None:
    settings = {"first": first, "start": 5, "stop": 40, "warmup": 3}
    joins = Progression(**settings).joins(6)
    for step in range(45):
        wanted = weights_of_authors(step, scales=6, **settings)
        assert [weight > 0 for weight in wanted] == [step >= joined for joined in joins]


@pytest.mark.parametrize(("step", "smoothing"), [(0, 0.0), (6, 0.0), (7, 0.1), (10, 0.0), (11, 0.3), (20, 0.0)])
def test_the_loss_counts_the_scales_that_have_joined(step: int, smoothing: float) -> None:
    settings = [PROGRESSIVE, f"objective.smoothing={smoothing}"]
    lowered = lower(load_spec(VAR.spec, VAR.variant, [*VAR.sizes, *settings]))
    rng, weights = np.random.default_rng(0), {}
    for net, network in lowered.networks.items():
        own = random_weights(network_params(lowered, network), rng, 0.3)
        weights |= own | {f"{net}.{name}": array for name, array in own.items()}
    oracle = Interpreter(lowered.module, weights)
    tokens, y = rng.integers(0, 16, (2, 14)), np.array([0, 2])
    given = {"tokens": tokens, "y": y, "y_uniform": np.ones(2), "training_step": np.int64(step)}
    names = [value.name for value in oracle.module.entry("loss").inputs]
    draws = [name for name in names if name not in given]
    (found,) = oracle.run("loss", *(given.get(name, np.ones(2)) for name in names))
    assert len(draws) <= 1  # the dropout of the class, which 1 never drops
    (inputs,) = oracle.run("quantizer.scale_inputs", tokens)
    (logits,) = oracle.run("main.forward", inputs, y)
    p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    losses = -np.take_along_axis(p, tokens[..., None], -1)[..., 0]
    losses = (1 - smoothing) * losses - smoothing * p.mean(-1)
    of_scales = weights_of_authors(step, 0, 3, 17, 4, 3)
    assert found == pytest.approx((losses * np.repeat(of_scales, [1, 4, 9])).mean())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("{first: 2, stop: 9}", "with 3 scales, none is left to join after scale 2"),
        ("{first: 0, start: 9, stop: 9}", "training from step"),
    ],
)
def test_what_does_not_fit_is_refused(settings: str, message: str) -> None:
    with pytest.raises(DiagnosticError, match=message):
        load_spec(VAR.spec, VAR.variant, [*VAR.sizes, f"objective.progressive={settings}"])
