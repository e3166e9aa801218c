"""The notebooks run, with few steps, and are stored with the outputs of a whole run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from notebooks import NOTEBOOKS, executed

LARGEST = 300_000  # bytes of a notebook with its pictures
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def printed(cell: Any) -> str:
    """All text that a cell showed."""
    parts = [o.get("text", "") or o.get("data", {}).get("text/plain", "") for o in cell.outputs]
    return re.sub(r"\x1b\[[\d;]*m", "", "".join(parts))  # without colours


def check_outputs(notebook: Any) -> None:
    """Only cells tagged `error` show an error of latentc; a command in `!` does not end a run by failing."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            failed = re.search(r"^(error\[|Traceback|.*command not found)", printed(cell), re.MULTILINE)
            assert bool(failed) == ("error" in cell.metadata.get("tags", ())), f"{cell.source}\n{printed(cell)}"


@pytest.mark.slow
@each
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    check_outputs(executed(path, tmp_path, STEPS=20, COUNT=40, SECONDS=2))


@each
def test_a_notebook_is_stored_with_its_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    codes = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in codes] == list(range(1, len(codes) + 1)), "run `make notebooks`"
    check_outputs(notebook)
    assert any("image/png" in output.get("data", {}) for cell in codes for output in cell.outputs)
    assert path.stat().st_size < LARGEST
    assert not re.search(r"(/tmp|/root|/home)/", "".join(map(printed, codes))), "a path of the machine it ran on"
