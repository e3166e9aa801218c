"""Fields that a frozen network computes from the samples, once, into caches beside the data.

Samples are read as they are, not augmented; of images that a first stage encodes, every view is encoded. A
cache is named by what it was made of: other data, or another network, are encoded anew.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from checkpoint import load_weights
from model import NETWORKS
from storage import sweep_parts, write_whole

BATCH = 64  # samples encoded at once


class WithFeatures:
    """A data set whose samples also have the fields `features`, by name: [size, ...] each."""

    def __init__(self, source: Any, features: dict[str, np.ndarray]):
        self.source, self.features = source, features
        self.size, self.in_memory = source.size, source.in_memory

    def rows(self, index: np.ndarray, rng: np.random.Generator | None = None) -> dict[str, np.ndarray]:
        return {
            **self.source.rows(index, rng),
            **{name: array[index] for name, array in self.features.items()},
        }


def with_features(source: Any, config: dict[str, Any]) -> Any:
    """The data with the fields of `encoded`, encoded now if they are not cached. ValueError."""
    made = {name: cached(source, config, **of) for name, of in config["encoded"].items()}
    if not hasattr(source, "views"):
        return WithFeatures(source, made)
    images = {name for name, of in config["encoded"].items() if of["reads"] == "images"}
    source.features |= {name: array if name in images else array[:, None] for name, array in made.items()}
    return source


def cached(source: Any, config: dict[str, Any], network: str, reads: str) -> np.ndarray:
    """What a network makes of every sample: [N, ...], or [N, views, ...] of images."""
    weights = Path(config["roles"][network]["pretrained"])
    if not weights.is_file():
        raise ValueError(f"roles.{network}.pretrained: there is no file {weights}")
    status = weights.stat()
    made_of = [f"{weights.resolve()} {status.st_size} {status.st_mtime_ns}", reads]
    made_of += [json.dumps(part, sort_keys=True) for part in (config["model"][network], config["data"])]
    path = Path(config["data"].get("path") or Path(__file__).parent / "data").resolve()
    made_of += source.identity() if hasattr(source, "identity") else files_at(path)
    digest = hashlib.sha256("\n".join(made_of).encode()).hexdigest()[:12]
    cache = path.parent / f"{path.name}.{network}.{digest}.npy"
    if not cache.is_file():
        sweep_parts(cache)
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            raise ValueError(f"{cache} is missing: run `python data.py` once, before torchrun")
        batches = views(source) if reads == "images" else samples(source, reads)
        model = frozen(network, config, weights)
        write_whole(cache, lambda file: encode(model, batches, source.size, reads == "images", file))
    found = np.load(cache, mmap_mode="r")
    if len(found) != source.size:
        raise ValueError(f"{cache} is of {len(found):,} samples, and the data has {source.size:,}: delete it")
    return found


def files_at(path: Path) -> list[str]:
    """Names, sizes and times of change of the data's file, or of all files in its folder."""
    files = [file for file in [path, *sorted(path.rglob("*"))] if file.is_file()]
    found = [(file.relative_to(path), file.stat()) for file in files]
    return [f"{name} {status.st_size} {status.st_mtime_ns}" for name, status in found]


def frozen(name: str, config: dict[str, Any], weights: Path) -> nn.Module:
    """The network with its weights."""
    model = NETWORKS[name](**config["model"][name])
    load_weights(model, name, weights)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return model.eval().requires_grad_(False).to(device)


def samples(source: Any, field: str) -> Iterator[torch.Tensor]:
    """A field of all samples, in batches."""
    for start in range(0, source.size, BATCH):
        index = np.arange(start, min(start + BATCH, source.size))
        yield torch.from_numpy(np.ascontiguousarray(source.rows(index)[field]))


def views(source: Any) -> Iterator[torch.Tensor]:
    """The views of each image, one image after another."""
    for index in range(source.size):
        pixels = torch.from_numpy(np.ascontiguousarray(source.views(index))).permute(0, 3, 1, 2)
        yield pixels.float() / 127.5 - 1


@torch.no_grad()
def encode(model: nn.Module, batches: Iterator[torch.Tensor], size: int, viewed: bool, path: Path) -> None:
    """Writes what the network makes of all samples as an .npy file, one batch after another.

    `viewed`: a batch is the views of one sample.
    """
    from tqdm import tqdm

    device = next(model.parameters()).device
    with open(path, "wb") as file, tqdm(total=size, desc="features", unit="sample", disable=None) as bar:
        for i, x in enumerate(batches):
            made = model.encode(x.to(device)).cpu().numpy()
            made = made[None] if viewed else made
            if i == 0:
                described = {"descr": np.lib.format.dtype_to_descr(made.dtype), "fortran_order": False}
                np.lib.format.write_array_header_2_0(file, {**described, "shape": (size, *made.shape[1:])})
            file.write(np.ascontiguousarray(made).tobytes())
            bar.update(len(made))
