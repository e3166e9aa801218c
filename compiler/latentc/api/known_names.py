"""Class names that a spec does not give: from the file that training writes beside its weights, or from the data."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from latentc.datasets import class_names
from latentc.diagnostics import DiagnosticError
from latentc.spec.named import names_from_file
from latentc_runtime.class_names import is_name

if TYPE_CHECKING:
    from latentc.spec.schema import Spec

FILE = "class_names.txt"
"""The file with one name per line that training projects write beside their weights."""


def with_known_names(spec: Spec, weights: Iterable[Path], warn: Callable[[str], None] = lambda text: None) -> Spec:
    """The spec with the names of its classes, if it has a label without names and they are known.

    `warn` is called with names that do not fit.
    """
    data = spec.data
    if not data.classes or data.class_names is not None or "y" not in data.fields:
        return spec
    for source, names in _found(spec, weights):
        if len(names) != data.classes:
            warn(f"{source} names {len(names)} classes, but the model has {data.classes}: the names were left out")
        elif not all(map(is_name, names)):
            warn(f"{source} holds a class name that is empty, too long or not plain text: the names were left out")
        else:
            return spec.model_copy(update={"data": data.model_copy(update={"class_names_": tuple(names)})})
    return spec


def _found(spec: Spec, weights: Iterable[Path]) -> Iterable[tuple[str, tuple[str, ...]]]:
    """(source, names) wherever there are some, the most specific first."""
    for path in weights:
        beside = [path, path.parent, *([path.parent.parent] if path.parent.name == "checkpoints" else [])]
        for file in (folder / FILE for folder in beside):
            if file.is_file():
                try:
                    yield str(file), names_from_file(file)
                except DiagnosticError:
                    continue
    try:
        names = class_names(spec.data.settings())
    except (OSError, ValueError, ImportError):  # no data here, other data, or the package to read it is missing
        return
    if names:
        yield str(getattr(spec.data, "path", "the data")), tuple(names)
