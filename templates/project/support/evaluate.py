"""Sample metrics during training: `--evaluate_every 1000` adds curves to the logs.

    fd_principal        Fréchet distance of the features of samples to those of real ones; lower is better
    precision, recall   fraction of samples within the real ones, and of real ones within the samples

Features are the first principal components of the real samples. `--evaluate_features FILE` names a network
instead: TorchScript that takes pictures u8 [N, 3, H, W] and returns features [N, F]. With NVIDIA's
inception-2015-12-05.pt the distance is called `fid`, with others fd_FILE: compare it only with that of
the same features, the same number of samples and the same real ones. Real samples are those that training
does not see, if they are known, at most REAL of them, drawn evenly over their classes.

`latentc evaluate BUNDLE --features principal --count N --reference-count 2048`, with N of `evaluate_samples`,
gives the same figures.

Symbols: N samples, M real samples, F features.
"""

import hashlib
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sample import CALLED, field_of

from . import dataset
from .arrays import drawn_rows
from .sources import Given

REAL = 2048  # largest number of real samples
INCEPTION = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"  # sha256 of the network of FID
COMPONENTS = 64
NEIGHBOURS = 3
BATCH = 64


class Judge:
    """Compares samples with real ones; `given` is what to draw them from, the same at every step."""

    def __init__(self, config: dict[str, Any], device: torch.device, given: Given):
        train = config["train"]
        self.device, self.field, self.given = device, field_of(config), given
        self.network, self.frechet = None, "fd_principal"
        if train["evaluate_features"]:
            file = Path(train["evaluate_features"])
            self.network, self.frechet = open_network(file, device), frechet_name(file)
        real = real_samples(config)
        self.centre, self.axes = (None, None)
        if self.network is None:
            self.centre, self.axes = principal_components(values(real, self.field))
        self.real = self.features(real)

    @torch.no_grad()
    def features(self, samples: Tensor) -> Tensor:
        """f64 [N, F] of samples [N, ...]."""
        if self.network is None:
            return (values(samples, self.field) - self.centre) @ self.axes
        from .media import pictures

        pixels = torch.from_numpy(pictures(samples.numpy(), self.field)).permute(0, 3, 1, 2)
        pixels = pixels.expand(-1, 3, -1, -1)
        flags = {"return_features": True} if "return_features" in str(self.network.forward.schema) else {}
        parts = [self.network(part.to(self.device), **flags) for part in pixels.split(BATCH)]
        return torch.cat([part.flatten(1).double().cpu() for part in parts])

    def __call__(self, samples: Tensor) -> dict[str, float]:
        """The figures of samples [N, ...]; NaN if one of them is not finite."""
        names = (self.frechet, "precision", "recall")
        if not bool(torch.isfinite(samples).all()):
            return dict.fromkeys(names, float("nan"))
        made = self.features(samples)
        return dict(zip(names, (frechet_distance(made, self.real), *shares(made, self.real)), strict=True))


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """|μa − μb|² + tr(Ca + Cb − 2 (Ca Cb)^½) of features [N, F] and [M, F]."""
    cov_a, cov_b = torch.cov(a.T), torch.cov(b.T)
    values, vectors = torch.linalg.eigh(cov_a)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    mixed = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    distance = (a.mean(0) - b.mean(0)).square().sum()
    return float(distance + cov_a.trace() + cov_b.trace() - 2 * mixed)


def shares(made: Tensor, real: Tensor) -> tuple[float, float]:
    """Precision and recall (Kynkäänniemi et al. 2019) of features [N, F] and [M, F]."""
    distance = torch.cdist(made, real)
    within_real = distance <= radii(real)
    within_made = distance <= radii(made)[:, None]
    return float(within_real.any(1).double().mean()), float(within_made.any(0).double().mean())


def radii(features: Tensor) -> Tensor:
    """Distance of each sample from its k-th neighbour, [N]; the nearest is the sample itself."""
    return torch.cdist(features, features).kthvalue(NEIGHBOURS + 1, dim=1).values


def values(samples: Tensor, field: dict[str, Any]) -> Tensor:
    """Samples [N, ...] as f64 [N, D]: brightness in [0, 1] of images, else as they are."""
    flat = samples.flatten(1).double()
    if field["medium"] != "image":
        return flat
    low, high = (0, max(field["classes"] - 1, 1)) if field.get("classes") else field["range"]
    return ((flat - low) / (high - low)).clamp(0, 1)


def principal_components(flat: Tensor) -> tuple[Tensor, Tensor]:
    """Mean f64 [D] and axes f64 [D, F] of real samples f64 [M, D]."""
    centre = flat.mean(0)
    _, _, axes = torch.linalg.svd(flat - centre, full_matrices=False)
    return centre, axes[: min(COMPONENTS, len(flat) - 1)].T


def modelled(fields: dict[str, Any]) -> Any:
    return fields["x"] if "x" in fields else fields["tokens"]


def real_samples(config: dict[str, Any]) -> Tensor:
    """At most REAL samples, drawn evenly over their classes. SystemExit if there are none to compare with."""
    settings = {**config["data"], **config.get("held_out", {})}
    try:
        if "first_stage" in CALLED:
            if not hasattr(dataset, "pictures"):
                raise ValueError("samples are decoded, but the data holds no images to compare with")
            found = dataset.pictures(settings, REAL)
        else:
            source = dataset.open_dataset(settings)
            found = modelled(source.rows(drawn_rows(getattr(source, "labels", None), source.size, REAL)))
    except (OSError, ValueError) as error:
        raise SystemExit(f"--evaluate_every: {error}") from None
    if len(found) <= NEIGHBOURS:
        raise SystemExit(f"--evaluate_every: {len(found)} real samples are too few")
    return torch.from_numpy(found)


def frechet_name(file: Path) -> str:
    """Name of the Fréchet distance of a network's features: `fid` only for the published Inception."""
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    return "fid" if digest == INCEPTION else f"fd_{re.sub(r'[^A-Za-z0-9_]', '_', file.stem)}"


def open_network(file: Path, device: torch.device) -> Any:
    """A TorchScript network. SystemExit if the file holds none."""
    try:
        return torch.jit.load(str(file), map_location=device).eval()
    except (OSError, ValueError, RuntimeError) as error:
        raise SystemExit(f"--evaluate_features: {file}: {str(error).splitlines()[0]}") from None
