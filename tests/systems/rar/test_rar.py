"""RAR beyond what was recorded: orders given way to raster order, caches against the whole sequence, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from random_weights import weights_of

from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec

TINY = [
    "backbone.width=16",
    "backbone.depth=2",
    "backbone.block.mixer.heads=2",
    "data={kind: npz, path: train.npz, classes: 3, tokens: {vocabulary: 11, grid: [3, 3]}}",
]


def own(weights: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix("main."): a for name, a in weights.items()}


def test_orders_are_random_with_a_probability_that_falls_in_training() -> None:
    """Samples of u below 1, 0.75 and 0 are in random order; losses are those of the logits of `permuted`."""
    lowered = lower(load_spec("digits_rar", None, [*TINY, "objective.annealing=[4, 8]"]))
    weights, rng = weights_of(lowered, 0.3), np.random.default_rng(1)
    run = Interpreter(lowered.module, weights).run
    tokens, y = rng.integers(0, 11, (4, 9)), np.array([0, 1, 2, 0])
    permutation = np.stack([rng.permutation(9) for _ in range(4)])
    u, keep = np.array([0.1, 0.7, 0.8, 0.999], np.float32), np.ones(4, np.float32)
    for step, random in ((0, 4), (4, 4), (5, 2), (7, 1), (8, 0), (20, 0)):
        order = np.where((np.arange(4) < random)[:, None], permutation, np.arange(9))
        ordered = np.take_along_axis(tokens, order, 1)
        (logits,) = Interpreter(lowered.module, own(weights)).run("main.permuted", ordered[:, :-1], order, y)
        p = np.exp(logits - logits.max(-1, keepdims=True))
        p = np.take_along_axis(p / p.sum(-1, keepdims=True), ordered[..., None], -1)[..., 0]
        given = {"tokens": tokens, "y": y, "drop": keep, "permutation": permutation, "u": u}
        given["training_step"] = np.int64(step)
        inputs = [given[v.name] for v in lowered.module.functions["loss.terms"].inputs]
        (loss,) = run("loss.terms", *inputs)
        assert np.allclose(loss, -np.log(p).mean(1), atol=1e-5), step


def test_tokens_one_by_one_are_those_of_the_whole_sequence() -> None:
    """Greedy tokens under growing guidance are the likeliest of `forward`, guided by the formula of the paper."""
    sampler = (
        "sampler={kind: scheduled_autoregressive, temperature: 0, guidance: {scale: 5, schedule: cosine, power: 2}}"
    )
    lowered = lower(load_spec("digits_rar", None, [*TINY, sampler]))
    weights = weights_of(lowered, 0.3, 2)
    y, scale = np.array([0, 2]), np.full(2, 5.0, np.float32)
    (tokens,) = Interpreter(lowered.module, weights).run("sample.9", y, scale)
    forward = Interpreter(lowered.module, own(weights)).run
    (given,), (without,) = (forward("main.forward", tokens[:, :-1], c) for c in (y, np.full(2, 3)))
    s = 1 + (5 - 1) * (1 - np.cos(np.pi * (np.arange(9) / 9) ** 2)) / 2
    guided = without + s[:, None] * (given - without)
    assert (guided.argmax(-1) == tokens).all()
    assert (given.argmax(-1) != tokens).any()  # so guidance makes a difference


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["objective.annealing=[8, 8]"], "the probability falls from step 8 to step 8"),
        (["backbone.block.condition={kind: in_context}"], "conditioned on a vector for each token"),
        (["backbone.block.mixer.causal=false"], "must be causal"),
        (["conditioning.class.encoding=one_hot"], "takes one class, as an index"),
        (["objective={kind: next_token}", "data.tokens=null", "data.shape=[1, 3, 3]"], "takes tokens"),
    ],
)
def test_refusals(overrides: list[str], said: str) -> None:
    with pytest.raises(DiagnosticError, match=said):
        load_spec("digits_rar", None, [*TINY, *overrides])
