"""Samples with a high reward by a tree of shared beginnings of the noise: diffusion tree sampling and search.

A stochastic sampler turns noise into a sample: the first state, then noise for each step. Samples that share the noise
of the first steps share the state there. A node of the tree is such a beginning, a leaf a whole sample with its reward.
Symbols: n trees (one per asked sample), N steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from latentc_runtime.distributions import draw
from latentc_runtime.errors import BundleError
from latentc_runtime.manifest import ProgramEntry
from latentc_runtime.pipeline import Pipeline
from latentc_runtime.sources import Input, RandomSource

Array = NDArray[Any]
Reward = Callable[[Array, "Array | None"], ArrayLike]
"""Rewards f64[n] of samples [n, ...] of these classes (None if there are none)."""


@dataclass(frozen=True)
class Found:
    """samples [n, ...] and their rewards f64[n]; `history` f64[R, n] has the reward of every sample that was drawn."""

    samples: Array
    rewards: NDArray[np.float64]
    history: NDArray[np.float64]


@dataclass
class _Node:
    """A beginning of the noise; `seed` is that of its last part. `value`: the soft value of the rewards below it."""

    seed: int = 0
    children: list[_Node] = field(default_factory=list)
    visits: int = 0
    value: float = 0.0
    sample: Array | None = None


def search(
    pipe: Pipeline,
    reward: Reward,
    classes: ArrayLike | Sequence[int | str] | None = None,
    *,
    rollouts: int = 32,
    levels: int = 4,
    sharpness: float = 1.0,
    greedy: bool = False,
    widening: tuple[float, float] = (1.0, 0.6),
    exploration: float = 1.0,
    seed: int = 0,
    count: int | None = None,
    settings: Mapping[str, ArrayLike] | None = None,
    steps: int | None = None,
    batch: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Found:
    """Samples from the density p(x) exp(sharpness reward(x)), or with `greedy` those of the highest reward.

    Diffusion tree sampling and search (DTS and DTS*, Jain et al. 2025, arXiv:2506.20701) in noise: each of `rollouts`
    rounds draws one sample per tree. It descends `levels` nodes, to a child drawn by exp(sharpness value) (greedy: the
    one of the greatest upper confidence bound, weighted by `exploration`), or to a new one while a node with v visits
    has fewer than C v^a children, (C, a) = `widening`. Rewards are propagated by soft maxima. With 1 level it is
    best-of-N. Whole samplers are run, so that a rollout costs as much as a sample. `settings` are those of
    `Pipeline.sample`; `progress` gets the numbers of finished and of all rounds. Raises BundleError E0607 to E0609.
    """
    entry = pipe.program(None, steps)
    parts = _parts(entry, levels)
    if rollouts < 1 or not sharpness > 0:
        message = f"the search has {rollouts} rollouts and a sharpness of {sharpness:g}"
        raise BundleError("E0608", message, "use at least one rollout, and a sharpness above 0")
    known = None if classes is None else np.atleast_1d(np.asarray(classes))
    trees = len(known) if known is not None else count or 1
    roots = [_Node() for _ in range(trees)]
    fresh = _Seeds(seed)
    rng = np.random.default_rng([seed, trees])
    history = np.zeros((rollouts, trees))
    for turn in range(rollouts):
        paths = [_descend(root, len(parts), sharpness, greedy, widening, exploration, fresh, rng) for root in roots]
        noise = _noise(entry, parts, [[node.seed for node in path[1:]] for path in paths])
        given: dict[str, Any] = {"noise": noise, "settings": settings, "steps": steps, "batch": batch}
        samples = pipe.sample(known, **given) if known is not None else pipe.sample(count=trees, **given)
        rewards = np.asarray(reward(samples, known), np.float64)
        if rewards.shape != (trees,) or not np.isfinite(rewards).all():
            message = f"the reward of {trees} samples is {rewards.dtype}{list(rewards.shape)}"
            raise BundleError("E0608", message, "return one finite number per sample")
        history[turn] = rewards
        for path, value, sample in zip(paths, rewards, samples, strict=True):
            path[-1].value, path[-1].sample = float(value), sample
            _back_up(path, sharpness)
        if progress is not None:
            progress(turn + 1, rollouts)
    chosen = [_best(root) if greedy else _drawn(root, sharpness, rng) for root in roots]
    made = [leaf.sample for leaf in chosen if leaf.sample is not None]
    return Found(np.stack(made), np.array([leaf.value for leaf in chosen]), history)


# ---- the tree


@dataclass
class _Seeds:
    """Seeds that no node has had."""

    first: int
    used: int = 0

    def __call__(self) -> int:
        self.used += 1
        return ((self.first << 32) + self.used) % (1 << 64)


def _descend(
    root: _Node,
    depth: int,
    sharpness: float,
    greedy: bool,
    widening: tuple[float, float],
    exploration: float,
    fresh: _Seeds,
    rng: np.random.Generator,
) -> list[_Node]:
    """The nodes from the root to a leaf; below a new node all are new. No leaf is met twice."""
    path = [root]
    for level in range(depth):
        node = path[-1]
        wanted = widening[0] * max(node.visits, 1) ** widening[1]
        open_children = node.children if level < depth - 1 else []
        if not open_children or len(node.children) < wanted:
            child = _Node(fresh())
            node.children.append(child)
        elif greedy:
            bonus = exploration * math.sqrt(math.log(max(node.visits, 2)))
            child = max(open_children, key=lambda c: c.value + bonus / math.sqrt(max(c.visits, 1)))
        else:
            child = open_children[int(rng.choice(len(open_children), p=_shares(open_children, sharpness)))]
        path.append(child)
    return path


def _shares(nodes: Sequence[_Node], sharpness: float) -> NDArray[np.float64]:
    """Probabilities proportional to exp(sharpness value)."""
    logits = sharpness * np.array([node.value for node in nodes])
    weights = np.exp(logits - logits.max())
    return np.asarray(weights / weights.sum())


def _back_up(path: Sequence[_Node], sharpness: float) -> None:
    """The soft values of a path: 1 / sharpness times the log of the mean of exp(sharpness value) of the children."""
    for node in reversed(path):
        node.visits += 1
        if node.children:
            values = sharpness * np.array([child.value for child in node.children])
            node.value = float((np.logaddexp.reduce(values) - math.log(len(values))) / sharpness)


def _drawn(node: _Node, sharpness: float, rng: np.random.Generator) -> _Node:
    """A leaf, drawn from the root down."""
    while node.children:
        node = node.children[int(rng.choice(len(node.children), p=_shares(node.children, sharpness)))]
    return node


def _best(node: _Node) -> _Node:
    """The leaf of the highest reward."""
    if not node.children:
        return node
    return max(map(_best, node.children), key=lambda leaf: leaf.value)


# ---- noise


def _parts(entry: ProgramEntry, levels: int) -> list[dict[str, range | None]]:
    """The decisions per level of the tree: the inputs of the start, then rows of those per step, as even as may be."""
    random = [one for one in entry.inputs if isinstance(one.source, RandomSource)]
    stepwise = [one for one in random if one.rows is not None]
    if levels < 1 or (levels > 1 and not stepwise):
        message = (
            f"the tree has {levels} levels, but the sampler adds no noise in its steps" if levels > 1 else "no levels"
        )
        mend = "compile a stochastic sampler (`sampler={kind: ddpm}`, or ddim with `eta: 1`), or search with levels=1"
        raise BundleError("E0608", message, mend)
    parts: list[dict[str, range | None]] = [{one.name: None for one in random if one.rows is None}]
    if levels == 1:
        parts[0] |= {one.name: range(one.rows or 0) for one in stepwise}
        return parts
    for level in range(1, levels):
        rows = {}
        for one in stepwise:
            bounds = np.linspace(0, one.rows or 0, levels).round().astype(int)
            rows[one.name] = range(bounds[level - 1], bounds[level])
        parts.append(dict(rows))
    return parts


def _noise(
    entry: ProgramEntry, parts: Sequence[dict[str, range | None]], seeds: Sequence[Sequence[int]]
) -> dict[str, Array]:
    """The noise of one sample per tree: the part of level k from the k-th of its seeds."""
    inputs = {one.name: one for one in entry.inputs}
    made: dict[str, list[Array]] = {}
    for level, part in enumerate(parts):
        own = np.array([path[level] for path in seeds], np.uint64)
        for name, rows in part.items():
            if rows is None or len(rows):
                made.setdefault(name, []).append(_rows(inputs[name], own, rows))
    return {name: a[0] if inputs[name].rows is None else np.concatenate(a) for name, a in made.items()}


def _rows(one: Input, seeds: NDArray[np.uint64], rows: range | None) -> Array:
    source = one.source
    assert isinstance(source, RandomSource)
    if source.settings:
        raise BundleError(
            "E0608",
            f"noise `{one.name}` depends on settings, which a search does not support",
            "search with a sampler whose noise does not",
        )
    index = 0 if rows is None else list(rows)
    return np.asarray(draw(source.distribution, seeds, source.stream, one.sample_shape, index, **source.parameters))
