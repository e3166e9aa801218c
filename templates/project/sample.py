"""Samples from trained weights with PyTorch.

    python sample.py --weights runs/train/weights.safetensors --classes 0-9 --per-class 10 -o grid.png

Sample i has seed `seed + i`; it depends on its own seed and class alone. `--raw out.npz` keeps the arrays.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm

from config import load_config
from data import pictures
from model import NETWORKS
from sampler import SAMPLERS, SETTINGS
from sources import Given, Input, input_array

# The networks that samples are drawn with; all where there is no sampler.
SAMPLED = [n for n in NETWORKS if not SAMPLERS or any(n in s.networks for s in SAMPLERS.values())]


class Steps:
    """A per-step input [N, B, ...], of which a row is made only when it is read.

    `rows` numbers them; grouped and picked from like the tensor's leading axes.
    """

    def __init__(self, entry: Input, given: Given, rows: np.ndarray, device: torch.device):
        self.arguments, self.rows, self.device = (entry, given), rows, device

    def _of(self, rows: np.ndarray) -> "Steps":
        return Steps(*self.arguments, rows, self.device)

    def __getitem__(self, index: Any) -> "Steps":
        return self._of(self.rows[index])

    def unflatten(self, axis: int, sizes: tuple[int, ...]) -> "Steps":
        return self._of(self.rows.reshape(*self.rows.shape[:axis], *sizes, *self.rows.shape[axis + 1 :]))

    def unsqueeze(self, axis: int) -> "Steps":
        return self._of(np.expand_dims(self.rows, axis))

    def squeeze(self, axis: int) -> "Steps":
        return self._of(np.squeeze(self.rows, axis))

    def __iter__(self) -> Iterator[Any]:
        for rows in self.rows:
            if rows.ndim:
                yield self._of(rows)
            else:
                yield torch.from_numpy(input_array(*self.arguments, int(rows))).to(self.device)


def inputs_of(sampler: Any, given: Given, device: torch.device) -> dict[str, Any]:
    """What a sampler takes, by name."""
    found: dict[str, Any] = {}
    for name, entry in sampler.inputs.items():
        if entry.rows is not None and entry.source.distribution == "normal":
            found[name] = Steps(entry, given, np.arange(entry.rows), device)
        else:
            found[name] = torch.from_numpy(input_array(entry, given)).to(device)
    return found


@torch.no_grad()
def draw(
    networks: dict[str, nn.Module],
    classes: Sequence[int],
    seeds: Sequence[int],
    config: dict[str, Any],
    guidance: float | None = None,
    steps: int | None = None,
    batch: int = 64,
    truncation: float | None = None,
) -> Tensor:
    """Samples f32 [B, C, H, W] or tokens i64 [B, T] on the CPU, one a class and seed."""
    if not SAMPLERS:
        raise SystemExit("the spec names no sampler")
    steps = next(iter(SAMPLERS)) if steps is None else steps
    if steps not in SAMPLERS:
        held = ", ".join(map(str, SAMPLERS))
        raise SystemExit(f"--steps: this project holds {held}; emit it again for {steps}")
    sampler = SAMPLERS[steps]
    models = [networks[name].eval() for name in sampler.networks]
    device = next(models[0].parameters()).device
    scales = {"guidance": guidance, "truncation": truncation}
    values = {s.name: s.value if scales.get(s.name) is None else scales[s.name] for s in SETTINGS}
    settings = {name: np.full(len(classes), value, np.float64) for name, value in values.items()}
    given = Given(np.array(seeds, np.uint64), {"class": np.asarray(classes)}, {}, settings)
    parts = []
    for at in tqdm(range(0, len(classes), batch), desc="sampling", leave=False, disable=None):
        parts.append(sampler.sample(*models, **inputs_of(sampler, given.part(at, at + batch), device)).cpu())
    return torch.cat(parts)


def grid(samples: Tensor, config: dict[str, Any], columns: int, gap: int = 0) -> Any:
    """A picture of all samples, row after row."""
    from PIL import Image

    images = pictures(samples, config)
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    cells = np.full((rows * columns, height + gap, width + gap, channels), 255, np.uint8)
    cells[:count, :height, :width] = images
    sheet = cells.reshape(rows, columns, height + gap, width + gap, channels).swapaxes(1, 2)
    sheet = sheet.reshape(rows * (height + gap), columns * (width + gap), channels)
    sheet = sheet[: sheet.shape[0] - gap, : sheet.shape[1] - gap]
    return Image.fromarray(sheet[..., 0] if channels == 1 else sheet)


def load_networks(file: Path, device: torch.device) -> dict[str, nn.Module]:
    """What samples are drawn with, by a .safetensors file or a checkpoint (the averaged weights, if any)."""
    if not file.is_file():
        raise SystemExit(f"--weights: there is no file {file}")
    networks = {name: NETWORKS[name]() for name in SAMPLED}
    if file.suffix == ".pt":
        content = torch.load(file, map_location="cpu", weights_only=True)
        states = content["averages"] or content["networks"]
    else:
        tensors = load_file(file)
        states = {
            name: {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}
            for name in networks
        }
        if not any(states.values()):  # of a lone network
            states = {"main": tensors}
    for name, network in networks.items():
        try:
            network.load_state_dict(states[name])
        except RuntimeError as error:
            raise SystemExit(f"{file} is of another model: {error}") from None
    return {name: network.to(device).eval() for name, network in networks.items()}


def numbers(text: str) -> list[int]:
    """`0-3,7` as [0, 1, 2, 3, 7]. ValueError where it is no such text."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if int(last or first) < int(first):
            raise ValueError(f"{part} is empty")
        found += range(int(first), int(last or first) + 1)
    return found


