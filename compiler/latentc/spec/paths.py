"""Files and folders that a spec names: relative to the file that names them, or to the current folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentc.files import shipped

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
    return beside if exists(beside) or not exists(path) else path


def exists(path: Path) -> bool:
    """As `path.exists()`; False also for a name that no file can have."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def with_paths(spec: Spec) -> Spec:
    """The spec with absolute paths of data, pretrained weights, tokenizers and feature extractors.

    So they mean the same in every folder: in the emitted project, in a bundle, in a command run elsewhere. A relative
    path stays as it is if a shipped spec, `--set` or text without a file names it and it is not in the current folder.
    """
    data = _changed(spec, spec.data, ("data",), "path", "captions")
    fields = {
        name: _changed(spec, field, ("data", "fields", name), "tokenizer") for name, field in spec.data.fields_.items()
    }
    if any(fields[name] is not field for name, field in spec.data.fields_.items()):
        data = data.model_copy(update={"fields_": fields})
    networks = {n: _changed(spec, own, ("networks", n), "pretrained") for n, own in spec.networks.items()}
    conditions = {n: _changed(spec, own, ("conditioning", n), "database") for n, own in spec.conditioning.items()}
    train = _changed(spec, spec.train, ("train",), "evaluate_features")
    found = {"data": data, "networks": networks, "conditioning": conditions, "train": train}
    return spec.model_copy(update={key: value for key, value in found.items() if value != getattr(spec, key)})


def _changed(spec: Spec, model: Any, place: tuple[str, ...], *keys: str) -> Any:
    """The model, which stands at `place`, with absolute paths in the fields `keys` that it has."""
    paths: dict[str, Any] = {key: getattr(model, key, None) for key in keys}
    changes = {k: _absolute(spec, path, *place, k) for k, path in paths.items() if isinstance(path, str)}
    changes = {key: path for key, path in changes.items() if path != paths[key]}
    return model.model_copy(update=changes) if changes else model


def _absolute(spec: Spec, text: str, *place: str) -> str:
    span, path = spec.span(*place), Path(text)
    if not text or path.is_absolute():
        return text
    if span is None or not Path(span.file).is_file() or _ships(Path(span.file)):
        if not exists(path):
            return text
    else:
        path = named_file(spec, text, *place)
    return os.path.abspath(path)  # noqa: PTH100  # unlike `resolve`, it keeps links


def _ships(file: Path) -> bool:
    return file.resolve().is_relative_to(shipped.folder("specs").resolve())


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
