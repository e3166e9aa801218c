"""Weights that are arrays in memory: the same as from a file, by each verb."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from random_weights import random_weights
from safetensors.numpy import save_file

from latentc import api
from latentc.checkpoint import arrays, network_params, network_weights
from latentc.diagnostics import DiagnosticError
from latentc.lower import lower
from latentc.spec import load_spec
from latentc_runtime import load

SMALL = ["backbone.width=16", "backbone.depth=1", "backbone.block.mixer.heads=2", "sampler.steps=2"]


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    low = lower(load_spec("digits_dit", overrides=SMALL))
    found = random_weights(network_params(low, low.networks["main"]), np.random.default_rng(0), 0.3)
    return {name: np.float32(array) for name, array in found.items()}


@pytest.fixture(scope="module")
def read() -> Callable[..., dict[str, np.ndarray]]:
    spec = load_spec("digits_dit", overrides=SMALL)
    low = lower(spec)
    return lambda given, key=None: arrays(network_weights(spec, low, given, None, key)["main"])


def test_arrays_tensors_and_files_are_the_same(
    weights: dict[str, np.ndarray], read: Callable[..., dict[str, np.ndarray]], tmp_path: Path
) -> None:
    save_file(weights, tmp_path / "w.safetensors")
    wanted = read(tmp_path / "w.safetensors")
    tensors = {name: torch.nn.Parameter(torch.from_numpy(array)) for name, array in weights.items()}
    transposed = {name: np.asfortranarray(array) for name, array in weights.items()}
    rounded = {name: torch.from_numpy(array).bfloat16() for name, array in weights.items()}
    checkpoint = {"step": 3, "model": {n: a * 0 for n, a in weights.items()}, "ema": tensors, "half": rounded}
    given = [weights, tensors, transposed, {"main": weights}, {f"main.{n}": a for n, a in weights.items()}]
    for found in [*map(read, given), read(checkpoint, "ema")]:
        assert set(found) == set(wanted)
        for name, array in found.items():
            np.testing.assert_array_equal(array, wanted[name])
    for name, array in read(checkpoint, "half").items():
        if name in weights and name != "pos_embed":
            np.testing.assert_array_equal(array, np.float32(weights[name].astype(ml_dtypes.bfloat16)))


def test_they_are_compiled(weights: dict[str, np.ndarray], tmp_path: Path) -> None:
    api.compile("digits_dit", weights, tmp_path / "bundle", overrides=SMALL, run=False)
    assert np.isfinite(load(tmp_path / "bundle").sample([3], 1)).all()
    with pytest.raises(DiagnosticError, match="only refer to weights in files"):
        api.compile("digits_dit", weights, tmp_path / "c", overrides=SMALL, by_reference=True)


def test_what_is_missing_is_named(weights: dict[str, np.ndarray], read: Callable[..., dict[str, np.ndarray]]) -> None:
    with pytest.raises(DiagnosticError, match=r"blocks\.0"):
        read({n: a for n, a in weights.items() if not n.startswith("blocks.0.attn")})
    with pytest.raises(DiagnosticError, match="the given mapping holds no tensors"):
        read({"main": 3})
