"""The first stage: diffusers' VQModel turns images into tokens, and tokens into images."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def load(stage: dict[str, Any]) -> nn.Module:
    """The tokenizer, frozen. ValueError if it is not there."""
    try:
        from diffusers import VQModel
    except ImportError:
        raise ValueError("a first stage needs diffusers: pip install diffusers") from None
    if not Path(stage["path"]).is_dir():
        raise ValueError(f"first_stage.path: {stage['path']} is no folder of a diffusers VQModel")
    model = VQModel.from_pretrained(stage["path"], local_files_only=True)
    return model.eval().requires_grad_(False).to("cuda" if torch.cuda.is_available() else "cpu")


def codes_side(settings: dict[str, Any]) -> int:
    """Rows of the token grid."""
    return settings["fields"]["tokens"]["grid"][0]


def codes_from_images(model: nn.Module, x: Tensor) -> Tensor:
    """Images in [-1, 1] as tokens i32[B, T]."""
    indices = model.quantize(model.encode(x).latents)[2][2]
    return indices.reshape(len(x), -1).int()


def field_from_codes(
    codes: np.ndarray, stage: dict[str, Any], rng: np.random.Generator | None
) -> dict[str, np.ndarray]:
    """The tokens i64[B, T]."""
    return {"tokens": codes.astype(np.int64)}


@torch.no_grad()
def decode(samples: np.ndarray, settings: dict[str, Any]) -> np.ndarray:
    """Tokens [B, T] as images f32[B, 3, H, W] in [-1, 1]."""
    model = load(settings["first_stage"])
    rows, columns = settings["fields"]["tokens"]["grid"]
    images = []
    for tokens in torch.from_numpy(samples).to(next(model.parameters()).device):
        shape = (1, rows, columns, model.config.vq_embed_dim or model.config.latent_channels)
        latents = model.quantize.get_codebook_entry(tokens, shape)
        images.append(model.decode(latents, force_not_quantize=True).sample)
    return torch.cat(images).cpu().numpy()
