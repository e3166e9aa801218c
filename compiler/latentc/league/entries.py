"""The systems of a league and the first stages of some, each as a spec for its images."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from latentc.diagnostics import DiagnosticError, did_you_mean
from latentc.league.images import SIDE, Images
from latentc.survey.report import flow

TABLE = Path(__file__).with_name("systems.yaml")
BATCH = 64
LATENTS, CODES, SCALES = "latents", "codes", "scales"
GRID, CHANNELS, VOCABULARY, SIDES = 8, 4, 256, (1, 2, 3, 4, 6, 8)
QUIET = ("train.sample_every=null", "train.evaluate_every=null", "train.workers=0", "train.checkpoint_every=1000000")


@dataclass(frozen=True)
class Entry:
    """A system: the shipped spec that it starts from, its family, what it `reads`, and settings for this size."""

    name: str
    spec: str
    family: str = ""
    reads: str = "pixels"
    set: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stage(self) -> str | None:
        """The name of the first stage that makes what it reads; None of pixels."""
        return None if self.reads == "pixels" else self.reads


@dataclass(frozen=True)
class Stage:
    """A trained first stage: its spec and weights, and the mean and standard deviation of its latents."""

    spec: Path
    weights: Path
    mean: float = 0.0
    deviation: float = 1.0


@functools.cache
def _table() -> Any:
    return yaml.safe_load(TABLE.read_text(encoding="utf-8"))


def systems() -> dict[str, Entry]:
    """The systems by name, in the order in which they run."""
    return {name: Entry(name, **row) for name, row in _table()["systems"].items()}


def stage_entry(reads: str) -> Entry:
    """The first stage that makes `latents`, `codes` or `scales` of pixels."""
    return Entry(reads, family="first stage", **_table()["stages"][reads])


def chosen(names: Sequence[str]) -> list[Entry]:
    """The systems called `names`; all of them if there are none. DiagnosticError E0401."""
    known = systems()
    for name in names:
        if name not in known:
            mend = did_you_mean(name, known, f"systems of a league: {', '.join(known)}")
            raise DiagnosticError.of("E0401", f"a league has no system `{name}`", help=mend)
    return [known[name] for name in dict.fromkeys(names)] if names else list(known.values())


def overrides(entry: Entry, images: Images, stage: Stage | None, seed: int) -> tuple[str, ...]:
    """The settings, as `--set` takes them, that turn the entry's spec into one for these images."""
    settings = {
        "data": _data(entry, images, stage),
        **entry.set,
        "train.batch_size": min(BATCH, 2 ** int(math.log2(max(1, images.size / 2)))),
        "train.seed": seed,
    }
    return (*(f"{path}={flow(value)}" for path, value in settings.items()), *QUIET)


def _data(entry: Entry, images: Images, stage: Stage | None) -> dict[str, Any]:
    data: dict[str, Any] = {"classes": images.classes, "horizontal_flip": False}
    if stage is None:
        arrays = {"kind": "npz", "path": str(images.training), "keys": {"x": "arr_0", "y": "arr_1"}}
        return {**arrays, **data, "shape": [images.channels, SIDE, SIDE]}
    data = {"kind": "edm", "path": str(images.files), **data}
    first: dict[str, Any] = {"spec": str(stage.spec), "weights": str(stage.weights)}
    if entry.reads == LATENTS:
        first |= {"shift": stage.mean, "scale": 1 / stage.deviation}
        return {**data, "shape": [CHANNELS, GRID, GRID], "first_stage": first}
    grid = [GRID, GRID] if entry.reads == CODES else [sum(side**2 for side in SIDES)]
    return {**data, "tokens": {"vocabulary": VOCABULARY, "grid": grid}, "first_stage": first}
