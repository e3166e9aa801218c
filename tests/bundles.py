"""Small bundles of random weights, compiled for tests of what measures them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from latentc.checkpoint import network_params
from latentc.export.bundle import bundle_from_lowered
from latentc.ir.inits import INITS
from latentc.lower import lower
from latentc.pipeline import optimised
from latentc.spec import load_spec, resolved_yaml
from latentc.weights import Array, Expr, read_safetensors, write_safetensors

TINY_DIT = (
    "backbone.width=32",
    "backbone.depth=2",
    "backbone.block.mixer.heads=2",
    "sampler.steps=6",
)
TINY_TOKENS = ("backbone.width=32", "backbone.depth=2", "backbone.block.mixer.heads=2")


def tiny_bundle(
    spec_name: str,
    folder: Path,
    overrides: Sequence[str] = (),
    steps: Sequence[int] = (),
    std: float = 0.05,
    max_batch: int | None = 4,
    variant: str | None = None,
    weights: Mapping[str, float] = MappingProxyType({}),
    **options: Any,
) -> Path:
    """`folder` as a bundle of a shipped spec; every weight is its initial value plus noise of `std`.

    `weights` {path: value}: those whose elements are all one number.
    """
    spec = load_spec(spec_name, variant, list(overrides))
    lowered = lower(spec, steps)
    rng = np.random.default_rng(0)
    files: dict[str, dict[str, Expr]] = {}
    for name, network in lowered.networks.items():
        arrays = {}
        for path, param in network_params(lowered, network).items():
            shape = tuple(int(d) for d in param.type.shape)
            if param.kind in ("weight", "state"):
                value = INITS[param.init.kind](rng, shape, **param.init.args) + std * rng.standard_normal(shape)
                value = np.full(shape, weights.get(f"{name}.{path}", value))
                arrays[path] = Array(value.astype(np.float32))
        file = folder.with_suffix(f".{name}.safetensors")
        write_safetensors(file, arrays)
        files[name] = dict(read_safetensors(file))
    lowered = optimised(lowered, spec)
    bundle_from_lowered(lowered, spec, files, folder, spec_text=resolved_yaml(spec), max_batch=max_batch, **options)
    return folder
