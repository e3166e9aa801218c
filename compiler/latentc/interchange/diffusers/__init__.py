"""Classes of diffusers and their equals in a spec, one file per kind of class.

A file holds subclasses of `Model` or `Scheduler` (equivalent.py), each of which turns the class's configuration into
changes to a shipped spec, and a spec into the configuration. `MODELS` and `SCHEDULERS` list them by name,
`FIRST_STAGES` autoencoders as latent diffusion uses them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from latentc.interchange.diffusers import (
    ancestral,
    autoencoders,
    dit,
    flow,
    jumps,
    multistep,
    noise_levels,
    pixart,
    two_streams,
    unet,
    unet_condition,
)
from latentc.interchange.diffusers.ancestral import USUAL
from latentc.interchange.diffusers.equivalent import Config, Data, Model, Scheduler, Unequal, asked, wrong_class

MODELS: dict[str, Model] = {
    name: model
    for file in (dit, pixart, two_streams, unet, unet_condition, autoencoders)
    for model in file.MODELS
    for name in model.NAMES
}
EVERY_MODEL = tuple(dict.fromkeys(one for model in MODELS.values() for one in (model, model.UNTIED) if one is not None))
"""All of them, and those that hold other weights under the same names."""
FIRST_STAGES: dict[str, Model] = {name: model for model in autoencoders.FIRST_STAGES for name in model.NAMES}
SCHEDULERS: dict[str, Scheduler] = {
    name: scheduler
    for file in (ancestral, multistep, flow, noise_levels, jumps)
    for scheduler in file.SCHEDULERS
    for name in scheduler.NAMES
}


def class_of(config: Mapping[str, Any], default: str) -> str:
    """The class of a model's configuration; some were published under a class that two others have replaced."""
    name = str(config.get("_class_name", default))
    single = config.get("norm_type") == "ada_norm_single"
    return "PixArtTransformer2DModel" if name == "Transformer2DModel" and single else name


__all__ = [
    "EVERY_MODEL",
    "FIRST_STAGES",
    "MODELS",
    "SCHEDULERS",
    "USUAL",
    "Config",
    "Data",
    "Model",
    "Scheduler",
    "Unequal",
    "asked",
    "class_of",
    "wrong_class",
]
