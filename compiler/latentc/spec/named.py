"""Files, folders and class names that a spec gives, relative to the file that names them or to the current folder."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from latentc.components.networks._class_names import with_tokens
from latentc.diagnostics import DiagnosticError, Span
from latentc.files import shipped
from latentc.spec.yaml import HIDDEN
from latentc.weights.hub import is_remote
from latentc_runtime.texts import tokens_from_text

if TYPE_CHECKING:
    from latentc.components.fields import Field
    from latentc.spec.schema import Spec


def named_file(spec: Spec, text: str, *place: str | int) -> Path:
    """The file or folder that `text`, the value at `place`, names.

    `hub:ORG/NAME` as it is, which is downloaded when it is opened. Else beside the spec's own file if it exists there,
    else as it is, which is relative to the current folder.
    """
    span, path = spec.span(*place), Path(text)
    if span is None or path.is_absolute() or is_remote(text):
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
    """The model at `place`, with absolute paths in the fields `keys` that it has."""
    paths: dict[str, Any] = {key: getattr(model, key, None) for key in keys}
    changes = {k: _absolute(spec, path, *place, k) for k, path in paths.items() if isinstance(path, str)}
    changes = {key: path for key, path in changes.items() if path != paths[key]}
    return model.model_copy(update=changes) if changes else model


def _absolute(spec: Spec, text: str, *place: str) -> str:
    span, path = spec.span(*place), Path(text)
    if not text or path.is_absolute() or is_remote(text):
        return text
    if span is None or not Path(span.file).is_file() or ships(Path(span.file)):
        if not exists(path):
            return text
    else:
        path = named_file(spec, text, *place)
    return os.path.abspath(path)  # noqa: PTH100  # unlike `resolve`, it keeps links


def ships(file: Path) -> bool:
    """True for a spec in the folder of the shipped ones."""
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


MOST_BYTES = 1 << 24
LONGEST_NAME = 64
"""Most tokens of the name of a class; the rest is cut off."""


def with_class_names(spec: Spec) -> Spec:
    """The spec with names in place of the files that hold them. DiagnosticError E0101, E0111, E0401, E0402, E0209."""
    data = spec.data
    changes: dict[str, Any] = {}
    if isinstance(data.class_names_, str):
        changes["class_names_"] = _names_at(spec, data.class_names_, ("data", "class_names"))
    fields = {
        name: field.model_copy(
            update={"class_names": _names_at(spec, field.class_names, ("data", "fields", name, "class_names"))}
        )
        for name, field in data.fields_.items()
        if isinstance(field.class_names, str)
    }
    if fields:
        changes["fields_"] = {**data.fields_, **fields}
    return spec.model_copy(update={"data": data.model_copy(update=changes)}) if changes else spec


def with_class_tokens(spec: Spec) -> Spec:
    """The spec with tokens in place of the texts of `class_tokens`. DiagnosticError E0209."""
    field = spec.data.fields.get("tokens")
    networks: dict[str, Any] = dict(spec.networks)
    for name, network in networks.items():
        for place in (("class_tokens",), ("embedding", "class_tokens")):
            if field is not None and isinstance(network, BaseModel):
                networks[name] = network = _tokenized(spec, field, ("networks", name), network, place)
    same = all(networks[name] is network for name, network in spec.networks.items())
    return spec if same else spec.model_copy(update={"networks": networks})


def _tokenized(spec: Spec, field: Field, at: tuple[str, ...], part: BaseModel, place: tuple[str, ...]) -> BaseModel:
    """A network, or the part of it `at` this path, with tokens at `place` in it."""
    key, *rest = place
    own = getattr(part, key, None)
    if rest:
        inner = _tokenized(spec, field, (*at, key), own, tuple(rest)) if isinstance(own, BaseModel) else own
        return part if inner is own else part.model_copy(update={key: inner})
    if not isinstance(own, tuple) or not any(isinstance(row, str) for row in own):
        return part

    def tokens(text: str) -> tuple[int, ...]:
        try:
            found = tokens_from_text(
                text, {**field.text, "classes": field.classes, "start": None, "end": None}, LONGEST_NAME
            )
        except ValueError as error:
            message, help = f"{text!r} has no tokens: {error}", "name an existing tokenizer file, or give token numbers"
            raise DiagnosticError.of("E0209", message, spec.span(*at, key), help=help) from None
        return tuple(found)

    return part.model_copy(update={key: with_tokens(own, tokens)})


def _names_at(spec: Spec, file: str, place: tuple[str, ...]) -> tuple[str, ...]:
    """The names in the file that the value at `place` names; relative to the spec that says so."""
    span = spec.span(*place)
    return names_from_file(Path(span.file).parent / file if span else Path(file), span)


def names_from_file(path: Path, span: Span | None = None) -> tuple[str, ...]:
    """The lines of a text file in UTF-8. DiagnosticError E0101, E0111, E0209, E0401, E0402."""
    try:
        if not path.is_file():
            code, what = ("E0402", "is not a file") if path.exists() else ("E0401", "was not found")
            raise DiagnosticError.of(code, f"`{path}` {what}", span, help="give a text file with one name per line")
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise DiagnosticError.of("E0402", f"`{path}` is larger than {MOST_BYTES >> 20} MiB", span)
        text = content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        code = "E0101" if isinstance(error, UnicodeDecodeError) else "E0402"
        raise DiagnosticError.of(code, f"`{path}` cannot be read: {error}", span, help="save it as UTF-8") from None
    lines, doubtful = _lines(text)
    for number, line in doubtful.items():
        if (found := HIDDEN.search(line)) is not None:
            message = f"line {number} of `{path}` holds an invisible character: U+{ord(found.group()):04X}"
            raise DiagnosticError.of("E0111", message, span, help="leave it out")
        if not line:
            message = f"line {number} of `{path}` is empty"
            raise DiagnosticError.of("E0209", message, span, help="give one name per line, in the order of the classes")
    return lines


@lru_cache(maxsize=16)
def _lines(text: str) -> tuple[tuple[str, ...], dict[int, str]]:
    """Lines, and by number those that are empty or hold an invisible character; most specs name the same classes."""
    lines = tuple(line.strip() for line in text.rstrip().split("\n"))
    return lines, {number: line for number, line in enumerate(lines, 1) if not line or HIDDEN.search(line)}
