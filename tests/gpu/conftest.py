"""Tests of a machine with an NVIDIA GPU: `pytest tests/gpu` there, with latentc[gpu] and one of the TensorRT extras.

Each skips where what it needs is missing, and says what that is.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from on_gpu import SYSTEMS, provider_fault

from latentc import api
from latentc.checkpoint import computed, network_params
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.weights import Array, write_safetensors


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture
def cuda_provider() -> str:
    """The device "cuda" of ONNX Runtime."""
    if fault := provider_fault("CUDA"):
        pytest.skip(fault)
    return "cuda"


@pytest.fixture
def bundle(tmp_path: Path) -> Callable[..., Path]:
    """`bundle(system, form, *overrides)`: a bundle of a small system with random weights."""

    def compiled(system: str, form: str, *overrides: str, variant: str | None = None) -> Path:
        name, *given = SYSTEMS.get(system, (system,))
        lowered = lower(load_spec(name, variant, given))
        rng = np.random.default_rng(0)
        weights = {
            path: Array((rng.standard_normal([int(d) for d in p.type.shape]) * 0.05).astype(np.float32))  # type: ignore[arg-type]
            for path, p in network_params(lowered, lowered.networks["main"]).items()
            if not computed(p)
        }
        write_safetensors(tmp_path / "w.safetensors", weights)
        folder = tmp_path / "bundle"
        api.compile(name, tmp_path / "w.safetensors", folder, variant, [*given, *overrides], form=form)  # type: ignore[arg-type]
        return folder

    return compiled
