"""Weights that a caller holds in memory: arrays of numpy or tensors of PyTorch by name, such as a state dict."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from latentc.weights.expr import Array
from latentc.weights.files import Files

Weights = Files | Mapping[str, Any]
"""Files of weights, or arrays by name: one network's, or of all networks as `NETWORK.NAME` or by network."""

NAME = Path("the given mapping")
"""The name in messages, instead of a file's."""


def tree_from_arrays(given: Mapping[Any, Any]) -> dict[Any, Any]:
    """The mapping with expressions in the place of arrays, as a checkpoint's file would be read; nothing is copied."""
    return {key: tree_from_arrays(v) if isinstance(v, Mapping) else _expression(v) for key, v in given.items()}


def by_network(given: Mapping[str, Any], networks: tuple[str, ...]) -> Mapping[str, Any]:
    """Names that begin with their network's, if the mapping has one mapping per network; else the same."""
    if not given or not all(name in networks and isinstance(own, Mapping) for name, own in given.items()):
        return given
    return {f"{name}.{key}": value for name, own in given.items() for key, value in own.items()}


def _expression(value: Any) -> Any:
    """An array as an expression; anything else as it is."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        try:
            value = value.numpy()
        except TypeError:  # a dtype that numpy lacks, such as bfloat16
            value = value.float().numpy()
    if not isinstance(value, np.ndarray) and hasattr(value, "__array__"):
        value = np.asarray(value)
    return Array(np.require(value, requirements="C")) if isinstance(value, np.ndarray) else value
