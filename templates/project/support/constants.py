"""Constant arrays of model.py, objective.py and sampler.py, from constants.safetensors."""

from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

CONSTANTS = load_file(Path(__file__).with_name("constants.safetensors"))


@cache
def on_device(name: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    constant = CONSTANTS[name]
    return constant.to(device, dtype if constant.is_floating_point() else None)


def table(name: str, like: Tensor | None = None) -> Tensor:
    """A constant on like's device; floats in like's dtype, or float32 if like holds no floats."""
    dtype = like.dtype if like is not None and like.is_floating_point() else torch.float32
    return on_device(name, dtype, torch.device("cpu") if like is None else like.device)
