"""The data that a spec names, if it is on this machine: whether it is what the spec says."""

from __future__ import annotations

import contextlib
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from latentc.datasets import class_names, open_dataset
from latentc.datasets.arrays import check_classes
from latentc.diagnostics import Diagnostic, DiagnosticError, nearest
from latentc.spec.named import exists

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


def problems_of_files(spec: Spec) -> tuple[list[Diagnostic], list[str]]:
    """(E0419 for data that is here but does not fit the spec, warnings about data that is not here or lacks classes).

    Labels and indexes of the data are read, and arrays in an .npz; images are not.
    """
    settings = spec.data.settings()
    if "path" not in settings:
        return [], []
    path = Path(settings["path"])
    if not exists(path):
        return [], [missing(path)]
    try:
        labels = _labels(spec, settings)
        names = class_names(settings)
    except ImportError as error:  # a package that reads this kind of data is not installed here
        return [], [f"data.path: {path} was not read: {error}"]
    except (ValueError, OSError) as error:
        span = spec.span("data", "path") or spec.span("data")
        mend = _other_kind(spec, path) or "change the data, or what the spec says of it: `classes`, `shape`, `fields`"
        return [Diagnostic("E0419", f"the data does not fit the spec: {error}", span, help=mend)], []
    classes = spec.data.classes
    warnings = []
    if names and classes and len(names) != classes:
        warnings.append(f"data.classes: {path} names {len(names)} classes, but the spec has {classes}")
    if labels is not None and classes and len(held := np.unique(labels)) < classes:
        warnings.append(f"data.classes: {path} holds samples of {len(held)} classes, but the spec has {classes}")
    return [], warnings


def _other_kind(spec: Spec, path: Path) -> str | None:
    """The remedy if the path holds data of another kind than the spec says."""
    from latentc.survey import section_of

    try:
        kind = section_of(path)["kind"]
    except (DiagnosticError, OSError):
        return None
    alike = {"image_folder", "imagenet", "captioned_images", "edm"}
    same = spec.data.kind.startswith(kind) or {kind, spec.data.kind} <= alike
    return None if same else f"{path} looks like data of kind `{kind}`: set `kind: {kind}`"


def missing(path: Path) -> str:
    """That a path does not exist, with the name most like the first part of it that is missing."""
    there = next(parent for parent in (*path.parents, Path()) if exists(parent))
    names: list[str] = []
    with contextlib.suppress(OSError):  # not a folder, or one that cannot be read
        names = [child.name for child in there.iterdir()]
    near = nearest(path.relative_to(there).parts[0], names)
    hint = "" if near is None else f"; did you mean `{there / near}`?"
    return f"data.path: there is no {path} on this machine{hint}"


def _labels(spec: Spec, settings: dict[str, Any]) -> Any:
    """Opens the data; the labels of all samples, if they are known. Raises ValueError, OSError and ImportError."""
    reader = importlib.import_module(f"latentc.datasets.{spec.data.kind}")
    if look := getattr(reader, "look", None):  # opening it would write files
        look(settings)
        return None
    if spec.data.first_stage is None or not spec.data.holds_images:
        return getattr(open_dataset(settings), "labels", None)
    pictures = reader.open_pictures(settings, 8, 3)
    if "y" not in settings["fields"]:
        return None
    check_classes("y", pictures.y, settings["fields"]["y"])
    return pictures.y
