"""The runs in folders: settings, state, curves and sample grids, as the training project writes them."""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from latentc.diagnostics import DiagnosticError

DEPTH = 5  # levels of folders that are searched
PARTS = ("metrics.csv", "tensorboard", "checkpoints", "samples", "weights.safetensors")  # a run has at least one
USUAL = ("loss", "*/loss", "evaluate/*")
Curve = list[tuple[int, float]]
"""(step, value) by step."""


@dataclass(frozen=True)
class TrainingRun:
    """A folder with the config.yaml of a run. `name`: as its folder was found; `grids`: sample files by step.

    `note`: why it has no curves, if it has none.
    """

    folder: Path
    name: str
    config: dict[str, Any]
    curves: dict[str, Curve]
    grids: dict[int, Path]
    note: str

    @property
    def total(self) -> int | None:
        """Steps of the whole training, None if config.yaml does not say."""
        steps = _train(self.config).get("steps")
        return steps if isinstance(steps, int) else None

    @property
    def step(self) -> int:
        """The last step of which there is a point of a curve, a checkpoint or a sample grid."""
        checkpoints = [int(path.name[5:]) for path in self.folder.glob("checkpoints/step-*") if path.name[5:].isdigit()]
        return max([0, *self.grids, *checkpoints, *(curve[-1][0] for curve in self.curves.values())])

    @property
    def finished(self) -> bool:
        return self.step == self.total and (self.folder / "weights.safetensors").is_file()

    @property
    def state(self) -> str:
        """How far it is, in words."""
        if self.finished or self.total is None:
            return f"{'finished, ' if self.finished else ''}{self.step:,} steps"
        return f"{self.step:,} of {self.total:,} steps"

    @property
    def changed(self) -> float:
        """When something was last logged or saved, in seconds since 1970."""
        files = [self.folder / part for part in ("config.yaml", *PARTS)]
        return max(file.stat().st_mtime for file in files if file.exists())

    def data(self) -> dict[str, Any]:
        """As plain data for JSON."""
        from latentc.measure.tables import finite

        found = {"run": self.name, "folder": str(self.folder), "finished": self.finished, "step": self.step}
        found |= {"steps": self.total, "samples": {step: str(path) for step, path in self.grids.items()}}
        found["curves"] = {
            name: {"step": [x for x, _ in curve], "value": [y for _, y in curve]} for name, curve in self.curves.items()
        }
        return dict(finite(found))


def find_runs(places: Sequence[Path | str]) -> list[TrainingRun]:
    """The runs that `places` are or hold, in order of their names.

    DiagnosticError: E0401 if a place does not exist, E0719 if it holds no run.
    """
    found: dict[Path, TrainingRun] = {}
    for place in map(Path, places):
        if not place.is_dir():
            raise DiagnosticError.of("E0401", f"no such folder: {place}", help="name the folder of a run, or one above")
        folders = list(_folders(place))
        if not folders:
            help = "name the folder of a run (`PROJECT/runs/train` by default), or one above it"
            raise DiagnosticError.of("E0719", f"{place} holds no training run", help=help)
        found |= {folder.resolve(): _run(folder) for folder in folders if folder.resolve() not in found}
    return list(found.values())


def shown_curves(runs: Sequence[TrainingRun], wanted: Sequence[str]) -> list[str]:
    """The names of curves that match one of the patterns `wanted`, losses and sample metrics by default.

    DiagnosticError E0719 if nothing matches a pattern of the caller's.
    """
    names = list(dict.fromkeys(name for run in runs for name in run.curves))
    for pattern in wanted:
        if not any(fnmatchcase(name, pattern) for name in names):
            known = ", ".join(names) or "none"
            raise DiagnosticError.of("E0719", f"no run has a curve `{pattern}`", help=f"curves of these runs: {known}")
    patterns = wanted or USUAL
    chosen = [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
    return sorted(chosen, key=lambda name: next(i for i, p in enumerate(patterns) if fnmatchcase(name, p)))


def _folders(place: Path) -> Iterator[Path]:
    """The folders of runs at or below a place."""
    depth = len(place.parts)
    for path, below, files in os.walk(place):
        folder = Path(path)
        if "config.yaml" in files and any(part in files or part in below for part in PARTS):
            below.clear()
            yield folder
        elif len(folder.parts) - depth >= DEPTH:
            below.clear()
        else:
            below[:] = sorted(name for name in below if not name.startswith((".", "__")))


def _run(folder: Path) -> TrainingRun:
    config = _config(folder / "config.yaml")
    curves, note = _curves(folder)
    grids = {int(path.stem): path for path in sorted(folder.glob("samples/*")) if re.fullmatch(r"\d{8}", path.stem)}
    shown = {step: path for step, path in grids.items() if path.suffix in (".png", ".txt")}
    return TrainingRun(folder, os.path.relpath(folder), config, curves, shown, note)


def _config(file: Path) -> dict[str, Any]:
    """The settings of a run; none if the file cannot be read."""
    import yaml

    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return config if isinstance(config, dict) else {}


def _train(config: dict[str, Any]) -> dict[str, Any]:
    train = config.get("train")
    return train if isinstance(train, dict) else {}


def _curves(folder: Path) -> tuple[dict[str, Curve], str]:
    """Curves by name, and a note if there are none."""
    if (folder / "metrics.csv").is_file():
        curves = _from_csv(folder / "metrics.csv")
        return curves, "" if curves else "nothing is logged yet"
    if (folder / "tensorboard").is_dir():
        try:
            return _from_tensorboard(folder / "tensorboard"), ""
        except ImportError:
            return {}, 'its curves are in files of TensorBoard: pip install "latentc[torch]" to see them'
    elsewhere = [log for log in ("wandb", "mlflow") if (folder / f"{log}_id.txt").exists()]
    return {}, f"its curves are in {' and '.join(elsewhere)}" if elsewhere else "it has no curves"


def _from_csv(file: Path) -> dict[str, Curve]:
    """Of a repeated step the last value counts; lines that are not whole are skipped."""
    found: dict[str, dict[int, float]] = {}
    with file.open(encoding="utf-8", errors="replace", newline="") as rows:
        for row in csv.reader(rows):
            try:
                step, name, value = int(row[0]), row[1], float(row[2])
            except (ValueError, IndexError):
                continue
            found.setdefault(name, {})[step] = value
    return {name: sorted(points.items()) for name, points in found.items()}


def _from_tensorboard(folder: Path) -> dict[str, Curve]:
    """ImportError if TensorBoard is not installed."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    names = events.Tags()["scalars"]
    return {name: sorted({e.step: float(e.value) for e in events.Scalars(name)}.items()) for name in names}


def on_a_log_scale(values: Sequence[float]) -> bool:
    """True if values span so much that a linear scale would show only the largest."""
    known = [value for value in values if math.isfinite(value)]
    return bool(known) and min(known) > 0 and max(known) / min(known) >= 20
