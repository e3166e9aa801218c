"""Tables of numbers that objective.py and sampler.py read, from tables.json."""

import json
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

TABLES = json.loads(Path(__file__).with_name("tables.json").read_text())


@cache
def on_device(name: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(TABLES[name], dtype=torch.float64).to(device, dtype)


def table(name: str, like: Tensor) -> Tensor:
    """A table on like's device, in like's dtype (float32 where that holds no floats)."""
    return on_device(name, like.dtype if like.is_floating_point() else torch.float32, like.device)
