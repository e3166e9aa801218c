"""What samplers of discrete tokens share: drawing, ranks, schedules, the Halton order; how many tokens are guided."""

from __future__ import annotations

import numpy as np
import pytest

from latentc.components.kit.tokens import draw, filtered, hidden_fraction, rank
from latentc.components.samplers.autoregressive import Autoregressive
from latentc.ir.builder import ModuleBuilder
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B, f32
from latentc.systems.maskgit.halton import halton_order


def test_draw_is_the_inverse_of_the_cumulative_distribution() -> None:
    mb = ModuleBuilder()
    b = mb.function("f")
    logits, u = b.input("logits", f32(B, 3, 4)), b.input("u", f32(B, 3))
    b.output(draw(b, filtered(b, logits, 2, 1.0), u))
    mb.entries["f"] = b.finish()
    p = np.array([0.1, 0.4, 0.3, 0.2])
    logits_ = np.broadcast_to(np.log(p), (2, 3, 4))
    u_ = np.array([[1e-6, 0.56, 0.58], [0.3, 0.99, 0.57]])
    (drawn,) = Interpreter(mb.finish()).run("f", logits_, u_)  # of 0.4 and 0.3 only: the first up to 4 / 7
    assert drawn.tolist() == [[1, 1, 2], [1, 2, 1]]


def test_rank_of_a_permutation_is_its_inverse() -> None:
    mb = ModuleBuilder()
    b = mb.function("f")
    b.output(rank(b, b.input("x", f32(B, 5))))
    mb.entries["f"] = b.finish()
    order = np.random.default_rng(0).permutation(5)
    (ranks,) = Interpreter(mb.finish()).run("f", order[None].astype(np.float32))
    assert ranks.tolist() == [order.tolist()]


def test_halton_order_of_4_by_4_is_the_authors() -> None:
    """The cells as Halton-MaskGIT lists them."""
    authors = [[2, 1], [1, 2], [3, 0], [0, 1], [2, 3], [1, 0], [3, 2], [0, 3]]
    authors += [[2, 0], [1, 1], [0, 0], [1, 3], [3, 1], [0, 2], [3, 3], [2, 2]]
    assert halton_order(4, 4).tolist() == [4 * row + column for row, column in authors]


@pytest.mark.parametrize("sides", [(1, 1), (3, 5), (16, 16), (24, 24)])
def test_halton_order_visits_every_cell_once(sides: tuple[int, int]) -> None:
    assert sorted(halton_order(*sides)) == list(range(sides[0] * sides[1]))


@pytest.mark.parametrize("schedule", ["arccos", "cosine", "linear", "root", "square"])
def test_schedules_hide_all_first_and_nothing_last(schedule: str) -> None:
    fractions = hidden_fraction(schedule, np.linspace(0, 1, 9))  # type: ignore[arg-type]
    assert fractions[0] == 1 and abs(fractions[-1]) < 1e-15 and np.all(np.diff(fractions) < 0)


@pytest.mark.parametrize("length", [1, 2, 16, 576])
def test_guidance_up_to_a_token_includes_it(length: int) -> None:
    """The fraction n / (length - 1) times (length - 1) is less than n for some n, in floating point."""
    for last in range(length):
        guidance = {"scale": 2.0, "interval": (0.0, last / max(length - 1, 1))}
        sampler = Autoregressive.model_validate({"kind": "autoregressive", "guidance": guidance})
        assert sampler.guided_tokens(length) == last + 1
