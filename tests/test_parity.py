"""Weights under the authors' names go through the specs' name maps and give the authors' numbers, by every backend."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from parity_data import SIZES, error, load

from latentc import api
from latentc.weights import Array, write_safetensors

FORWARD = 1e-5
BACKENDS = ("oracle", "torch", "onnx")


def checkpoint(folder: Path, weights: dict[str, np.ndarray], kind: str = "safetensors") -> Path:
    """The weights as a file on disk."""
    path = folder / f"official.{kind}"
    if kind == "pt":
        torch.save({name: torch.from_numpy(array) for name, array in weights.items()}, path)
    else:
        write_safetensors(path, {name: Array(array) for name, array in weights.items()})
    return path


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["safetensors", "pt"])
@pytest.mark.parametrize("system", ["dit", "sit", "llamagen"])
def test_forward(system: str, kind: str, backend: str, tmp_path: Path) -> None:
    numbers = load("llamagen.gpt.train" if system == "llamagen" else system)
    inputs, out = dict(numbers.inputs), numbers.outputs.get("out")
    if system == "llamagen":
        inputs, out = {"idx": inputs["idx"], "y": inputs["cond_idx"]}, numbers.outputs["out.0"]
    weights = checkpoint(tmp_path, numbers.weights, kind)
    result = api.forward(system, weights, inputs, backend, overrides=SIZES[system], names="official")
    assert error(result, out) < FORWARD
