"""Classifiers of tokens: what probing trains, what is averaged, and what is refused."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pytest
from random_weights import random_weights

from latentc import api
from latentc.checkpoint import network_params
from latentc.diagnostics import DiagnosticError
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.weights import Array, write_safetensors

TINY = [
    "data={kind: npz, path: data.npz, classes: 10, tokens: {vocabulary: 16, grid: [2, 2]}}",
    "backbone.width=8",
    "backbone.depth=2",
    "backbone.block.mixer.heads=2",
    "backbone.embedding={labels: 3, blank: 1}",
]


def test_probing_trains_the_head_alone() -> None:
    for variant in ("B-probe", "L-probe"):
        spec = load_spec("mage_classifier", variant, TINY)
        lowered, network = lower(spec), spec.networks["main"]
        names = [path for path, p in network_params(lowered, lowered.networks["main"]).items() if p.kind == "weight"]
        trained = [name for name in names if not any(fnmatchcase(name, one) for one in network.frozen_weights)]
        assert sorted(trained) == ["head.bias", "head.weight"] and network.trainable


def test_the_blank_row_stands_before_the_tokens(tmp_path: Path) -> None:
    """The mean is of the data's tokens alone, so the first place matters by attention only."""
    spec = load_spec("mage_classifier", None, [*TINY, "backbone.depth=1"])
    lowered = lower(spec)
    own = random_weights(network_params(lowered, lowered.networks["main"]), np.random.default_rng(1), 0.5)
    own["blocks.0.attn.proj.weight"] *= 0
    file = tmp_path / "own.safetensors"

    def logits(weights: dict[str, np.ndarray]) -> np.ndarray:
        write_safetensors(file, {name: Array(np.float32(array)) for name, array in weights.items()})
        given = {"idx": np.arange(8).reshape(2, 4)}
        sizes = [*TINY, "backbone.depth=1"]
        out = api.run_method("mage_classifier", [f"main={file}"], given, "oracle", overrides=sizes, network="main")
        return next(iter(out.values()))

    before = logits(own)
    moved = dict(own)
    moved["tok_emb.weight"] = own["tok_emb.weight"].copy()
    moved["tok_emb.weight"][16 + 1, 0] += 1.0  # the blank
    np.testing.assert_allclose(logits(moved), before, atol=1e-6)
    moved["tok_emb.weight"][3, 0] += 1.0  # a token of the first sample
    after = logits(moved)
    assert np.abs(after - before)[0].max() > 1e-3 and np.abs(after - before)[1].max() < 1e-6


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        (["data={kind: npz, path: data.npz, classes: 10, shape: [3, 8, 8]}"], "takes tokens"),
        (["data={kind: npz, path: data.npz, tokens: {vocabulary: 16, grid: [2, 2]}}"], "the data has none"),
        (["backbone.embedding={kind: bits}", "data.tokens.vocabulary=12"], "cannot be written as bits"),
    ],
)
def test_what_is_refused(sizes: list[str], said: str) -> None:
    with pytest.raises(DiagnosticError, match=said):
        load_spec("mage_classifier", None, [*TINY, *sizes])
