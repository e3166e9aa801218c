"""Weights files that a spec names: relative to the file that names them, or to the current folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


def named_file(spec: Spec, text: str, *place: str | int) -> Path:
    """The file or folder that `text`, the value at `place`, names.

    Beside the spec's own file if it exists there, else as it is, which is relative to the current folder.
    """
    span, path = spec.span(*place), Path(text)
    if span is None or path.is_absolute():
        return path
    beside = Path(span.file).parent / path
    return beside if beside.exists() or not path.exists() else path


def checkpoint_files(spec: Spec) -> dict[str, Path]:
    """{network: file of its default weights}."""
    return {
        network: named_file(spec, given.weights, "checkpoints", network, "weights")
        for network, given in spec.checkpoints.items()
    }


def first_stage_file(spec: Spec) -> Path | None:
    """The weights of the data's first stage, or None if the spec names none."""
    stage = spec.data.first_stage
    if stage is None or stage.weights is None:
        return None
    return named_file(spec, stage.weights, "data", "first_stage", "weights")
