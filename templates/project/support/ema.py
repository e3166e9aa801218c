"""Averages of the weights with power-function profiles, and the reconstruction of others after training.

A profile gives the weights of step s the share s^g among the steps up to t. Its width `sigma_rel` is the
standard deviation of s over t. Of averages that were stored during training, those of other widths can be
reconstructed (post-hoc EMA: Karras et al. 2024, arXiv:2312.02696, section 3 and appendix C).
"""

import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .checkpoint import joined, network_state
from .parallel import Run
from .storage import load_tensors, save_tensors, write_whole


def exponent(sigma_rel: float) -> float:
    """g of the profile whose width is sigma_rel: (g + 1) / ((g + 2)^2 (g + 3)) = sigma_rel^2."""
    inverse = sigma_rel**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


def inner_products(a: list[tuple[int, float]], b: list[tuple[int, float]]) -> np.ndarray:
    """The inner product of each profile (step, sigma_rel) of a with each of b."""
    steps = np.array([step for step, _ in a], float)[:, None], np.array([step for step, _ in b], float)
    powers = np.array([exponent(s) for _, s in a])[:, None], np.array([exponent(s) for _, s in b])
    ratio = steps[0] / steps[1]
    shared = np.where(ratio < 1, ratio ** powers[1], ratio ** -powers[0]) / np.maximum(*steps)
    return (powers[0] + 1) * (powers[1] + 1) * shared / (powers[0] + powers[1] + 1)


def shares(stored: list[tuple[int, float]], wanted: tuple[int, float]) -> np.ndarray:
    """The share of each stored average in the best reconstruction of the wanted one; their sum is 1."""
    solved = np.linalg.solve(inner_products(stored, stored), inner_products(stored, [wanted]))[:, 0]
    return solved / solved.sum()


def snapshot_name(step: int, sigma_rel: float) -> str:
    return f"step-{step:08d}-{sigma_rel:g}.safetensors"


def snapshots(folder: Path) -> list[tuple[int, float]]:
    """(step, sigma_rel) of the averages in a folder."""
    names = [path.stem.split("-") for path in sorted(folder.glob("step-*-*.safetensors"))]
    return [(int(step), float(sigma_rel)) for _, step, sigma_rel in names]


def reconstructed(folder: Path, sigma_rel: float, step: int | None = None) -> dict[str, Tensor]:
    """The average of width `sigma_rel` over the weights up to `step` (by default the last stored one).

    SystemExit if the folder holds too little for it, or damaged files.
    """
    found = snapshots(folder)
    if not found:
        raise SystemExit(f"{folder} holds no averages")
    step = max(found)[0] if step is None else step
    stored = [own for own in found if own[0] <= step]
    if not stored or max(stored)[0] < step:
        raise SystemExit(f"{folder} holds no average of step {step}; the last one is of step {max(found)[0]}")
    total: dict[str, Tensor] = {}
    for own, share in zip(stored, shares(stored, (step, sigma_rel)), strict=True):
        try:
            tensors = load_tensors(folder / snapshot_name(*own))
        except ValueError as error:
            raise SystemExit(str(error)) from None
        for name, tensor in tensors.items():
            if not tensor.is_floating_point():
                total[name] = tensor
            elif name in total:
                total[name] += share * tensor.float()
            else:
                total[name] = share * tensor.float()
    return total


class Profiles:
    """The averages of networks, of each width of `settings["sigma_rel"]`; `averages` are of the first."""

    def __init__(self, settings: dict[str, Any], networks: dict[str, nn.Module]):
        self.settings = settings
        self.held = {
            sigma_rel: {n: copy.deepcopy(network).requires_grad_(False).eval() for n, network in networks.items()}
            for sigma_rel in settings["sigma_rel"]
        }
        self.averages, *others = self.held.values()
        self.others = {f"{n}~{i}": a for i, profile in enumerate(others, 2) for n, a in profile.items()}

    @torch.no_grad()
    def update(self, networks: dict[str, nn.Module], step: int) -> None:
        """Takes in the weights after `step` steps; running statistics are copied."""
        for sigma_rel, profile in self.held.items():
            decay = (1 - 1 / step) ** (exponent(sigma_rel) + 1)
            for name, average in profile.items():
                weights = list(average.parameters()), list(networks[name].parameters())
                torch._foreach_lerp_(*weights, 1 - decay)
                for kept, buffer in zip(average.buffers(), networks[name].buffers(), strict=True):
                    kept.copy_(buffer)

    def save(self, folder: Path, step: int, run: Run) -> None:
        """Stores the averages, with `half` their matrices and kernels in float16; all processes call it."""
        for sigma_rel, profile in self.held.items():
            weights = joined({n: network_state(average, run) for n, average in profile.items()})
            if run.main:
                if self.settings["half"]:
                    weights = {n: w.half() if w.is_floating_point() and w.ndim > 1 else w for n, w in weights.items()}
                write_whole(folder / snapshot_name(step, sigma_rel), partial(save_tensors, weights))

    def reconstruct(self, folder: Path, path: Path) -> None:
        """Writes the average of width `settings["target"]` over all steps."""
        weights = reconstructed(folder, self.settings["target"])
        write_whole(path, partial(save_tensors, weights))
