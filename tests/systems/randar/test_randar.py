"""RandAR beyond what was recorded: sizes of groups, single tokens against the whole sequence, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from random_weights import weights_of

from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.systems.randar.instructed_decoding import group_sizes

TINY = [
    "backbone.width=16",
    "backbone.depth=2",
    "backbone.block.mixer.heads=2",
    "data={kind: npz, path: train.npz, classes: 3, tokens: {vocabulary: 11, grid: [3, 3]}}",
]


def test_groups_end_where_the_authors_formula_says() -> None:
    """`calculate_num_query_tokens_for_parallel_decoding`, worked out for 16 tokens in 7 steps; 256 tokens in 88."""
    assert group_sizes(7, 16) == (1, 1, 2, 3, 3, 3, 3)
    assert sum(group_sizes(88, 256)) == 256 and len(group_sizes(88, 256)) <= 88 and max(group_sizes(88, 256)) == 5
    assert group_sizes(9, 9)[:2] == (1, 1)


def test_single_tokens_are_those_of_the_whole_sequence() -> None:
    """With as many groups as their sizes allow, the tokens drawn alone are the likeliest of `permuted`."""
    sampler = "sampler={kind: instructed_decoding, steps: 3, temperature: 0, guidance: {scale: 3, schedule: linear}}"
    lowered = lower(load_spec("digits_randar", None, [*TINY, sampler]))
    weights, rng = weights_of(lowered, 0.5, 3), np.random.default_rng(4)
    sizes = group_sizes(3, 9)
    order, y, scale = np.stack([rng.permutation(9) for _ in range(2)]), np.array([0, 2]), np.full(2, 3.0, np.float32)
    (program,) = lowered.programs
    given = {"y": y, "scale": scale, "order": order}
    inputs = [given[v.name] for v in lowered.module.functions[program.entry].inputs]
    (tokens,) = Interpreter(lowered.module, weights).run(program.entry, *inputs)
    ordered = np.take_along_axis(tokens, order, 1)
    own = {name.removeprefix("main."): a for name, a in weights.items()}
    run = Interpreter(lowered.module, own).run
    (with_class,) = run("main.permuted", ordered[:, :-1], order, y)
    (without,) = run("main.permuted", ordered[:, :-1], order, np.full(2, 3))
    starts = np.cumsum([0, *sizes[:-1]])
    for start in starts:  # the first token of a group sees no other instruction of it
        s = 1 + (3 - 1) * start / 9
        guided = without[:, start] + s * (with_class[:, start] - without[:, start])
        assert (guided.argmax(-1) == ordered[:, start]).all(), start
    assert len(starts) < 9


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["backbone.block.mixer={kind: attention, heads: 2}"], "positions per sample, which `attention` does not take"),
        (["backbone.block.mixer.heads=8"], "must be divisible by 4"),
        (["sampler.steps=10"], "10 groups of 9 tokens"),
        (["data.tokens.grid=[9, 1]"], "needs a square grid of tokens, not 9 by 1"),
        (["conditioning.class=null", "sampler.guidance=null"], "begins with one condition"),
    ],
)
def test_refusals(overrides: list[str], said: str) -> None:
    with pytest.raises(DiagnosticError, match=said):
        load_spec("digits_randar", None, [*TINY, *overrides])
