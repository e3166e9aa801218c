"""The official numbers in tests/data/parity, and the specs of the networks they were made with."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent / "data" / "parity"
ROUNDING: dict[str, float] = json.loads((FOLDER / "rounding.json").read_text(encoding="utf-8"))
"""{recording: max|a - b| of the authors' code in float32 and in float64, over all outputs}, where it was measured."""
# Of the emitted PyTorch instead, whose float32 convolutions, as the authors', round more than our oracle's (1.2e-6).
ROUNDING |= {"augself.D": 5.86e-6}
LIMIT = 4.0
"""A float64 run may differ from recorded float32 numbers by this many times their rounding error. A right formula
differs once; tanh's approximation of the GELU 14 times, though by only 5e-6 of the largest value."""

_PATCHES = [
    "data.shape=[4, 16, 16]",
    "data.classes=10",
    "backbone.width=64",
    "backbone.depth=2",
    "backbone.block.mixer.heads=4",
]
_TOKENS = [
    "data.tokens={vocabulary: 64, grid: [4, 4]}",
    "data.classes=10",
    "backbone.width=64",
    "backbone.depth=2",
    "backbone.block.mixer.heads=4",
    "backbone.block.feed_forward.multiple_of=32",
]
_EXPERTS = [*_PATCHES, "backbone.block.feed_forward.experts=4"]
_IMAGES = [
    "data.shape=[3, 32, 32]",
    "data.classes=10",
    "backbone.width=8",
    "backbone.channel_multipliers=[4, 4, 4, 4]",
    "backbone.attention=[16]",
    "backbone.latent_dim=20",
    "backbone.embedding=16",
]
_SMALL = ["networks.small.width=32", "networks.small.depth=1", "networks.small.block.mixer.heads=2"]
_DISCRIMINATOR = [
    *_IMAGES,
    "networks.discriminator={kind: resnet_discriminator, width: 8, channel_multipliers: [4, 4, 4, 4]}",
    "networks.discriminator.downsample_levels=2",
    "networks.discriminator.attention=[8, 16]",
]
ADC_GAN = ["networks.main.width=8", "networks.main.latent_dim=16", "networks.main.embedding=16"]
ADC_GAN += ["networks.discriminator.width=8"]
SIZES = {
    "dit": _PATCHES,
    "dit_moe": _EXPERTS,
    "sit": _PATCHES,
    "t_stitch": [*_PATCHES, *_SMALL],
    "llamagen": _TOKENS,
    "biggan": _IMAGES,
    "biggan_train": _DISCRIMINATOR,
}
"""What makes a shipped spec the network of the numbers, as `--set` takes it."""


@dataclass(frozen=True)
class Numbers:
    """One set of official numbers; `weights` are under the official names, buffers included."""

    name: str
    meta: dict[str, Any]
    weights: dict[str, np.ndarray]
    inputs: dict[str, np.ndarray]
    noise: list[np.ndarray]
    outputs: dict[str, np.ndarray]
    after: dict[str, np.ndarray] = field(default_factory=dict)  # buffers that a call changes, by official name


def load(name: str) -> Numbers:
    """The numbers called `name`: a weight is drawn from the Philox stream that the CRC-32 of its name seeds."""
    with np.load(FOLDER / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    meta = json.loads(bytes(arrays.pop("meta")).decode())
    one = meta.get("one_on", "weight")
    weights = {name: _draw(name, shape, meta["std"], one) for name, shape in meta["params"].items()}
    for probe, first in meta["probe"].items():
        assert np.allclose(weights[probe].ravel()[:3], first, atol=1e-7), "another Philox stream than was recorded"
    weights |= {key[7:]: a for key, a in arrays.items() if key.startswith("buffer:")}
    inputs = {key[3:]: a for key, a in arrays.items() if key.startswith("in:")}
    noise = (
        list(arrays["noise"])
        if "noise" in arrays
        else [arrays[key] for key in sorted(arrays) if key.startswith("noise.")]
    )
    outputs = {key: a for key, a in arrays.items() if key.startswith("out")}
    after = {key[6:]: a for key, a in arrays.items() if key.startswith("after:")}
    return Numbers(name, meta, weights, inputs, noise, outputs, after)


def _draw(name: str, shape: list[int], std: float, one_on: str = "weight") -> np.ndarray:
    """Normals; 1 is added to vectors whose name ends in `one_on`, as scales of norms start at 1."""
    bits = np.random.Generator(np.random.Philox(key=zlib.crc32(name.encode())))
    values = bits.standard_normal(tuple(shape), dtype=np.float32) * np.float32(std)
    return values + np.float32(1) if len(shape) == 1 and name.endswith(one_on) else values


def error(actual: Any, expected: Any) -> float:
    """max|a - b| / max|reference|."""
    expected = np.asarray(expected, np.float64)
    assert np.shape(actual) == expected.shape
    return float(np.abs(np.asarray(actual, np.float64) - expected).max() / np.abs(expected).max())


def excess(actual: Any, expected: Any, name: str, single: Any = None) -> float:
    """How many times the rounding error of the recording `name` a float64 result is off; at most LIMIT if it is right.

    Where the authors' code was not run in float64, the error is that of our own oracle in float32, `single`. Either can
    be small by chance, so it is at least one float32 spacing at the largest value.
    """
    expected = np.asarray(expected, np.float64)
    assert np.shape(actual) == expected.shape
    rounding = ROUNDING.get(name, 0.0 if single is None else float(np.abs(np.subtract(actual, single)).max()))
    spacing = float(np.finfo(np.float32).eps * np.abs(expected).max())
    return float(np.abs(np.asarray(actual, np.float64) - expected).max()) / max(rounding, spacing)
