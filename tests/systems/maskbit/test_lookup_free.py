"""Tokens of signs: codes and latents, and the entropies of the penalty; those of a codebook."""

from __future__ import annotations

import numpy as np
import pytest

from latentc.components.blocks.bottlenecks.codebook import Codebook
from latentc.ir.builder import ModuleBuilder
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B, f32
from latentc.systems.maskbit.lookup_free import LookupFree


def test_the_penalty_is_the_authors() -> None:
    """MaskBit's: commitment, and the entropy of positions less that of their mean, over all 2^Z tokens."""
    bottleneck = LookupFree(kind="lookup_free", channels=3, commitment=0.25, entropy=0.3, temperature=0.5)
    mb = ModuleBuilder()
    b = mb.function("f")
    h = b.input("h", f32(B, 3, 2, 2))
    static = {**bottleneck.static(), "latent": 3, "rows": 2, "columns": 2}
    codes = bottleneck.codes(b, h, static)
    z, penalty = bottleneck.regularized(b, h, None, static)
    b.output(codes, bottleneck.latents(b, codes, static), z, penalty)
    mb.entries["f"] = b.finish()
    given = np.random.default_rng(0).standard_normal((2, 3, 2, 2))
    tokens, latents, straight, found = Interpreter(mb.finish()).run("f", given)

    rows = given.transpose(0, 2, 3, 1).reshape(-1, 3)
    every = ((np.arange(8)[:, None] >> np.arange(3)) & 1) * 2.0 - 1.0
    signs = np.where(rows > 0, 1.0, -1.0)
    assert np.array_equal(every[tokens.reshape(-1)], signs)
    assert np.array_equal(latents.transpose(0, 2, 3, 1).reshape(-1, 3), signs)
    assert np.allclose(straight, latents)
    p = np.exp(2 * rows @ every.T / 0.5)
    p /= p.sum(1, keepdims=True)
    entropy = lambda q: -(q * np.log(np.maximum(q, 1e-5))).sum(-1)  # noqa: E731
    wanted = 0.25 * ((rows - signs) ** 2).mean() + 0.3 * (entropy(p).mean() - entropy(p.mean(0)))
    assert found.mean() == pytest.approx(wanted)


def test_the_entropies_of_a_codebook_are_maskgits() -> None:
    """Of the softmax of negative squared distances."""
    bottleneck = Codebook(kind="codebook", size=5, channels=3, entropy=0.3, entropy_temperature=0.5)
    mb = ModuleBuilder()
    b = mb.function("f")
    h = b.input("h", f32(B, 3, 2, 2))
    b.output(*bottleneck.regularized(b, h, None, {**bottleneck.static(), "latent": 3, "rows": 2, "columns": 2}))
    mb.entries["f"] = b.finish()
    rng = np.random.default_rng(0)
    given, table = rng.standard_normal((2, 3, 2, 2)), rng.standard_normal((5, 3))
    _, found = Interpreter(mb.finish(), {"codebook.weight": table}).run("f", given)

    rows = given.transpose(0, 2, 3, 1).reshape(2, 4, 3)
    distances = ((rows[:, :, None] - table) ** 2).sum(-1)
    pull = ((table[distances.argmin(-1)] - rows) ** 2).mean((1, 2))
    p = np.exp(-distances / 0.5)
    p /= p.sum(-1, keepdims=True)
    mean = p.mean((0, 1))
    each, of_mean = -(p * np.log(p)).sum(-1).mean(1), -(mean * np.log(mean + 1e-5)).sum()
    assert np.allclose(found, 1.25 * pull + 0.3 * (each - of_mean))
