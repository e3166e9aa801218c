"""RARM is what its authors' repository defines, under their names of weights, and decodes as it predicts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tiny_systems import SYSTEMS  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.nn.functional import gelu, layer_norm  # noqa: E402

from latentc import api  # noqa: E402
from latentc.checkpoint import arrays, network_weights  # noqa: E402
from latentc.diagnostics import DiagnosticError  # noqa: E402
from latentc.ir.interpret import Interpreter  # noqa: E402
from latentc.lower import lower  # noqa: E402
from latentc.spec import load_spec  # noqa: E402
from latentc.weights import Array, write_safetensors  # noqa: E402

TINY = SYSTEMS["rarm"]
V, T, D, E, HEADS, DEPTH, SPARE = 17, 64, 16, 8, 2, 2, 2


def shapes() -> dict[str, tuple[int, ...]]:
    """The names and shapes of a RetrievalPatchTransformer's weights (CompVis/retrieval-augmented-diffusion-models)."""
    found: dict[str, tuple[int, ...]] = {"proj_in.weight": (V + SPARE, D), "positional_encoding": (D, T)}
    for i in range(DEPTH):
        own = {f"norm{n}.{part}": (D,) for n in (1, 2, 3) for part in ("weight", "bias")}
        for attention, width in (("attn1", D), ("attn2", E)):
            own |= {f"{attention}.to_q.weight": (D, D), f"{attention}.to_out.0.weight": (D, D)}
            own |= {f"{attention}.to_{part}.weight": (D, width) for part in "kv"}
            own[f"{attention}.to_out.0.bias"] = (D,)
        own |= {"ff.net.0.proj.weight": (8 * D, D), "ff.net.0.proj.bias": (8 * D,)}
        own |= {"ff.net.2.weight": (D, 4 * D), "ff.net.2.bias": (D,)}
        found |= {f"transformer_blocks.{i}.{name}": shape for name, shape in own.items()}
    return found | {"proj_out.weight": (V, D, 1), "proj_out.bias": (V,)}


def attended(w: dict[str, Tensor], name: str, x: Tensor, context: Tensor, causal: bool) -> Tensor:
    """Head by head, softmax(q k' / sqrt(d)) v."""
    q, k, v = (y @ w[f"{name}.to_{part}.weight"].T for part, y in (("q", x), ("k", context), ("v", context)))
    outs = []
    for own in torch.arange(D).chunk(HEADS):
        scores = q[:, :, own] @ k[:, :, own].transpose(1, 2) / len(own) ** 0.5
        if causal:
            scores = scores.masked_fill(torch.ones_like(scores[0]).triu(1).bool(), -torch.inf)
        outs.append(scores.softmax(-1) @ v[:, :, own])
    return torch.cat(outs, -1) @ w[f"{name}.to_out.0.weight"].T + w[f"{name}.to_out.0.bias"]


def reference(w: dict[str, Tensor], tokens: Tensor, neighbours: Tensor) -> Tensor:
    """Logits [B, T, V] of all tokens, from a start token and all but the last of them."""
    start = torch.full_like(tokens[:, :1], V + SPARE - 1)
    x = w["proj_in.weight"][torch.cat([start, tokens[:, :-1]], 1)] + w["positional_encoding"].T
    for i in range(DEPTH):
        own = {n.removeprefix(f"transformer_blocks.{i}."): a for n, a in w.items() if f"_blocks.{i}." in n}

        def normed(n: int, x: Tensor, own: dict[str, Tensor] = own) -> Tensor:
            return layer_norm(x, (D,), own[f"norm{n}.weight"], own[f"norm{n}.bias"])

        h = normed(1, x)
        x = x + attended(own, "attn1", h, h, causal=True)
        x = x + attended(own, "attn2", normed(2, x), neighbours, causal=False)
        value, gate = (normed(3, x) @ own["ff.net.0.proj.weight"].T + own["ff.net.0.proj.bias"]).chunk(2, -1)
        x = x + (value * gelu(gate)) @ own["ff.net.2.weight"].T + own["ff.net.2.bias"]
    return x @ w["proj_out.weight"][:, :, 0].T + w["proj_out.bias"]


def test_network_and_sampler_of_the_authors_weights(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    official = {name: 0.5 * rng.standard_normal(shape) for name, shape in shapes().items()}
    file, own, back = (tmp_path / f"{name}.safetensors" for name in ("official", "own", "back"))
    write_safetensors(file, {name: Array(a.astype(np.float32)) for name, a in official.items()})
    w = {name: torch.tensor(a.astype(np.float32)).double() for name, a in official.items()}
    spec = load_spec(TINY.spec, None, [*TINY.sizes, "sampler.top_k=0", "sampler.guidance.scale=2.0"])
    lowered = lower(spec)
    weights = {f"main.{n}": a for n, a in arrays(network_weights(spec, lowered, file, "official")["main"]).items()}
    oracle = Interpreter(lowered.module, weights)
    tokens, neighbours = rng.integers(0, V, (2, T)), rng.standard_normal((2, 4, E))
    wanted = reference(w, torch.tensor(tokens), torch.tensor(neighbours)).numpy()
    (found,) = oracle.run("main.forward", tokens[:, :-1], neighbours, prefix="main")
    np.testing.assert_allclose(found, wanted, atol=1e-9 * np.abs(wanted).max())
    # Each token that is drawn is the one on which its number falls, under guidance.
    u, scale = rng.uniform(0, 1, (T, 2)), np.full(2, 2.0)
    (drawn,) = oracle.run(lowered.programs[0].entry, neighbours, scale, u)
    told, without = (reference(w, torch.tensor(drawn), torch.tensor(c)) for c in (neighbours, 0 * neighbours))
    cdf = (without + 2 * (told - without)).softmax(-1).cumsum(-1).numpy()
    np.testing.assert_array_equal(drawn, (cdf < u.T[..., None]).sum(-1))
    sizes = {"overrides": list(TINY.sizes)}
    api.convert_weights(TINY.spec, file, own, "official", **sizes)
    api.convert_weights(TINY.spec, own, back, None, "official", **sizes)
    first, again = (arrays(network_weights(spec, lowered, path, "official")["main"]) for path in (file, back))
    assert all(np.array_equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("backbone.block.mixer.causal=false", "so its mixer must be causal"),
        ("backbone.block.condition={kind: in_context}", "attend to conditions, but those of `in_context` do not"),
        ("backbone.conditions=[]", "attends to conditions, but takes none"),
        ("conditioning.class={kind: label}", "form one sequence, but differ in width"),
    ],
)
def test_what_does_not_fit_is_refused(override: str, words: str) -> None:
    with pytest.raises(DiagnosticError) as caught:
        load_spec(TINY.spec, None, [*TINY.sizes, override])
    assert words in str(caught.value)
