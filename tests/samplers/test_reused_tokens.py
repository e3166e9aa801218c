"""Masked tokens in sets whose steps reuse keys and values (ReCAP): networks, and MaskGIT-r's sampler written out."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from random_weights import random_weights
from torch import Tensor
from torch.nn import functional as F

from latentc.components.contract import Lowered
from latentc.diagnostics import DiagnosticError
from latentc.ir.core import parameters
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec

B, T, V, D, HEADS = 2, 16, 12, 16, 2
SIZES = ("data.first_stage=null", f"data.tokens={{vocabulary: {V}, grid: [4, 4]}}", "data.classes=3")
SIZES += (f"backbone.width={D}", f"backbone.block.mixer.heads={HEADS}", "sampler.steps=8")
REUSE = ("sampler.kind=recap_confidence", "sampler.reuse={after: 2, steps: 2, temperature: 0.7}")
NETWORKS = {
    "recap_maskgit": ("backbone.depth=3", "sampler.guidance={scale: 1.5, schedule: linear}"),
    "maskgit_jax": ("backbone.depth=2", "backbone.embedding.labels=3"),
    "mage": (
        *("backbone.depth=2", "backbone.embedding={labels: 3, blank: 1}"),
        "backbone.decoder={width: 8, depth: 2, heads: 2}",
    ),
}
RNG = np.random.default_rng(0)


def system(name: str) -> tuple[Lowered, dict[str, np.ndarray]]:
    lowered = lower(load_spec(name, None, (*SIZES, *NETWORKS[name], *REUSE)))
    weights = random_weights(parameters(lowered.module, lowered.module.entries["main.forward"]), RNG, 0.3)
    return lowered, weights


@pytest.mark.parametrize("name", NETWORKS)
def test_a_set_whose_tokens_are_all_hidden_has_the_logits_of_a_whole_evaluation(name: str) -> None:
    lowered, weights = system(name)
    oracle, methods = Interpreter(lowered.module, weights), lowered.networks["main"].methods
    null, most = methods["forward"].input("state").null, int(methods["recall"].input("state").type.shape[1])
    told = [np.array([0, 2])] if methods["forward"].inputs_of("condition") else []
    tokens = RNG.integers(0, V, (B, T))
    places = np.stack([RNG.permutation(T)[:most] for _ in range(B)])
    np.put_along_axis(tokens, places, null, 1)
    counted = (np.arange(most) < np.array([[most], [most - 2]])).astype(float)
    others = np.ones((B, T))
    for i in range(B):
        others[i, places[i, counted[i] > 0]] = 0
    (whole,) = oracle.run("main.forward", tokens, *told)
    logits, *caches = oracle.run("main.remember", tokens, *told)
    np.testing.assert_allclose(logits, whole, atol=1e-12)
    (found,) = oracle.run("main.recall", np.full((B, most), null), counted, others, places, *told, *caches)
    wanted = np.take_along_axis(whole, places[..., None], 1)
    np.testing.assert_allclose(found[counted > 0], wanted[counted > 0], atol=1e-12)


class Reference:
    """The U-ViT of MaskGIT-r, which may be given keys and values of tokens that it is not given."""

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        self.w = {path: torch.from_numpy(value) for path, value in weights.items()}

    def norm(self, name: str, x: Tensor, eps: float = 1e-5) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.w[f"{name}.weight"], self.w[f"{name}.bias"], eps)

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.w[f"{name}.weight"], self.w.get(f"{name}.bias"))

    def block(
        self, name: str, x: Tensor, skip: Tensor | None, past: list[Tensor] | None
    ) -> tuple[Tensor, list[Tensor]]:
        x = x if skip is None else self.linear(f"{name}.skip_linear", torch.cat([x, skip], -1))
        q, k, v = (
            t.unflatten(-1, (HEADS, -1)).transpose(0, 1)
            for t in self.linear(f"{name}.attn.qkv", self.norm(f"{name}.norm1", x)).chunk(3, -1)
        )
        own = [k, v]
        k, v = own if past is None else [torch.cat(pair, 1) for pair in zip(past, own, strict=True)]
        h = F.scaled_dot_product_attention(q, k, v).transpose(0, 1).flatten(1)
        x = x + self.linear(f"{name}.attn.proj", h)
        h = F.gelu(self.linear(f"{name}.mlp.fc1", self.norm(f"{name}.norm2", x)))
        return x + self.linear(f"{name}.mlp.fc2", h), own

    def logits(
        self, tokens: Tensor, label: int, places: Tensor, past: list[list[Tensor]] | None = None
    ) -> tuple[Tensor, list[list[Tensor]]]:
        """[n, V] of tokens at places, and keys and values of all blocks [HEADS, 1 + n, D / HEADS]."""
        positions = self.w["pos_embed"][0]
        x = self.norm("embedding_norm", self.w["tok_emb.weight"][tokens] + positions[1 + places], 1e-6)
        c = self.norm("condition_norm", self.w["y_embedder.weight"][label][None] + positions[:1], 1e-6)
        x, skips, kept = torch.cat([c, x]), list[Tensor](), list[list[Tensor]]()
        for i, name in enumerate(("in_blocks.0", "mid_block", "out_blocks.0")):
            x, own = self.block(name, x, skips.pop() if i == 2 else None, None if past is None else past[i])
            skips += [x] if i == 0 else []
            kept.append(own)
        h = self.norm("head_norm", F.gelu(self.linear("head", self.norm("norm", x))))
        return (h @ self.w["tok_emb.weight"].T + self.w["head_bias"])[1:, :V], kept


def drawn(logits: Tensor, u: np.ndarray) -> Tensor:
    cdf = torch.softmax(logits, -1).cumsum(-1)
    return (cdf < torch.from_numpy(u)[:, None] * cdf[:, -1:]).sum(-1)


def test_the_sampler_of_maskgit_r_with_reuse() -> None:
    """Sets are chosen by confidence under noise that falls from set to set, and drawn anew of logits divided by a
    temperature that falls from step to step; both branches of the guidance are remembered."""
    lowered, weights = system("recap_maskgit")
    labels, scale = np.array([1, 2]), np.array([6.0, 9.0])
    u, again = RNG.uniform(size=(2, B, 8, T))
    gumbel = RNG.gumbel(size=(B, 8, T))
    entry = lowered.module.entries["sample.8"]
    named = {f"main.{path}": value for path, value in weights.items()}
    (found,) = Interpreter(lowered.module, named).run(entry, labels, scale, u, gumbel, again)

    model, every = Reference(weights), torch.arange(T)
    left = [T, *(int(np.floor((1 - (i / 8) ** 2.5) * T)) for i in range(1, 8)), 0]
    left = [min(count, T - i) for i, count in enumerate(left)]
    steps = {0: 1, 1: 1, 2: 3, 5: 3}  # sets by their first step: two whole steps, then two that reuse behind each
    for i in range(B):
        x = torch.full((T,), V)
        for number, (first, count) in enumerate(steps.items(), 1):
            strengths = [1 + (scale[i] - 1) * k / 8 for k in range(first, first + count)]
            (cond, null), past = zip(*(model.logits(x, y, every) for y in (labels[i], 3)), strict=True)
            logits = null + strengths[0] * (cond - null)
            guess = drawn(logits, u[i, first])
            confidence = torch.log_softmax(logits, -1)[every, guess]
            confidence = confidence + 5.5 * (1 - number / len(steps)) * torch.from_numpy(gumbel[i, first])
            confidence[x != V] = -torch.inf
            order = torch.argsort(confidence, descending=True)
            chosen = order[: left[first] - left[first + count]]
            others = torch.tensor([j for j in range(T) if j not in chosen])
            caches = [[[t[:, 1 + others] for t in own] for own in kept] for kept in past]
            local, logits, begin = torch.full((len(chosen),), V), logits[chosen], 0
            for k in range(count):
                temperature = 1 - 0.3 * ((first + k) / 7) ** 0.5
                end = left[first] - left[first + k + 1]
                if k:
                    told = zip((labels[i], 3), caches, strict=True)
                    cond, null = (model.logits(local, y, chosen, cache)[0] for y, cache in told)
                    logits = null + strengths[k] * (cond - null)
                local[begin:end] = drawn(logits / temperature, again[i, first + k, : len(chosen)])[begin:end]
                begin = end
            x[chosen] = local
        np.testing.assert_array_equal(found[i], x)
    assert all(before > after for before, after in pairwise(left))


def test_the_guidance_that_the_authors_draw_by() -> None:
    """cond + s (cond - null), s from 0.05 to 0.1; what a set evaluates anew has s of the evaluation before it."""
    sampler = load_spec("recap_maskgit", "guided").sampler
    strengths, wanted = np.linspace(0.05, 0.1, 32), list[float]()
    for first, count in [*((i, 1) for i in range(12)), *((i, 2) for i in range(12, 32, 2))]:
        wanted += [strengths[first], *(strengths[first + k - 1] for k in range(1, count))]
    found = (sampler.guidance.scale - 1) * sampler.guidance.weights(list(sampler.guided_progress()))
    np.testing.assert_allclose(found, wanted, atol=5e-6)


def test_steps_that_round_to_no_token_take_theirs_from_the_last() -> None:
    """As the authors' code, with the settings that they publish."""
    wanted = [1, 1, 1, 1, 1, 1, 2, 2, 3, 3, 4, 5, 4, 6, 6, 7, 7, 8, 9, 10, 10, 11, 12, 12, 14, 14, 15, 16]
    wanted += [17, 17, 19, 17]
    found = load_spec("recap_maskgit").sampler.counts(256)
    np.testing.assert_array_equal(np.diff(found, prepend=0), wanted)


def test_what_cannot_reuse_is_refused() -> None:
    with pytest.raises(DiagnosticError, match="cannot reuse keys and values"):
        load_spec("maskgit", None, ["sampler={kind: recap_confidence, reuse: {after: 2}}"])
    with pytest.raises(DiagnosticError, match="`redraw` redraws known tokens"):
        load_spec("recap_maskgit", None, ["sampler.redraw=true"])
    with pytest.raises(DiagnosticError, match="masks their digits"):
        load_spec("maskbit", None, list(REUSE))
