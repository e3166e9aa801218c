"""Classes of samples by a bundle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentc.diagnostics import DiagnosticError
from latentc.diagnostics.faults import runtime_errors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike

    from latentc_runtime.classify import Classified


def classify(
    bundle: Path | str,
    samples: ArrayLike | Path | str,
    rounds: Sequence[tuple[int, int | None]] | str = ((1, None),),
    seed: int = 0,
    *,
    classes: Sequence[int | str] | str | None = None,
    batch: int | None = None,
    device: str = "auto",
    output: Path | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Classified, np.ndarray | None]:
    """The class of each sample by the bundle's classifier or density, and the true labels of a file that has them.

    `samples`: an array [n, ...] as the model sees it, an .npy of one, or an .npz with `x` and perhaps `y`. `rounds`:
    (runs of the program, classes that remain) each, or a text such as "1:3,4". `classes`: the candidates, by default
    all. `output`: an .npz for `labels`, `errors` [n, K] and `runs` [n, K]. Raises DiagnosticError: E0401 to E0403,
    E0412, E0601 to E0611, E0704.
    """
    import numpy as np

    from latentc.api.ranges import classes_from_text
    from latentc.files.named import open_arrays, read_condition, write_arrays
    from latentc_runtime import load
    from latentc_runtime.classify import Round
    from latentc_runtime.classify import classify as run

    truth: Any = None
    if isinstance(samples, str | Path):
        held = open_arrays(samples) if Path(samples).suffix == ".npz" else {}
        truth = held.get("y")
        samples = held["x"] if "x" in held else read_condition(samples, "x")
    given = rounds_from_text(rounds) if isinstance(rounds, str) else rounds
    with runtime_errors():
        pipe = load(bundle, device)
        label = next((c for c in pipe.manifest.conditions if c.form == "label"), None)
        if isinstance(classes, str):
            classes = None if label is None else classes_from_text(classes, label.classes or 1, label.names)
        found = run(pipe, samples, [Round(*one) for one in given], seed, classes, batch=batch, progress=progress)
    if truth is not None and np.shape(truth) != found.labels.shape:
        message = f"there are {len(found.labels)} samples, but `y` has shape {list(np.shape(truth))}"
        raise DiagnosticError.of("E0403", message, help="give one label per sample, or none")
    truth = None if truth is None else np.asarray(truth)
    if output is not None:
        write_arrays(output, {"labels": found.labels, "errors": found.errors, "runs": found.runs})
    return found, truth


def rounds_from_text(text: str) -> list[tuple[int, int | None]]:
    """Rounds such as "1:3,4": runs, and classes that remain after them. DiagnosticError E0704."""
    found: list[tuple[int, int | None]] = []
    for part in text.split(","):
        runs, colon, keep = part.strip().partition(":")
        if not runs.isdecimal() or (colon and not keep.isdecimal()):
            message = f"`{part}` is not a round: write RUNS, or RUNS:CLASSES with the number of classes to keep"
            raise DiagnosticError.of("E0704", message, help="such as 1:5,4:1")
        found.append((int(runs), int(keep) if colon else None))
    return found
