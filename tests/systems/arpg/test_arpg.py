"""ARPG beyond what was recorded: sizes of groups, groups against the whole sequence, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from random_weights import weights_of

from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.systems.arpg.randomized_decoding import group_sizes

TINY = [
    "backbone.width=16",
    "backbone.depth=2",
    "backbone.query_depth=1",
    "backbone.block.mixer.heads=2",
    "data={kind: npz, path: train.npz, classes: 3, tokens: {vocabulary: 11, grid: [3, 3]}}",
]


def test_groups_end_where_the_authors_schedules_say() -> None:
    """`generate`, worked out by hand for 16 tokens in 6 steps: left are 14, 12, 10, 8, 5 by arccos, and 15, 13, 11, 8,
    4 by a cosine. As many steps as tokens draw one each.
    """
    assert group_sizes(6, 16, "arccos") == (2, 2, 2, 2, 3, 5)
    assert group_sizes(6, 16, "cosine") == (1, 2, 2, 3, 4, 4)
    for schedule in ("arccos", "cosine"):
        assert group_sizes(64, 64, schedule) == (1,) * 64
        assert sum(group_sizes(64, 256, schedule)) == 256


@pytest.mark.parametrize("more", [[], ["backbone.block.mixer.kv_heads=1"], ["backbone.learned_positions=false"]])
def test_tokens_one_by_one_are_those_of_the_whole_sequence(more: list[str]) -> None:
    """Greedy tokens through the caches are the likeliest of `permuted`, guided by the share drawn with them."""
    sampler = "sampler={kind: randomized_decoding, steps: 9, temperature: 0, guidance: {scale: 3, schedule: linear}}"
    lowered = lower(load_spec("digits_arpg", None, [*TINY, sampler, *more]))
    weights, rng = weights_of(lowered, 0.5, 3), np.random.default_rng(4)
    order, y, scale = np.stack([rng.permutation(9) for _ in range(2)]), np.array([0, 2]), np.full(2, 3.0, np.float32)
    (program,) = lowered.programs
    given = {"y": y, "scale": scale, "order": order}
    inputs = [given[v.name] for v in lowered.module.functions[program.entry].inputs]
    (tokens,) = Interpreter(lowered.module, weights).run(program.entry, *inputs)
    ordered = np.take_along_axis(tokens, order, 1)
    own = {name.removeprefix("main."): a for name, a in weights.items()}
    run = Interpreter(lowered.module, own).run
    (with_class,), (without,) = (run("main.permuted", ordered[:, :-1], order, c) for c in (y, np.full(2, 3)))
    s = 1 + (3 - 1) * (np.arange(9) + 1) / 9
    guided = without + s[:, None] * (with_class - without)
    assert (guided.argmax(-1) == ordered).all()
    assert (with_class.argmax(-1) != ordered).any()  # so guidance makes a difference


def test_tokens_of_a_group_do_not_depend_on_each_other() -> None:
    """Logits of a position do not change with the others that are asked for beside it; these differ."""
    more = ["sampler={kind: randomized_decoding, steps: 3}", "backbone.learned_positions=false"]
    lowered = lower(load_spec("digits_arpg", None, [*TINY, *more]))
    weights = {name.removeprefix("main."): a for name, a in weights_of(lowered, 0.5, 5).items()}
    run, (known, count, _) = Interpreter(lowered.module, weights).run, group_sizes(3, 9, "arccos")
    places, y = np.arange(known)[None], np.array([1])
    logits, *caches = run("main.group_0", places, y)
    assert np.ptp(logits, axis=0).max() == 0  # of one key, the condition's, the softmax is 1 wherever the query is
    asked = np.arange(known, known + count)[None]
    other = np.concatenate([asked[:, :1], 8 - np.arange(count - 1)[None]], axis=1)
    first, second = (run("main.group_1", places, places, at, *caches)[0] for at in (asked, other))
    assert np.allclose(first[0], second[0], atol=1e-6)
    assert np.abs(first[1:] - second[1:]).max() > 1e-3


def test_learned_positions_tell_the_first_tokens_their_places() -> None:
    """Rotary positions are relative to tokens that are known: without any, only a learned vector says which token of
    the image is asked for. All positions have one, in the order of the grid.
    """
    lowered = lower(load_spec("digits_arpg", None, [*TINY, "sampler={kind: randomized_decoding, steps: 3}"]))
    weights = {name.removeprefix("main."): a for name, a in weights_of(lowered, 0.5, 5).items()}
    assert weights["pos_embed.weight"].shape == (9, 16)
    run, known = Interpreter(lowered.module, weights).run, group_sizes(3, 9, "arccos")[0]
    places = np.arange(known)[None] + 2
    logits = run("main.group_0", places, np.array([1]))[0]
    assert np.abs(np.diff(logits, axis=0)).max() > 1e-3
    moved = {**weights, "pos_embed.weight": np.roll(weights["pos_embed.weight"], 1, axis=0)}
    again = Interpreter(lowered.module, moved).run("main.group_0", places + 1, np.array([1]))[0]
    assert np.allclose(again, logits, atol=1e-6)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["backbone.block.mixer={kind: attention, heads: 2}"], "positions per sample, which `attention` does not take"),
        (["backbone.block.mixer.qk_norm={kind: rms_norm}"], "blocks of queries of a two_pass_transformer share"),
        (["sampler.steps=10"], "10 groups of 9 tokens"),
        (["data.tokens.grid=[9, 1]"], "a two_pass_transformer needs a square grid of tokens, not 9 by 1"),
        (["backbone.block.mixer.causal=true", "sampler.steps=4"], "cannot be causal"),
    ],
)
def test_refusals(overrides: list[str], said: str) -> None:
    with pytest.raises(DiagnosticError, match=said):
        lower(load_spec("digits_arpg", None, [*TINY, *overrides]))
