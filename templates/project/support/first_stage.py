"""The first stage: an autoencoder between images and the latents or tokens that the network models."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .autoencoder import build_first_stage
from .storage import load_tensors, misfit, with_counts


def file_of(stage: dict[str, Any]) -> Path:
    """The weights file, relative to the project's folder. ValueError if it is missing."""
    file = Path(__file__).parents[1] / stage["weights"]
    if not file.is_file():
        command = f"latentc weights {stage['spec']} --weights FILE -o {file}"
        names = f" --names {stage['names']}" if stage["names"] else ""
        raise ValueError(f"the first stage has no weights {file}: write them with `{command}{names}`")
    return file


def load(stage: dict[str, Any], device: torch.device | None = None) -> nn.Module:
    """The autoencoder, frozen. ValueError if its weights are missing or do not fit."""
    return _loaded(file_of(stage), device or torch.device("cuda" if torch.cuda.is_available() else "cpu"))


@cache
def _loaded(file: Path, device: torch.device) -> nn.Module:
    model = build_first_stage()
    tensors = with_counts(load_tensors(file), model)
    if why := misfit(tensors, model):
        raise ValueError(f"{file} belongs to another autoencoder: {why}")
    model.load_state_dict(tensors)
    return model.eval().requires_grad_(False).to(device)


def codes_from_images(model: nn.Module, x: Tensor) -> Tensor:
    """Images in [-1, 1] as tokens i32[B, T], or as mean and deviation of latents, f16[B, 2, C, ...]."""
    codes = model.encode(x)
    if not codes.is_floating_point():
        return codes.int()
    mean, log_variance = codes.chunk(2, dim=1)
    return torch.stack([mean, (log_variance.clamp(-30, 20) / 2).exp()], dim=1).half()


def field_from_codes(
    codes: np.ndarray, stage: dict[str, Any], rng: np.random.Generator | None
) -> dict[str, np.ndarray]:
    """Tokens, or shifted and scaled latents drawn from their distribution; its mean if there is no `rng`."""
    if np.issubdtype(codes.dtype, np.integer):
        return {"tokens": codes.astype(np.int64)}
    mean, std = codes.astype(np.float32).swapaxes(0, 1)
    noise = 0 if rng is None else rng.standard_normal(mean.shape, dtype=np.float32)
    places = (-1,) + (1,) * (mean.ndim - 2)  # one number for all channels, or one per channel of [B, C, ...]
    shift, scale = (np.asarray(stage[name], np.float32).reshape(places) for name in ("shift", "scale"))
    return {"x": (mean + std * noise - shift) * scale}
