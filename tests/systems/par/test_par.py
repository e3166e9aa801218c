"""PAR beyond what was recorded: its reading of a grid, the sampler against the whole sequence, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from random_weights import weights_of

from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.systems.par.region_transformer import reading

TINY = [
    *("backbone.width=16", "backbone.depth=2", "backbone.block.mixer.heads=2"),
    "data={kind: npz, path: train.npz, classes: 3, tokens: {vocabulary: 11, grid: [6, 6]}}",
]


def test_a_place_is_the_same_in_all_regions() -> None:
    """Worked out for regions of 2 by 2: first the corners of the regions, then the cells to their right."""
    assert reading(2, 4)[:8] == (0, 2, 8, 10, 1, 3, 9, 11)
    assert sorted(reading(3, 6)) == list(range(36))


@pytest.mark.parametrize("regions", [2, 3])
def test_tokens_drawn_are_those_of_the_whole_sequence(regions: int) -> None:
    """Each token drawn at temperature 0 is the likeliest of `forward`, under guidance."""
    sampler = "sampler={kind: place_by_place, temperature: 0, guidance: {scale: 3}}"
    lowered = lower(load_spec("digits_par", None, [*TINY, sampler, f"backbone.regions={regions}"]))
    weights, y = weights_of(lowered, 0.5, 3), np.array([0, 2])
    (program,) = lowered.programs
    given = {"y": y, "scale": np.full(2, 3.0, np.float32)}
    inputs = [given[v.name] for v in lowered.module.functions[program.entry].inputs]
    oracle = Interpreter(lowered.module, weights)
    (tokens,) = oracle.run(program.entry, *inputs)
    ordered = np.asarray(tokens)[:, list(reading(regions, 6))]
    forward = lowered.networks["main"].methods["forward"].function
    with_class, without = (
        np.asarray(oracle.run(forward, ordered[:, :-1], label, prefix="main")[0]) for label in (y, np.full(2, 3))
    )
    assert ((without + 3 * (with_class - without)).argmax(-1) == ordered).all()
    assert program.evaluations == regions**2 + 36 // regions**2 - 1 and len(np.unique(ordered)) > 2


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["backbone.block.mixer.causal=true"], "the mixer cannot be causal"),
        (["backbone.block.mixer.heads=8"], "must be divisible by 4"),
        (["backbone.regions=4"], "4 regions along a side of 6 tokens do not have two or more whole rows each"),
        (["backbone.regions=6"], "6 regions along a side of 6 tokens"),
        (["data.tokens.grid=[9, 4]"], "needs a square grid of tokens, not 9 by 4"),
        (["conditioning.class=null", "sampler.guidance=null"], "begins with one condition"),
        (["sampler.guidance.interval=[0, 0.5]"], "guides all tokens or none"),
        (["sampler={kind: autoregressive}"], "predicts each token from those before it"),
    ],
)
def test_refusals(overrides: list[str], said: str) -> None:
    with pytest.raises(DiagnosticError, match=said):
        load_spec("digits_par", None, [*TINY, *overrides])
