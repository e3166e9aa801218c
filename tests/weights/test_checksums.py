"""Checksums per tensor in latentc's own files are compared wherever values are read."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_model import HEAD, write_random_weights

from latentc import api
from latentc.diagnostics import DiagnosticError
from latentc.weights import concatenate, materialise, open_weights, slice_axis, write_safetensors


@pytest.fixture(scope="module")
def storage() -> Any:
    """The module of emitted projects that writes checkpoints."""
    file = Path(__file__).parents[2] / "templates/project/support/storage.py"
    spec = importlib.util.spec_from_file_location("emitted_storage", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def flip(path: Path, offset: int) -> None:
    """Change one byte."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def test_a_damaged_tensor_is_named(storage: Any, tmp_path: Path) -> None:
    path, kinds = tmp_path / "w.safetensors", (torch.float32, torch.bfloat16, torch.int64)
    tensors = {f"layer.{i}": torch.arange(24).reshape(4, 6).to(kind) for i, kind in enumerate(kinds)}
    storage.save_tensors(tensors, path)
    for name, stored in open_weights(path).items():
        write_safetensors(tmp_path / "copy", open_weights(path))  # intact
        flip(path, stored.offset + 30)  # type: ignore[union-attr]
        damaged = open_weights(path)
        with pytest.raises(DiagnosticError, match=f"the checksum of {name} does not match") as error:
            write_safetensors(tmp_path / "copy", damaged)
        assert error.value.diagnostics[0].code == "E0404"
        with pytest.raises(DiagnosticError, match=f"checksum of {name}"):
            materialise(damaged[name])
        others = {other: tensor for other, tensor in damaged.items() if other != name}
        write_safetensors(tmp_path / "copy", others)
        materialise(slice_axis(damaged[name], 0, 0, 1))  # a part has no checksum
        flip(path, stored.offset + 30)  # type: ignore[union-attr]


def test_joined_tensors_are_compared_one_by_one(storage: Any, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    storage.save_tensors({"k": torch.ones(3, 2), "q": torch.zeros(3, 2)}, path)
    q = open_weights(path)["q"]
    flip(path, q.offset)  # type: ignore[union-attr]
    found = open_weights(path)
    with pytest.raises(DiagnosticError, match="checksum of q"):
        write_safetensors(tmp_path / "joined", {"kq": concatenate([found["k"], found["q"]], 0)})


def test_compile_refuses_a_damaged_checkpoint(storage: Any, tmp_path: Path) -> None:
    spec, path = tmp_path / "tiny.yaml", tmp_path / "w.safetensors"
    spec.write_text(f"{HEAD}objective: {{kind: diffusion}}\nsampler: {{kind: ddim, steps: 2}}\n")
    write_random_weights(spec, tmp_path / "random.safetensors", 0.1)
    random = open_weights(tmp_path / "random.safetensors")
    tensors = {name: torch.from_numpy(np.array(materialise(e))) for name, e in random.items()}
    storage.save_tensors(tensors, path)
    api.compile(spec, path, tmp_path / "bundle", run=False)
    flip(path, open_weights(path)["blocks.0.mlp.fc1.weight"].offset + 5)  # type: ignore[union-attr]
    for how in ({}, {"by_reference": True}):
        with pytest.raises(DiagnosticError, match=r"checksum of blocks\.0\.mlp\.fc1\.weight"):
            api.compile(spec, path, tmp_path / "other", run=False, **how)
        assert not (tmp_path / "other").exists()
