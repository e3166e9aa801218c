"""Runs the notebooks of examples/notebooks and stores them with their outputs.

python tests/notebooks.py [NOTEBOOK …]      (make notebooks)
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "examples/notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def executed(path: Path, folder: Path, **parameters: Any) -> Any:
    """The notebook with the outputs of a run in `folder`; `parameters` replace values of its cell tagged parameters.

    A cell that raises ends the run with CellExecutionError.
    """
    notebook = nbformat.read(path, as_version=4)
    index = next(i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ()))
    if parameters:
        values = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
        notebook.cells.insert(index + 1, nbformat.v4.new_code_cell(values))
    # The command line of this environment, in cells with `!latentc`, at a width at which pages need no scrolling.
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "100",
        "PYTHONWARNINGS": "ignore:IProgress not found",  # by tqdm, whose bars need no widgets here
    }
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=1800,
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        coalesce_streams=True,  # of progress bars their last state
    )
    client.execute(env=environment)
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if "text" in output:
                # A command's terminal ends lines so, and its errors may name the folder.
                output.text = output.text.replace("\r\n", "\n").replace(f"{folder}/", "")
            output.get("data", {}).pop("image/jpeg", None)  # the same picture as the PNG
    return notebook


def main() -> None:
    for path in map(Path, sys.argv[1:] or NOTEBOOKS):
        with tempfile.TemporaryDirectory() as folder:
            notebook = executed(path, Path(folder))
        nbformat.write(notebook, path)
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
