"""Training runs: found in folders, and compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from latentc.runs.found import TrainingRun


def runs(places: Sequence[Path | str] = (".",)) -> list[TrainingRun]:
    """The training runs that folders are or hold, with their settings, curves and sample grids.

    Raises DiagnosticError: E0401, E0719.
    """
    from latentc.runs.found import find_runs

    return find_runs(places)


def compare_runs(found: Sequence[TrainingRun], output: Path | str, curves: Sequence[str] = ()) -> None:
    """Write an HTML page that compares runs: figures, settings that differ, curves, samples side by side.

    `curves`: patterns of names such as `*/loss`, by default all. Raises DiagnosticError: E0412, E0719.
    """
    from latentc.runs.report import write_page

    write_page(found, Path(output), curves)
