"""Fields that a frozen network computes from the samples, once, into caches next to the data.

Samples are read without augmentation; if a first stage encodes the images, every view is encoded. Of texts
with a mask, only features of valid tokens are kept; the others are 0. The name of a cache depends on the data
and the network: if one of them changes, samples are encoded again.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from model import NETWORKS

from .checkpoint import load_weights
from .progress import shown
from .storage import sweep_parts, write_whole

BATCH = 64  # samples encoded at once
Rows = dict[str, np.ndarray]


class PerSample:
    """Features [N, ...]."""

    def __init__(self, cache: Path):
        self.features = np.load(cache, mmap_mode="r")
        self.size = len(self.features)

    def rows(self, index: np.ndarray, samples: Rows) -> np.ndarray:
        return self.features[index]


class PerToken:
    """Features [N, L, D]; the cache holds those of valid tokens, [T, D], one sample after the other.

    A second file holds `starts` i64[N + 1], the first row of each sample. `mask`: the field of valid tokens.
    """

    def __init__(self, cache: Path, mask: str):
        self.starts, self.mask = np.load(starts_of(cache)), mask
        self.size = len(self.starts) - 1
        tokens = int(self.starts[-1])
        if not tokens:
            raise ValueError(f"no text has a valid token in field {mask}")
        shape = (tokens, cache.stat().st_size // (4 * tokens))
        self.features = np.memmap(cache, np.float32, "r", shape=shape)  # workers would get a copy of a view

    def rows(self, index: np.ndarray, samples: Rows) -> np.ndarray:
        mask = samples[self.mask]
        found = np.zeros((*mask.shape, self.features.shape[1]), np.float32)
        found[mask] = np.concatenate([self.features[self.starts[i] : self.starts[i + 1]] for i in index])
        return found


class OfOneText:
    """The same features [L, D] for every sample."""

    def __init__(self, cache: Path, size: int):
        self.features, self.size = np.load(cache)[0], size

    def rows(self, index: np.ndarray, samples: Rows) -> np.ndarray:
        return np.broadcast_to(self.features, (len(index), *self.features.shape))


class WithFeatures:
    """A data set whose samples also have the fields `features`, by name."""

    def __init__(self, source: Any, features: dict[str, Any]):
        self.source, self.features = source, features
        self.size, self.in_memory = source.size, source.in_memory
        self.finished = getattr(source, "finished", None)  # what completes batches of images that change

    def rows(self, index: np.ndarray, rng: np.random.Generator | None = None) -> Rows:
        found = self.source.rows(index, rng)
        return {**found, **{name: of.rows(index, found) for name, of in self.features.items()}}


def with_features(source: Any, config: dict[str, Any]) -> Any:
    """The data with the fields of `encoded`, encoded now if they are not cached. ValueError."""
    made = {name: cached(source, config, **of) for name, of in config["encoded"].items()}
    for name, of in config["encoded"].items():
        if of["reads"] == "images":
            source.features[name] = made.pop(name).features
    return WithFeatures(source, made) if made else source


def cached(
    source: Any,
    config: dict[str, Any],
    network: str,
    reads: str,
    mask: str | None = None,
    masked: bool = False,
    empty: list[int] | None = None,
    pad: int = 0,
) -> PerSample | PerToken | OfOneText:
    """Features of a network for every sample, or of its images in every view, or of one text, `empty`.

    `masked`: the network takes the mask, too.
    """
    weights = Path(config["roles"][network]["pretrained"])
    if not weights.is_file():
        raise ValueError(f"roles.{network}.pretrained: there is no file {weights}")
    status = weights.stat()
    made_of = [f"{weights.resolve()} {status.st_size} {status.st_mtime_ns}", reads]
    made_of += [json.dumps(part, sort_keys=True) for part in (config["model"][network], config["data"])]
    path = Path(config["data"].get("path") or Path(__file__).parents[1] / "data").resolve()
    if empty is None:
        made_of += source.identity() if hasattr(source, "identity") else files_at(path)
        for field in config["data"]["fields"].values():
            made_of += files_at(Path(field["tokenizer"])) if "tokenizer" in field else []
    else:
        made_of.append(f"{empty} {pad}")
    packed = mask is not None and empty is None
    digest = hashlib.sha256("\n".join(made_of).encode()).hexdigest()[:12]
    cache = path.parent / f"{path.name}.{network}.{digest}.{'bin' if packed else 'npy'}"
    if not cache.is_file() or (packed and not starts_of(cache).is_file()):
        sweep_parts(cache)
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            mend = "run `python -m latentc_support.data` once, before torchrun"
            raise ValueError(f"{cache} is missing: {mend}")
        model = frozen(network, config, weights)
        if empty is not None:
            text = one_text(config["data"]["fields"][reads]["shape"][0], empty, pad, masked)
            write_whole(cache, lambda file: encode(model, iter([text]), 1, False, file))
        elif packed:
            write_packed(cache, model, samples(source, [reads, mask]), source.size, masked)
        else:
            batches = views(source) if reads == "images" else samples(source, [reads])
            write_whole(cache, lambda file: encode(model, batches, source.size, reads == "images", file))
    if empty is not None:
        return OfOneText(cache, source.size)
    found = PerToken(cache, mask) if packed else PerSample(cache)
    if found.size != source.size:
        raise ValueError(f"{cache} has {found.size} samples, but the data has {source.size}: delete it")
    return found


def starts_of(cache: Path) -> Path:
    return cache.with_suffix(".starts.npy")


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


def samples(source: Any, fields: list[str]) -> Iterator[list[torch.Tensor]]:
    """Fields of all samples, in batches."""
    for start in range(0, source.size, BATCH):
        rows = source.rows(np.arange(start, min(start + BATCH, source.size)))
        if missing := [field for field in fields if field not in rows]:
            raise ValueError(
                f"samples have no field {missing[0]} to encode: choose another kind of data in the spec and "
                "emit the project again"
            )
        yield [torch.from_numpy(np.ascontiguousarray(rows[field])) for field in fields]


def one_text(length: int, tokens: list[int], pad: int, masked: bool) -> list[torch.Tensor]:
    """A text [1, L] and, if the network takes it, the mask of its tokens."""
    text = torch.full((1, length), pad)
    text[0, : len(tokens)] = torch.tensor(tokens)
    return [text, *([torch.arange(length)[None] < len(tokens)] if masked else [])]


def views(source: Any) -> Iterator[list[torch.Tensor]]:
    """The views of each image, one image after another."""
    for index in range(source.size):
        pixels = torch.from_numpy(np.ascontiguousarray(source.views(index))).permute(0, 3, 1, 2)
        yield [pixels.float() / 127.5 - 1]


@torch.no_grad()
def encode(model: nn.Module, batches: Iterator[list[torch.Tensor]], size: int, viewed: bool, path: Path) -> None:
    """Writes what the network makes of all samples as an .npy file, one batch after another.

    `viewed`: a batch is the views of one sample.
    """
    device = next(model.parameters()).device
    with open(path, "wb") as file, shown(total=size, desc="features", unit="sample") as bar:
        for i, given in enumerate(batches):
            made = model.encode(*(x.to(device) for x in given)).cpu().numpy()
            made = made[None] if viewed else made
            if i == 0:
                described = {"descr": np.lib.format.dtype_to_descr(made.dtype), "fortran_order": False}
                np.lib.format.write_array_header_2_0(file, {**described, "shape": (size, *made.shape[1:])})
            file.write(np.ascontiguousarray(made).tobytes())
            bar.update(len(made))


@torch.no_grad()
def write_packed(cache: Path, model: nn.Module, batches: Iterator[list[torch.Tensor]], size: int, masked: bool) -> None:
    """Writes the features of valid tokens, and the first row of each sample."""
    device = next(model.parameters()).device
    counts = [0]

    def write(path: Path) -> None:
        with open(path, "wb") as file, shown(total=size, desc="features", unit="sample") as bar:
            for tokens, mask in batches:
                given = [tokens, mask] if masked else [tokens]
                made = model.encode(*(x.to(device) for x in given)).float().cpu()
                file.write(made[mask].numpy().tobytes())
                counts.extend(mask.sum(1).tolist())
                bar.update(len(made))

    write_whole(cache, write)
    write_whole(starts_of(cache), lambda file: np.save(file, np.cumsum(counts)))
