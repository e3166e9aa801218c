"""LlamaGen from captions, against PyTorch written from its equations, with captions at the end of their places."""

from __future__ import annotations

import numpy as np
import pytest

from latentc import api
from latentc.checkpoint import network_params
from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.weights import Array, write_safetensors
from latentc_runtime import load

torch = pytest.importorskip("torch")
F = torch.nn.functional

from random_weights import random_weights  # noqa: E402
from tiny_systems import SYSTEMS  # noqa: E402

SIZES = [*SYSTEMS["llamagen_t2i"].sizes]
GRID, HEADS, WIDTH, PLACES, FEATURES, VOCABULARY = 3, 2, 16, 5, 6, 12
COUNTS = np.array([2, 5, 3])


def rotated(x):
    """x [B, H, N, d] turned by place: tokens of captions by nothing at all, which leaves zeros, then row and column."""
    d = x.shape[-1]
    frequencies = 10000.0 ** (-torch.arange(0, d // 2, 2).double() / (d // 2))
    rows, columns = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
    angles = torch.cat([p.reshape(-1, 1) * frequencies for p in (rows, columns)], dim=1)
    cos, sin = (F.pad(f(angles), (0, 0, PLACES, 0))[: x.shape[2]] for f in (torch.cos, torch.sin))
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)


def logits(w, idx, features, counts, given):
    """Of all tokens; features [B, 5, 6] of which the last `counts` are of the caption."""
    w = {path: torch.from_numpy(value) for path, value in w.items()}
    features = torch.where(given[:, None, None], features, w["cls_embedding_null"])
    hidden = F.gelu(features @ w["cls_embedding.fc1.weight"].T, approximate="tanh")
    x = torch.cat([hidden @ w["cls_embedding.fc2.weight"].T, w["tok_embeddings.weight"][idx]], dim=1)
    n = x.shape[1]
    seen = torch.ones(n, n).tril().bool().expand(len(x), 1, n, n).clone()
    for one, count in zip(seen, counts, strict=True):
        one[..., : PLACES - count] = False
    seen |= torch.eye(n).bool()

    def norm(x, scale):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * w[scale]

    for i in range(2):
        p = f"blocks.{i}."
        qkv = norm(x, p + "norm1.weight") @ w[p + "attn.qkv.weight"].T
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
        mixed = F.scaled_dot_product_attention(rotated(q), rotated(k), v, seen).transpose(1, 2).flatten(2)
        x = x + mixed @ w[p + "attn.proj.weight"].T
        h = norm(x, p + "norm2.weight")
        h = F.silu(h @ w[p + "mlp.w1.weight"].T) * (h @ w[p + "mlp.w3.weight"].T)
        x = x + h @ w[p + "mlp.w2.weight"].T
    return norm(x, "norm.weight")[:, PLACES - 1 :] @ w["output.weight"].T


@pytest.fixture(scope="module")
def system():
    """(lowered, weights, features at the end of their places, tokens)."""
    lowered = lower(load_spec("llamagen_t2i", overrides=SIZES))
    rng = np.random.default_rng(1)
    features = rng.normal(size=(3, PLACES, FEATURES))
    for row, count in zip(features, COUNTS, strict=True):
        row[: PLACES - count] = 0
    w = random_weights(network_params(lowered, lowered.networks["main"]), rng, 0.3)
    return lowered, w, features, rng.integers(0, VOCABULARY, (3, GRID * GRID))


def test_logits_of_all_tokens_and_of_one_after_the_other(system):
    lowered, w, features, tokens = system
    mask = np.arange(PLACES) >= PLACES - COUNTS[:, None]
    given = np.array([1.0, 1.0, 0.0])
    wanted = logits(w, *map(torch.from_numpy, (tokens[:, :-1], features)), COUNTS, torch.from_numpy(given > 0)).numpy()
    run, methods = Interpreter(lowered.module, w).run, lowered.networks["main"].methods
    (found,) = run(methods["forward"].function, tokens[:, :-1], features, mask, given)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-7)  # its tables of rotations are f32
    first, *caches = run(methods["prefill"].function, features, mask, given)
    one_by_one = [first]
    for i in range(GRID * GRID - 1):
        step, *caches = run(methods["decode"].function, tokens[:, i], np.array(i + 1), mask, *caches)
        one_by_one.append(step)
    np.testing.assert_allclose(np.stack(one_by_one, axis=1), wanted, rtol=0, atol=1e-7)


def test_guided_tokens_are_those_of_both_branches(system, tmp_path):
    """Greedy tokens of a bundle: the unconditional branch sees as many learned features as the caption has."""
    _, w, features, _ = system
    overrides = [*SIZES, "sampler.temperature=0", "sampler.top_k=0", "sampler.guidance.scale=3"]
    write_safetensors(tmp_path / "w.safetensors", {path: Array(x.astype(np.float32)) for path, x in w.items()})
    api.compile("llamagen_t2i", tmp_path / "w.safetensors", tmp_path / "bundle", overrides=overrides, run=False)
    captions = [row[PLACES - count :].tolist() for row, count in zip(features, COUNTS, strict=True)]
    found = load(tmp_path / "bundle").sample(conditions={"caption": captions})
    tokens = np.zeros((3, 0), np.int64)
    for _ in range(GRID * GRID):
        given, absent = (
            logits(w, *map(torch.from_numpy, (tokens, features)), COUNTS, torch.full((3,), told))[:, -1]
            for told in (True, False)
        )
        best = (absent + 3 * (given - absent)).argmax(-1).numpy()
        tokens = np.concatenate([tokens, best[:, None]], axis=1)
    np.testing.assert_array_equal(found, tokens)


def test_one_condition_stands_before_the_tokens():
    with pytest.raises(DiagnosticError, match=r"begins with a single condition, but takes `caption`, `class`"):
        load_spec("llamagen_t2i", overrides=[*SIZES, "conditioning.class={kind: label}", "data.classes=3"])
