"""The files of a training project that read its data and write its samples: only those the data needs."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from latentc.components.dataset import Data
from latentc.components.fields import Medium
from latentc.files.templates import template

_SHARED = ("latentc_runtime", "latentc.datasets")
PLAIN = ("text", "array")  # media that have no pictures
_IMPORT = re.compile(rf"^( *)from (?:{'|'.join(map(re.escape, _SHARED))})((?:\.\w+)*) import", re.MULTILINE)


def shared_source(module: str) -> str:
    """Text of a module that projects have a copy of; its imports are of the copies beside it."""
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None
    return _IMPORT.sub(_import_beside, Path(spec.origin).read_text(encoding="utf-8"))


def _import_beside(found: re.Match[str]) -> str:
    indent, submodules = found.groups()
    return f"{indent}from .{submodules.rpartition('.')[2]} import"


def _imported(module: str) -> set[str]:
    """Names of the modules of `latentc.datasets` that a reader imports, and those that they import."""
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None
    text = Path(spec.origin).read_text(encoding="utf-8")
    found = set(re.findall(r"^ *from latentc\.datasets\.(\w+) import", text, re.MULTILINE))
    return found.union(*(_imported(f"latentc.datasets.{name}") for name in found))


def data_files(data: Data, staged: bool = True, searches: bool = False, medium: Medium | None = None) -> dict[str, str]:
    """{file name: text}: dataset.py to read the data, media.py to write samples, and what these two import.

    `staged`: the project includes the data's first stage. `searches`: training searches neighbours of samples.
    `medium` of what programs write, by default the data's.
    """
    medium, stage = medium or data.modelled.medium, data.first_stage if staged else None
    shared = {"files": "latentc_runtime.media.files"}
    files: dict[str, str] = {}
    if stage is not None:
        files["first_stage.py"] = template("project/support/first_stage.py")
    shared["media"] = f"latentc_runtime.media.{medium}"
    if medium not in PLAIN:
        shared["pixels"] = "latentc_runtime.media.pixels"
        shared["labels"] = "latentc_runtime.media.labels"
    reader = f"latentc.datasets.{data.kind}"
    if stage is not None and data.holds_images:
        shared[data.kind] = reader
        files["dataset.py"] = template("project/support/encoded.py")
    else:
        shared["dataset"] = reader
    if searches:
        shared |= {"neighbours": "latentc.datasets.neighbours", "retrieval": "latentc_runtime.retrieval"}
    unused = {"augment"} - {*data.fields} | ({"views"} if getattr(data, "views", None) is None else set())
    for name in sorted(_imported(reader) - unused):
        shared[name] = f"latentc.datasets.{name}"
    return files | {f"{name}.py": shared_source(module) for name, module in shared.items()}


def data_regions(data: Data, staged: bool) -> set[str]:
    """The regions of the modules that read the data. `staged` as in `data_files`."""
    views, coded = getattr(data, "views", None) is not None, staged and data.first_stage is not None
    found = {"views"} if views else set()
    found |= {"resized"} if any(field.resized for field in data.fields.values()) else set()
    found |= {"finished"} if views and coded else {"read"}
    return found | ({"files"} if data.holds_images and (views or not coded) else set())
