"""The judge of a league: a small convolutional classifier of its images, as a file that `--features` takes.

Symbols: N images, C channels, K classes.
"""

from __future__ import annotations

import io
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from latentc.diagnostics.faults import needed
from latentc.league.images import Images
from latentc_runtime.hashes import write_whole

NAME = "classifier"
WIDTHS, FEATURES = (32, 64, 128), 64
STEPS, BATCH, RATE = 1_500, 128, 2e-3


def trained(images: Images) -> tuple[Path, float]:
    """(description for `--features`, accuracy on the images held out) of the classifier in the league's folder.

    Trains it unless it is there: 1,500 steps from seed 0, on one thread, so that it is always the same on a machine.
    Its features are the last hidden layer, f32[N, 64], which a Fréchet distance compares. DiagnosticError E0706.
    """
    file = images.folder / f"{NAME}.yaml"
    if not file.is_file():
        torch = needed("torch", "the classifier of a league", 'pip install "latentc[torch]"')
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            accuracy = _train(torch, images)
        finally:
            torch.set_num_threads(threads)
        about: dict[str, Any] = {
            "file": f"{NAME}.pt",
            "title": f"a classifier of these images, {accuracy:.3f} right on those held out",
            "channels": images.channels,
            "range": [-1.0, 1.0],
            "features": 0,
            "logits": 1,
            "classifies": True,
        }
        write_whole(file, yaml.safe_dump(about, sort_keys=False).encode())
        write_whole(images.folder / f"{NAME}.txt", f"{accuracy}\n".encode())
    return file, float((images.folder / f"{NAME}.txt").read_text())


def _train(torch: Any, images: Images) -> float:
    nn = torch.nn

    class Classifier(nn.Module):  # type: ignore[misc, name-defined]
        """Convolutions, each with half the pixels of the last; features f32[N, 64] and logits f32[N, K]."""

        def __init__(self) -> None:
            super().__init__()
            sizes = (images.channels, *WIDTHS)
            layers: list[Any] = []
            for before, after in pairwise(sizes):
                layers += [nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU()]
            self.layers = nn.Sequential(*layers)
            self.hidden = nn.Linear(WIDTHS[-1] * 16, FEATURES)
            self.last = nn.Linear(FEATURES, images.classes)

        def forward(self, x: Any) -> Any:
            features = torch.relu(self.hidden(self.layers(x).flatten(1)))
            return features, self.last(features)

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    with np.load(images.training) as arrays:
        x, y = _normal(torch, arrays["arr_0"]), torch.from_numpy(arrays["arr_1"])
    model = Classifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        rows = torch.from_numpy(rng.integers(len(x), size=BATCH))
        loss = nn.functional.cross_entropy(model(x[rows])[1], y[rows], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()
    with np.load(images.held_out) as arrays, torch.inference_mode():
        found = model(_normal(torch, arrays["arr_0"]))[1].argmax(1)
        accuracy = float((found.numpy() == arrays["arr_1"]).mean())
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it is what `--features` reads without another package
        torch.jit.save(torch.jit.trace(model, x[:2]), content)
    write_whole(images.folder / f"{NAME}.pt", content.getvalue())
    return accuracy


def _normal(torch: Any, pictures: Any) -> Any:
    """u8[N, H, W, C] -> f32[N, C, H, W] from -1 to 1."""
    return torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))).float() / 127.5 - 1
