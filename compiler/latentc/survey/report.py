"""The result of an inspection, as text and as plain data."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

SHOWN = 12  # classes, files and messages that the text lists of each sort


@dataclass(frozen=True)
class Finding:
    """A file (or row) and what is unusual or wrong about it."""

    name: str
    what: str


@dataclass
class Survey:
    """The contents of a data set; `section` is the `data` section of a spec that reads it.

    `size`: number of samples. `read`: how many of them were read. `sizes`: {(width, height): images}. `modes`: images
    by colours, such as grey and RGB. `classes`: samples per class. `mean`, `deviation`: per channel, of pixels from 0
    to 1 or of the values of arrays. `least`, `most`: smallest and largest value; of images from 0 to 255.
    `glyphs`: share of pixels that are nearly black or white. `shape`: of a sample, if all have the same.
    """

    path: str
    section: dict[str, Any]
    size: int
    read: int = 0
    shape: tuple[int, ...] | None = None
    dtype: str = "uint8"
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    classes: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    mean: list[float] = field(default_factory=list)
    deviation: list[float] = field(default_factory=list)
    least: float | None = None
    most: float | None = None
    glyphs: float = 0.0
    damaged: list[Finding] = field(default_factory=list)
    odd: list[Finding] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def channels(self) -> int:
        """3 if a tenth of the images or more have colours, else 1; of arrays those of a sample."""
        if self.shape is not None:
            return self.shape[0]
        coloured = sum(count for mode, count in self.modes.items() if mode != "grey")
        return 3 if 10 * coloured >= sum(self.modes.values()) else 1

    @property
    def sides(self) -> np.ndarray:
        """Short sides of the images in pixels, ascending."""
        return np.sort(np.repeat([min(size) for size in self.sizes], list(self.sizes.values())).astype(np.int64))

    def class_name(self, number: int) -> str:
        """The name of a class, or its number."""
        return self.names[number] if number < len(self.names) else str(number)

    def data(self) -> dict[str, Any]:
        """As plain data for JSON."""
        sides = self.sides
        return {
            "path": self.path,
            "data": self.section,
            "samples": self.size,
            "read": self.read,
            "shape": None if self.shape is None else list(self.shape),
            "dtype": self.dtype,
            "channels": self.channels,
            "sizes": [{"width": w, "height": h, "images": n} for (w, h), n in self.sizes.most_common()],
            "short_side": {"least": int(sides[0]), "median": int(np.median(sides)), "most": int(sides[-1])}
            if len(sides)
            else None,
            "colours": dict(self.modes),
            "classes": [{"name": self.class_name(i), "samples": n} for i, n in enumerate(self.classes)],
            "mean": self.mean,
            "deviation": self.deviation,
            "range": None if self.least is None else [self.least, self.most],
            "damaged": {one.name: one.what for one in self.damaged},
            "odd": _by_name(self.odd),
            "ignored": self.ignored,
            "notes": self.notes,
        }

    def text(self) -> str:
        """A paragraph per question; ends with a line break."""
        head = f"{self.path}: {self.section['kind']}, {self.size:,} samples"
        if self.read < self.size:
            head += f", of which {self.read:,} were read"
        rows = [head]
        if self.sizes:
            sides, (usual, count) = self.sides, self.sizes.most_common(1)[0]
            words = f"{usual[0]} × {usual[1]} ({count:,} of {self.sizes.total():,})"
            if len(self.sizes) > 1:
                words += f"; short sides from {sides[0]} to {sides[-1]}, median {int(np.median(sides))}"
            rows.append(f"sizes     {words}")
        if self.shape is not None:
            rows.append(f"shape     {list(self.shape)}, {self.dtype}")
        if self.modes:
            rows.append(f"colours   {', '.join(f'{mode} {n:,}' for mode, n in self.modes.most_common())}")
        if self.least is not None:
            unit = " (of 0 to 1)" if self.modes else ""
            mean, deviation = (" ".join(f"{v:.3f}" for v in values) for values in (self.mean, self.deviation))
            rows.append(f"values    {self.least:g} to {self.most:g}; mean {mean}, standard deviation {deviation}{unit}")
        if self.classes:
            rows += self._classes()
        rows += _listed("damaged", [f"{one.name}: {one.what}" for one in self.damaged])
        rows += _listed("odd", [f"{name}: {', '.join(whats)}" for name, whats in _by_name(self.odd).items()])
        rows += _listed("ignored", self.ignored)
        rows += [f"note      {note}" for note in self.notes]
        return "\n".join([*rows, f"spec      data: {flow(self.section)}", ""])

    def _classes(self) -> list[str]:
        least, most = min(self.classes), max(self.classes)
        per = f"{least:,}" if least == most else f"{least:,} to {most:,}"
        shown = [f"{self.class_name(i)} {n:,}" for i, n in enumerate(self.classes[:SHOWN])]
        more = ", …" if len(self.classes) > SHOWN else ""
        return [f"classes   {len(self.classes)}, of {per} samples: {', '.join(shown)}{more}"]


def _by_name(findings: list[Finding]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for one in findings:
        found.setdefault(one.name, []).append(one.what)
    return found


def _listed(title: str, lines: list[str]) -> list[str]:
    if not lines:
        return []
    rows = [f"{title:9} {len(lines):,}:", *(f"            {line}" for line in lines[:SHOWN])]
    return rows + ([f"            and {len(lines) - SHOWN:,} more (--json lists all)"] if len(lines) > SHOWN else [])


def flow(value: Any) -> str:
    """A value as YAML in one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(flow, value)) + "]"
    if isinstance(value, str):
        plain = value.replace("/", "").replace("_", "").replace("-", "").replace(".", "")
        reserved = value.lower() in ("null", "true", "false", "yes", "no", "on", "off", "~")
        return (
            value if plain.isascii() and plain.isalnum() and plain[0].isalpha() and not reserved else json.dumps(value)
        )
    return json.dumps(value)