def natural(text: str, least: int = 0) -> int:
    """A whole number from `least` up. ValueError where it is none."""
    if int(text) < least:
        raise ValueError(f"{text} is less than {least}")
    return int(text)


def positive(text: str) -> int:
    """A whole number from 1 up. ValueError where it is none."""
    return natural(text, 1)


def main() -> None:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--weights", type=Path, required=True, help=".safetensors file, or a checkpoint")
    parser.add_argument("--classes", type=numbers, help="such as 0-9 or 3,7; else the first ten")
    parser.add_argument("--per-class", type=positive, default=10)
    parser.add_argument("--seed", type=natural, default=0)
    parser.add_argument("--guidance", type=float, help="scale of classifier-free guidance")
    parser.add_argument("--truncation", type=float, help="bound of a generator's noise; inf for none")
    parser.add_argument("--steps", type=int, help="one of the step counts that sampler.py holds")
    parser.add_argument("--batch", type=positive, default=64)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--raw", type=Path, help=".npz file for the arrays (samples, classes, seeds)")
    parser.add_argument("-o", "--output", type=Path, help="PNG of a grid, a row a class")
    flags = parser.parse_args()
    config = load_config([])
    known = config["data"]["classes"]
    settings = {setting.name for setting in SETTINGS}
    if flags.guidance is not None and "guidance" not in settings:
        raise SystemExit("--guidance: this sampler takes no scale")
    if flags.truncation is not None and "truncation" not in settings:
        raise SystemExit("--truncation: the noise of this sampler is not truncated")
    if flags.truncation is not None and not flags.truncation > 0:
        raise SystemExit("--truncation: a bound is above 0")
    classes = np.repeat(flags.classes or range(min(10, known)), flags.per_class)
    if classes.max() >= known:
        raise SystemExit(f"--classes: the model has classes 0 to {known - 1}")
    seeds = range(flags.seed, flags.seed + len(classes))
    networks = load_networks(flags.weights, torch.device(flags.device))
    samples = draw(
        networks, classes, seeds, config, flags.guidance, flags.steps, flags.batch, flags.truncation
    )
    if flags.raw:
        np.savez(flags.raw, samples=samples.numpy(), classes=classes, seeds=np.array(seeds))
    if flags.output:
        grid(samples, config, flags.per_class).save(flags.output)
        print(flags.output)


if __name__ == "__main__":
    main()
