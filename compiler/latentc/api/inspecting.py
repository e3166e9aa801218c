"""Inspects data: what a file, a folder or a data set of the Hugging Face Hub holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from latentc.diagnostics import DiagnosticError

if TYPE_CHECKING:
    from latentc.survey import Survey


def data(
    path: Path | str,
    most: int | None = None,
    split: str = "train",
    sheet: Path | str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Survey:
    """The contents of a data set: shape, classes, statistics, damaged and unusual files, the `data` section to read it.

    `path`: a folder, a file, or ORG/NAME on the Hugging Face Hub, of which `split` is read. `most`: how many samples
    are read, drawn evenly over the classes; None: all. `sheet`: a .png to write, with a row of samples per class.
    `progress(done, total)` is called for each. DiagnosticError E0401 to E0403, E0412, E0422, E0423.
    """
    from latentc.files.named import new_file
    from latentc.survey import contact_sheet, survey

    found, pictures = survey(path, most, split, progress)
    if sheet is not None:
        try:
            content = contact_sheet(pictures, found.names)
        except ValueError as error:
            raise DiagnosticError.of("E0422", f"{path}: {error}", help="leave out -o") from None
        with new_file(sheet) as file:
            file.write(content)
    return found
