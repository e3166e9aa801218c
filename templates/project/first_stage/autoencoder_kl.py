"""The first stage: diffusers' AutoencoderKL turns images into latents, and latents into images."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def load(stage: dict[str, Any]) -> nn.Module:
    """The autoencoder, frozen. ValueError if it is not there."""
    try:
        from diffusers import AutoencoderKL
    except ImportError:
        raise ValueError("a first stage needs diffusers: pip install diffusers") from None
    if not Path(stage["path"]).is_dir():
        raise ValueError(f"first_stage.path: {stage['path']} is no folder of a diffusers AutoencoderKL")
    model = AutoencoderKL.from_pretrained(stage["path"], local_files_only=True)
    return model.eval().requires_grad_(False).to("cuda" if torch.cuda.is_available() else "cpu")


def codes_side(settings: dict[str, Any]) -> int:
    """Height of the latents."""
    return settings["fields"]["x"]["shape"][1]


def codes_from_images(model: nn.Module, x: Tensor) -> Tensor:
    """Images in [-1, 1] as mean and standard deviation of their latents, f16[B, 2, C, h, w]."""
    posterior = model.encode(x).latent_dist
    return torch.stack([posterior.mean, posterior.std], 1).half()


def field_from_codes(
    codes: np.ndarray, stage: dict[str, Any], rng: np.random.Generator | None
) -> dict[str, np.ndarray]:
    """Scaled latents drawn from their distribution; its mean if there is no `rng`."""
    mean, std = codes.astype(np.float32).swapaxes(0, 1)
    noise = 0 if rng is None else rng.standard_normal(mean.shape, dtype=np.float32)
    return {"x": (mean + std * noise) * np.float32(stage["scale"])}


@torch.no_grad()
def decode(samples: np.ndarray, settings: dict[str, Any]) -> np.ndarray:
    """Latents [B, C, h, w] as images f32[B, 3, H, W] in [-1, 1]."""
    model = load(settings["first_stage"])
    device, scale = next(model.parameters()).device, settings["first_stage"]["scale"]
    latents = torch.from_numpy(samples).to(device) / scale
    return torch.cat([model.decode(z[None]).sample for z in latents]).cpu().numpy()
