"""Shared by the benchmarks on scikit-learn's digits: trainings, the samples of their engines, and judging these."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from common import verdict
from numpy.typing import NDArray

import latentc_runtime
from latentc import api

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "digits"))
import metrics


class Training(NamedTuple):
    """A finished training: its weights, the processor seconds it took, and every loss and error that it printed."""

    weights: Path
    seconds: float
    losses: dict[str, list[float]]

    def fall(self, at: int = 2, last: int = 20) -> float:
        """How many times as large the first `at` printed losses are as the `last` ones, by their means."""
        values = self.losses["loss"]
        return float(np.mean(values[:at]) / np.mean(values[-last:]))


def trained(
    spec: str,
    project: Path,
    pretrained: Mapping[str, Path] | None = None,
    overrides: Sequence[str] = (),
    seed: int | None = None,
    variant: str | None = None,
    steps: int | None = None,
) -> Training:
    """Trains a spec if its weights are not in the folder yet; goes on with a training that was broken off.

    Networks of `pretrained` start from its files. `seed` and `steps` are the spec's own by default.
    """
    weights = (project / "runs/train/weights.safetensors").resolve()
    log = project / "log.txt"
    if not weights.exists():
        if not project.exists():
            api.emit(spec, project, variant, list(overrides))
        flags = [f"--{name}={value}" for name, value in (("seed", seed), ("steps", steps)) if value is not None]
        flags += ["--resume=true"]
        for network, file in (pretrained or {}).items():
            flags += [f"--roles.{network}.pretrained", str(file)]
        environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
        before = _processor_seconds()
        with log.open("a", encoding="utf-8") as file:
            command = [sys.executable, "train.py", *flags]
            code = subprocess.run(command, cwd=project, env=environment, stdout=file, check=False).returncode
            file.write(f"processor seconds {_processor_seconds() - before:.1f}\n")
        if code:
            raise SystemExit(f"{project}: training failed with {code}; see {log}")
        if not weights.exists():  # of SIGTERM, after which it has saved a checkpoint
            raise SystemExit(f"{project}: training was stopped; run the benchmark again to go on")
    text = log.read_text(encoding="utf-8") if log.exists() else ""
    losses: dict[str, list[float]] = {}
    for row in re.findall(r"^step \d+(?:/\d+)?: (.*)", text, re.M):
        for name, value in re.findall(r"([\w/]+) ([-+.\deinfa]+)", row):
            if name.rpartition("/")[2] in ("loss", "error"):
                losses.setdefault(name, []).append(float(value))
    seconds = re.findall(r"processor seconds ([.\d]+)", text)  # of one who was broken off, not all are known
    return Training(weights, sum(map(float, seconds)) if seconds else float("nan"), losses)


def of_seed(out: Path, spec: str, seed: int) -> Path:
    """The project of a spec and a seed."""
    return out / f"seed{seed}" / spec.replace("_", "-")


def _processor_seconds() -> float:
    """Of the processes that this one has waited for."""
    used = os.times()
    return used.children_user + used.children_system


Rows = dict[str, list[dict[str, float]]]
"""{training: its figures by name, one row per seed}."""


def of_trainings(
    doc: str,
    out: Path,
    trainings: Mapping[str, tuple[str, ...]],
    measured: Callable[[Path, tuple[str, ...], int, int | None], dict[str, float]],
) -> Rows:
    """Runs the command line of a benchmark that measures a spec under several overrides, with each seed.

    `doc` is the script's docstring, `out` the default folder; `measured` gets a training's folder, its overrides, the
    seed and the steps (None: the spec's own). Every row is printed as it is found, then the mean of the seeds.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=out, help="folder of projects and bundles")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--steps", type=int, help="steps of training; by default those of the spec")
    args = parser.parse_args()
    found: Rows = {name: [] for name in trainings}
    for seed in range(args.seeds):
        for name, overrides in trainings.items():
            folder = args.out / name.replace(" ", "_") / f"seed{seed}"
            found[name].append(measured(folder, overrides, seed, args.steps))
            row = ", ".join(f"{key} {value:.4g}" for key, value in found[name][-1].items())
            print(f"{name}, seed {seed}: {row}", flush=True)
    for name, rows in found.items():
        print(f"{name}: {', '.join(f'{key} {spread([row[key] for row in rows])}' for key in rows[0])}")
    return found


class Figures(NamedTuple):
    """The classifier's judgement of samples."""

    accuracy: float
    frechet: float

    def __str__(self) -> str:
        return f"accuracy {self.accuracy:.4f}, Fréchet distance {self.frechet:.4f}"


def judged(samples: NDArray[Any], labels: NDArray[np.integer]) -> Figures:
    """Class accuracy and Fréchet distance by the classifier of examples/digits.

    Samples are f32[N, 1, 8, 8] in -1…1, or i64[N, 64] of grey levels 0 to 16.
    """
    shown = samples / 8.0 - 1.0 if samples.dtype.kind == "i" else samples
    found = metrics.judged(shown.reshape(-1, 1, 8, 8), labels)
    return Figures(float(found["accuracy"][0]), float(found["frechet"]))


def figures(
    spec: str,
    weights: Path,
    bundle: Path,
    overrides: Sequence[str] = (),
    samples: int = 1000,
    first: int = 9_000_000,
    told: Callable[[NDArray[np.integer]], dict[str, Any]] | None = None,
) -> Figures:
    """Compiles a spec and judges samples of all digits in turn; `first` is the seed of the first one.

    `told`: what a label is as conditions of a request, if the spec's condition is not the label itself.
    """
    api.compile(spec, weights, bundle, overrides=list(overrides))
    return judged(drawn(bundle, samples, first, told), np.arange(samples) % 10)


def drawn(
    bundle: Path,
    samples: int = 1000,
    first: int = 9_000_000,
    told: Callable[[NDArray[np.integer]], dict[str, Any]] | None = None,
) -> NDArray[np.floating]:
    """Samples f32[N, 1, 8, 8] of all digits in turn, drawn by a bundle."""
    labels, seeds = np.arange(samples) % 10, np.arange(first, first + samples)
    pipe = latentc_runtime.load(bundle, "cpu")
    return pipe.sample(labels, seeds) if told is None else pipe.sample(conditions=told(labels), seeds=seeds)


def halves() -> tuple[metrics.Digits, metrics.Digits]:
    """The digits to train on, and those that nothing has seen."""
    return metrics.split()


def images(half: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Images f32[N, 1, 8, 8] in -1…1 of the training half (0) or the held-out half (1), and their labels."""
    digits = halves()[half]
    return (digits.images[:, None] / 8.0 - 1.0).astype(np.float32), digits.labels


def shifted(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Images f32[N, 1, 8, 8] and four copies moved by a pixel along rows or columns: f32[5 N, 1, 8, 8].

    Pixels that come in are background. The classifier knows such copies, and none that are moved along both.
    """
    wide = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-1)
    return np.concatenate([wide[..., i : i + 8, j : j + 8] for i, j in ((1, 1), (0, 1), (2, 1), (1, 0), (1, 2))])


def spread(values: Iterable[float], digits: int = 3) -> str:
    """The mean of several runs and their range: `0.993 (0.991 to 0.995)`; a single one as it is."""
    found = list(values)
    mean = f"{np.mean(found):.{digits}f}"
    return mean if len(found) == 1 else f"{mean} ({min(found):.{digits}f} to {max(found):.{digits}f})"


def compared(found: Mapping[str, Sequence[Figures]], accuracy: float, frechet: float) -> int:
    """Prints the figures of two ways by their seeds, and whether the first reaches its goals; 1 if it misses one.

    `accuracy`: its least class accuracy. `frechet`: its largest Fréchet distance over that of the other, seed by seed.
    """
    (own, ours), (other, theirs) = found.items()
    for name, rows in found.items():
        if rows:
            accuracies, distances = zip(*rows, strict=True)
            print(f"{name}: class accuracy {spread(accuracies)}, Fréchet distance {spread(distances)}")
    ratios = [mine.frechet / its.frechet for mine, its in zip(ours, theirs, strict=False)]
    lines = [verdict(f"class accuracy, {own}", [one.accuracy for one in ours], accuracy, "")]
    if ratios:
        lines.append(verdict(f"Fréchet distance, {own}, of that of {other}", ratios, frechet, "×", least=False))
    print(*lines, sep="\n")
    return int(any("MISSED" in line for line in lines))


__all__ = [
    "Figures",
    "Rows",
    "Training",
    "compared",
    "drawn",
    "figures",
    "halves",
    "images",
    "judged",
    "of_seed",
    "of_trainings",
    "shifted",
    "spread",
    "trained",
]
