"""Compares a spec with the data that it names, of which every image is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from latentc.diagnostics import Diagnostic, nearest
from latentc.survey.arrays import arrays_of
from latentc.survey.items import items_of
from latentc.survey.mirrored import why_not_mirrored
from latentc.survey.report import Finding, Survey
from latentc.survey.survey import survey_of

if TYPE_CHECKING:
    from latentc.spec.schema import Spec

SHOWN = 5
Progress = Callable[[int, int], None]


def compared(spec: Spec, progress: Progress = lambda done, total: None) -> tuple[list[Diagnostic], list[str]]:
    """(E0419 for what training would refuse, warnings about what is probably not meant). Raises ValueError, OSError."""
    settings = spec.data.settings()
    if spec.data.holds_images:
        section = {"kind": spec.data.kind, "path": settings["path"]}
        found, _ = survey_of(items_of(section, settings), settings["path"], None, progress)
    elif spec.data.kind in ("npz", "npy_folder"):
        found, _ = arrays_of({"kind": spec.data.kind, "path": settings["path"]}, None, settings.get("keys"))
    else:
        return [], [f"data.kind: the samples of data of kind `{spec.data.kind}` are not inspected"]
    faults, warnings = _damaged(spec, found, settings)
    warnings += _of_sizes(spec, found)
    warnings += _of_names(spec, found)
    warnings += [f"data: {note}" for note in found.notes]
    if found.odd:
        warnings.append(f"data.path: {len(found.odd):,} unusual images: {_listed(found.odd)}")
    if settings.get("horizontal_flip") and (why := why_not_mirrored(found)) is not None:
        warnings.append(f"data.horizontal_flip: images are mirrored, but {why}: set `horizontal_flip: false`")
    return faults, warnings


def _listed(findings: list[Finding]) -> str:
    shown = "; ".join(f"{one.name}: {one.what}" for one in findings[:SHOWN])
    return shown + (f"; and {len(findings) - SHOWN:,} more" if len(findings) > SHOWN else "")


def _damaged(spec: Spec, found: Survey, settings: dict[str, Any]) -> tuple[list[Diagnostic], list[str]]:
    if not found.damaged:
        return [], []
    message = f"{len(found.damaged):,} of {found.read:,} samples are damaged: {_listed(found.damaged)}"
    if settings.get("damaged") == "skip":
        return [], [f"data.path: {message}; they are skipped"]
    skip = ", or leave them out with `damaged: skip`" if "damaged" in settings else ""
    span = spec.span("data", "path") or spec.span("data")
    return [Diagnostic("E0419", message, span, help=f"replace or remove them{skip}")], []


def _of_sizes(spec: Spec, found: Survey) -> list[str]:
    """Images that are enlarged, and colours that the model does not have."""
    if not found.sizes or spec.data.first_stage is not None or spec.data.shape is None:
        return []
    texts, x = [], spec.data.modelled
    sizes = dict(zip(x.axes, x.shape, strict=False))
    side, channels = sizes.get("width", 1), sizes.get("channel", 1)
    if small := int((found.sides < side).sum()):
        texts.append(f"data.shape: {small:,} of {found.sizes.total():,} images are smaller than {side} × {side}")
    coloured = found.modes.total() - found.modes["grey"]
    if channels == 1 and coloured:
        texts.append(
            f"data.shape: {coloured:,} images have colours, but the model is of grey images: [3, …] keeps them"
        )
    elif channels == 3 and not coloured and found.modes:
        texts.append("data.shape: all images are grey, but the model is of coloured ones: [1, …] suffices")
    return texts


def _of_names(spec: Spec, found: Survey) -> list[str]:
    """Names of the spec that are not those of the data, but like them."""
    given, held = spec.data.class_names, found.names
    if not isinstance(given, tuple) or not held:
        return []
    texts = []
    for number, name in enumerate(given):
        own = held[number] if number < len(held) else None
        if own is None or name.casefold() == own.casefold():
            continue
        near = nearest(name, held)
        if near is not None and near != own:
            texts.append(
                f"data.class_names: class {number} is `{name}`, but in the data `{own}`; `{near}` is class "
                f"{held.index(near)} there"
            )
        elif near is not None:
            texts.append(f"data.class_names: class {number} is `{name}`; did you mean `{near}`, as in the data?")
    return texts
