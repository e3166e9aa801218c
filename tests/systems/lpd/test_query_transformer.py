"""LPD: sizes of groups, locality-aware orders, and groups decoded one by one against all of them at once."""

from __future__ import annotations

import itertools

import numpy as np
from random_weights import weights_of

from latentc.ir.builder import ModuleBuilder
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B, i64
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.systems.lpd.orders import group_mask, group_numbers, group_sizes, local_order

# orders/group_sizes_lookup.json of the authors
PUBLISHED = {
    (20, 256): [1, 2, 4, 5, 7, 8, 10, 11, 12, 14, 15, 16, 17, 18, 18, 19, 19, 20, 20, 20],
    (48, 1024): [*range(1, 24), 23, 24, 25, 26, 26, 27, 28, 28, 29, 29, 30, 30, 31, 31, 32, 32, 32, *[33] * 7, 34],
    # by no rule that is known
    (128, 256): [*[1] * 41, *[2] * 46, *[3] * 41],
    (32, 256): [1, 1, 2, 2, 3, 3, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 10, *[11] * 4, *[12] * 8],
    (24, 256): [*range(1, 12), 11, 12, 13, 14, 14, 14, 15, 15, 16, 16, 16, 17, 17],
    (16, 256): [1, 4, 6, 8, 11, 13, 15, 17, 19, 20, 22, 23, 24, 24, 24, 25],
    (8, 256): [1, 15, 24, 32, 40, 45, 49, 50],
}


def test_sizes_of_groups_are_the_published_ones() -> None:
    for (steps, length), sizes in PUBLISHED.items():
        assert list(group_sizes(steps, length)) == sizes, steps
    assert list(group_sizes(512, 1024)) == [*[1] * 162, *[2] * 188, *[3] * 162]
    assert group_sizes(192, 1024)[-2:] == (8, 10) and group_sizes(40, 1024)[-6:] == (39, 39, 40, 40, 40, 40)
    assert all(sum(group_sizes(steps, 250)) == 250 for steps in (128, 64, 32, 24, 16, 12, 8))
    assert group_sizes(16, 16) == (1,) * 16


def test_an_order_follows_the_schedule() -> None:
    """Each group as the paper's algorithm chooses it, from the cells known before; ties are free."""
    side, proximity, repulsion = 8, 1.0, 1.0
    sizes = group_sizes(10, 64)
    order = local_order(sizes, side, proximity, repulsion, np.random.default_rng(3))
    assert sorted(order) == list(range(64))
    place = [divmod(cell, side) for cell in order]
    starts = np.cumsum([0, *sizes])

    def apart(a: tuple[int, int], b: tuple[int, int]) -> int:
        return max(abs(a[0] - b[0]), abs(a[1] - b[1]))

    def score(cell: tuple[int, int], known: list[tuple[int, int]]) -> float:
        return sum(1 / float(np.hypot(cell[0] - k[0], cell[1] - k[1])) for k in known if apart(cell, k) == 1)

    for start, stop in itertools.pairwise(starts[1:]):
        known, group = place[:start], place[start:stop]
        left = [divmod(c, side) for c in range(64) if divmod(c, side) not in known]
        chosen: list[tuple[int, int]] = []
        for cell in group:
            free = [c for c in left if c not in chosen]
            near = [c for c in free if score(c, known) >= proximity and all(apart(c, o) > repulsion for o in chosen)]
            if near:  # the one of the greatest proximity
                assert cell in near and score(cell, known) >= max(score(c, known) for c in near) - 1e-9
            elif chosen:  # the one farthest from the group
                far = [min(float(np.hypot(c[0] - o[0], c[1] - o[1])) for o in chosen) for c in free]
                own = min(float(np.hypot(cell[0] - o[0], cell[1] - o[1])) for o in chosen)
                assert abs(own - max(far)) < 1e-9
            chosen.append(cell)


def test_an_order_is_the_one_of_the_authors_code() -> None:
    """Orders of a 5 by 5 grid that their code made of the same random numbers."""
    found = local_order((1, 1, 2, 3, 5, 6, 7), 5, 1.0, 2.0, np.random.default_rng(7))
    assert found == (17, 22, 23, 0, 18, 5, 4, 13, 10, 2, 21, 24, 16, 19, 1, 8, 12, 20, 6, 14, 11, 7, 15, 3, 9)
    found = local_order((1, 4, 9, 11), 5, 3.0, 1.0, np.random.default_rng(7))
    assert found == (17, 0, 24, 20, 4, 9, 15, 23, 1, 12, 21, 3, 5, 19, 16, 18, 8, 6, 7, 10, 2, 14, 13, 11, 22)


def test_groups_one_by_one_are_as_all_at_once() -> None:
    """Greedy tokens are the likeliest of `forward` under the mask of training."""
    sizes = ["data={kind: npz, classes: 3, tokens: {vocabulary: 11, grid: [4, 4]}}", "backbone.width=16"]
    sizes += ["backbone.depth=2", "backbone.block.mixer.heads=2", "objective.groups=[[1, 3, 5, 7]]"]
    sizes += ["sampler={kind: parallel_decoding, groups: [1, 3, 5, 7], order: random, temperature: 0}"]
    spec = load_spec("lpd", None, sizes)
    lowered = lower(spec)
    rng = np.random.default_rng(0)
    weights = weights_of(lowered, 0.5, rng)
    y, order = np.array([0, 2]), np.stack([rng.permutation(16) for _ in range(2)])
    (tokens,) = Interpreter(lowered.module, weights).run(lowered.programs[0].entry, y, order)

    mb = ModuleBuilder()
    b = mb.function("mask")
    b.output(group_mask(b, b.input("group", i64(B, 16)), 16))
    mb.entries["mask"] = b.finish()
    group = np.broadcast_to(group_numbers((1, 3, 5, 7)), (2, 16))
    (mask,) = Interpreter(mb.finish(), {}).run("mask", group)
    own = {name.removeprefix("main."): a for name, a in weights.items()}
    (logits,) = Interpreter(lowered.module, own).run("main.forward", tokens, order, mask, y)
    assert (logits.argmax(-1) == np.take_along_axis(tokens, order, 1)).all()
