"""The figures of a league: a row per system and seed, kept in files, shown as a table, as CSV and as a picture."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latentc.measure.plots import apart, logarithmic, panels, write_figure
from latentc.measure.tables import aligned, csv_text, finite
from latentc_runtime.codec import decode, encode, parse

DONE, FAILED = "done", "failed"
FIGURES = ("fd_classifier", "accuracy", "precision", "recall", "copies")


@dataclass(frozen=True)
class Engine:
    """A compiled system: figures of its samples, bytes of the bundle without its calibration."""

    figures: dict[str, float]
    bytes: int


@dataclass(frozen=True)
class Standing:
    """The result of a system from one seed; without `engine` if it failed, and `message` says why.

    `parameters`: of the networks that sampling runs. `steps` of training took `trained` processor seconds. `work`:
    floating-point operations per image, of the whole sampler.
    """

    system: str
    family: str
    reads: str
    seed: int
    status: str
    message: str = ""
    parameters: int = 0
    steps: int = 0
    trained: float = 0.0
    work: int = 0
    engine: Engine | None = None
    int8: Engine | None = None
    int8_message: str = ""


def standing_in(file: Path) -> Standing | None:
    """The row in a file; None if there is none."""
    try:
        return decode(Standing, parse(file.read_bytes()))
    except (OSError, ValueError):
        return None


@dataclass(frozen=True)
class Times:
    """Milliseconds per image of a system's engine, by batch; `int8`: of that with int8 weights and activations."""

    engine: dict[str, float] = field(default_factory=dict)
    int8: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class League:
    """All rows, and the times of each system. `budget`: processor seconds of a training.

    `real`: figures of training images in place of samples. `lost`: the share of the variance of held-out images that
    each first stage loses.
    """

    name: str
    budget: float
    count: int
    rows: Sequence[Standing]
    times: Mapping[str, Times]
    real: Mapping[str, float] = field(default_factory=dict)
    lost: Mapping[str, float] = field(default_factory=dict)

    def ranked(self) -> list[list[Standing]]:
        """The rows of each system that is done, the best Fréchet distance first."""
        groups: dict[str, list[Standing]] = {}
        for row in self.rows:
            if row.engine is not None:
                groups.setdefault(row.system, []).append(row)
        return sorted(groups.values(), key=lambda rows: _mean(rows, lambda r: _of(r, "fd_classifier")))

    def text(self) -> str:
        """A table of the systems, the best first; of several seeds the mean, and the least and most distance."""
        head = ["system", "reads", "family", "fd", "least", "most", "accuracy", "precision", "recall", "copies"]
        table = [
            [*head, "Mparam", "steps", "GFLOP", "ms at 1", "ms at 16", "MB", "int8 fd", "int8 ms at 16", "int8 MB"]
        ]
        for rows in self.ranked():
            table.append(_cells(rows, self.times[rows[0].system]))
        done = sum(row.status == DONE for row in self.rows)
        trainings = f"{done} of {len(self.rows)} trainings of {self.budget:g} processor seconds"
        title = f"{self.name}: {trainings}, {self.count} samples"
        real = ", ".join(f"{name} {value:.3f}" for name, value in self.real.items())
        lines = [title, f"training images in place of samples: {real}"]
        if self.lost:
            lost = ", ".join(f"{name} {value:.3f}" for name, value in self.lost.items())
            lines.append(f"share of the variance of held-out images that first stages lose: {lost}")
        lines += ["", *aligned(table, left=3)]
        lines += [f"{row.system} (seed {row.seed}): {row.message}" for row in self.rows if row.status != DONE]
        return "\n".join(lines) + "\n"

    def data(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        plain: dict[str, Any] = finite(
            {
                "name": self.name,
                "budget": self.budget,
                "count": self.count,
                "real": dict(self.real),
                "lost": dict(self.lost),
                "rows": [encode(row) for row in self.rows],
                "milliseconds": {name: encode(times) for name, times in self.times.items()},
            }
        )
        return plain

    def csv(self) -> str:
        """One row per training."""
        flat = []
        for row in self.rows:
            plain: dict[str, Any] = encode(row)
            times = self.times.get(row.system, Times())
            engine, int8 = plain.pop("engine"), plain.pop("int8")
            for name, held, own in (("", engine, times.engine), ("int8_", int8, times.int8)):
                held = held or {"figures": {}, "bytes": None}
                plain |= {f"{name}{key}": held["figures"].get(key) for key in FIGURES}
                plain |= {f"{name}ms_{batch}": own.get(batch) for batch in ("1", "16")}
                plain[f"{name}bytes"] = held["bytes"]
            flat.append(plain)
        return csv_text(flat)


def write_plot(league: League, path: Path) -> None:
    """Writes league.svg and league.png: quality against time per image at batch 1, a point per system."""
    write_figure(lambda: drawn(league), path / "league")


def drawn(league: League) -> Any:
    """The figure: the Fréchet distance against the time of one image, by family."""
    families = list(dict.fromkeys(rows[0].family for rows in league.ranked()))
    names: list[Any] = []

    def panel(area: Any, _: int) -> None:
        from matplotlib import colormaps

        colours = {family: colormaps["tab10"](i) for i, family in enumerate(families)}
        for rows in league.ranked():
            x = league.times[rows[0].system].engine["1"]
            values = [_of(r, "fd_classifier") for r in rows]
            y = statistics.fmean(values)
            colour = colours[rows[0].family]
            area.errorbar(
                [x], [y], [[y - min(values)], [max(values) - y]], fmt="o", ms=6, color=colour, capsize=2, lw=1,
                label=rows[0].family,
            )  # fmt: skip
            names.append(area.text(x, y, rows[0].system, fontsize=7))
        logarithmic(area.set_xscale, area.xaxis)
        logarithmic(area.set_yscale, area.yaxis)
        area.set_xlabel("milliseconds per image, at batch 1")
        area.set_ylabel("Fréchet distance (lower is better)")

    title = f"{league.name}: quality against time, each trained for {league.budget:g} processor seconds"
    figure = panels(1, panel, title)
    figure.set_size_inches(9, 7)
    apart(figure, names)
    return figure


def _cells(rows: Sequence[Standing], own: Times) -> list[str]:
    values = [_of(row, "fd_classifier") for row in rows]
    first = rows[0]
    assert first.engine is not None
    spread = [f"{min(values):.3g}", f"{max(values):.3g}"] if len(rows) > 1 else ["", ""]
    figures = [f"{_mean(rows, lambda r, n=name: _of(r, n)):.3f}" for name in FIGURES[1:]]  # type: ignore[misc]
    counts = [f"{first.parameters / 1e6:.2f}", f"{_mean(rows, lambda r: r.steps):.0f}", f"{first.work / 1e9:.3g}"]
    times = [f"{own.engine[batch]:.3g}" for batch in ("1", "16")]
    small = [row.int8 for row in rows if row.int8 is not None]
    int8 = ["", "", ""]
    if small:
        distance = statistics.fmean(one.figures["fd_classifier"] for one in small)
        int8 = [f"{distance:.3g}", f"{own.int8['16']:.3g}", f"{small[0].bytes / 1e6:.2f}"]
    head = [first.system, first.reads, first.family, f"{statistics.fmean(values):.3g}", *spread]
    return [*head, *figures, *counts, *times, f"{first.engine.bytes / 1e6:.2f}", *int8]


def _of(row: Standing, name: str) -> float:
    assert row.engine is not None
    return row.engine.figures.get(name, float("nan"))


def _mean(rows: Iterable[Standing], value: Callable[[Standing], float]) -> float:
    return statistics.fmean(map(value, rows))
