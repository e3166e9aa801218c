"""Loading: from a source to a checked `Spec`, and back to text."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TextIO

from pydantic import ValidationError

from latentc.components.backbone import Backbone
from latentc.components.fields import FirstStage
from latentc.components.mistakes import blamed
from latentc.components.sampler import DecodingSampler
from latentc.diagnostics import DiagnosticError
from latentc.files import shipped
from latentc.spec.errors import diagnostics_from_validation
from latentc.spec.merge import without
from latentc.spec.named import checkpoint_files, with_class_names, with_class_tokens, with_paths
from latentc.spec.resolve import MAX_BYTES, Resolved, named_spec, resolve_file, resolve_text, text_from_bytes
from latentc.spec.rules import check_rules
from latentc.spec.schema import Spec, place_at
from latentc.spec.write import yaml_from_data
from latentc.spec.yaml import Document
from latentc.weights.hub import is_remote


@blamed()
def load_spec(source: str | Path, variant: str | None = None, overrides: Sequence[str] = ()) -> Spec:
    """The checked spec that `source` names: a path, a shipped spec's name, or `-` for standard input.

    `variant` is one of the spec's variants; `overrides` are texts as `--set` takes them ("train.steps=10"),
    applied in order after the variant. Raises DiagnosticError with everything that was found wrong.
    """
    if str(source) == "-":
        if sys.stdin is None:
            message = "the spec should be read from standard input, which is closed"
            raise DiagnosticError.of("E0401", message, help="name a file, or pipe the spec in")
        return spec_from_text(text_from_bytes(_piped(sys.stdin), "<stdin>"), "<stdin>", variant, overrides)
    spec = spec_from_resolved(resolve_file(str(source), variant, overrides))
    spec._origin = (str(source), variant, tuple(overrides))
    return spec


@lru_cache(maxsize=1)
def _piped(stream: TextIO) -> bytes:
    """The bytes of a stream, kept because it can be read only once, but commands may read a spec several times."""
    return stream.buffer.read(MAX_BYTES + 1)


@blamed()
def spec_from_text(text: str, file: str = "<text>", variant: str | None = None, overrides: Sequence[str] = ()) -> Spec:
    """The checked spec in `text`; `file` is what diagnostics call it and what `extends` is relative to."""
    return spec_from_resolved(resolve_text(text, file, None, variant, overrides))


def spec_from_resolved(resolved: Resolved, rules: bool = True) -> Spec:
    """Check a resolved text against the schema, then, with `rules`, against the rules across sections."""
    document = without_removed(resolved.document)
    if resolved.official is not None:
        root = document.root
        document = Document(replace(root, value={**root.fields, "official": resolved.official}))
    try:
        spec = Spec.model_validate(document.data)
    except ValidationError as error:
        raise DiagnosticError(*diagnostics_from_validation(error, document, resolved.giving)) from None
    spec._document, spec._notes, spec._read_stage = document, resolved.notes, load_first_stage
    if spec.official:
        spec._official = spec.official
        spec = spec.model_copy(update={"official": {}})
    spec = with_class_tokens(with_class_names(with_paths(spec)))
    if rules and (problems := check_rules(spec, document)):
        raise DiagnosticError(*problems)
    return spec


def first_stage_path(spec: Spec, stage: FirstStage) -> Path:
    """The file of a first stage's spec; relative to the file that names it. DiagnosticError E0210."""
    span = spec.span("data", "first_stage", "spec")
    return named_spec(stage.spec, Path(span.file).parent if span else Path(), span)


def load_first_stage(spec: Spec) -> Spec | None:
    """The autoencoder that encodes the data of `spec`, as a spec of its own; None if there is none.

    Its images have the size that the latents or tokens of `spec` ask for, if these are a map. Raises DiagnosticError:
    E0210 if it is not found, E0302 if it is not an autoencoder, and its own mistakes.
    """
    stage = spec.data.first_stage
    if stage is None:
        return None
    path = first_stage_path(spec, stage)
    found = load_spec(path, stage.variant)
    network = found.networks.get("main")
    decodes = isinstance(found.sampler, DecodingSampler) or (
        isinstance(network, Backbone) and "autoencode" in network.provides(found)
    )
    if not isinstance(network, Backbone) or not decodes or found.data.shape is None:
        message = f"`{stage.spec}` is not the spec of an autoencoder"
        mend = "shipped ones: sd_vae, vq_f16"
        raise DiagnosticError.of("E0302", message, spec.span("data", "first_stage", "spec"), help=mend)
    grid = spec.data.shape[1:] if spec.data.shape is not None else spec.data.tokens.grid if spec.data.tokens else ()
    factor = network.codes(found).factor
    if factor is None:
        return found
    shape = [found.data.shape[0], *(size * factor for size in grid)]
    if len(shape) == 3 and shape != list(found.data.shape):
        key = "data.fields.x.shape" if "x" in found.data.fields_ else "data.shape"  # at the place in its own spec
        overrides = (f"{key}={shape}",)
        try:
            found = spec_from_resolved(resolve_file(str(path), stage.variant, overrides, "size of the first stage"))
            found._origin = (str(path), stage.variant, overrides)
        except DiagnosticError as error:
            message = f"`{stage.spec}` cannot take images of shape {shape}, from which codes of this size are made"
            why = error.diagnostics[0].message
            place = ("data", "shape") if spec.data.shape is not None else ("data", "tokens")
            raise DiagnosticError.of("E0302", message, spec.span(*place), notes=(why,)) from None
    return found


def without_removed(document: Document) -> Document:
    """The document without options that null removes: those that have a default, and no null among their values."""
    root = document.root
    for path, node in document.nodes.items():
        if node.removes:
            place = place_at(path, document.data)
            info = place.info if place is not None else None
            if place is not None and info is not None and not info.is_required() and not place.optional:
                root = without(root, tuple(map(str, path)))
    return document if root is document.root else Document(root)


def variant_names(source: str | Path) -> tuple[str, ...]:
    """The variants of the spec that `source` names, including its bases'; the spec is not checked."""
    return tuple(resolve_file(str(source)).variants)


def own_variant_names(source: str | Path) -> tuple[str, ...]:
    """The variants that the file of the spec declares or changes itself; the spec itself is not checked."""
    resolved = resolve_file(str(source))
    file = resolved.document.span(()).file
    return tuple(name for name, node in resolved.variants.items() if node.span.file == file)


def data_from_spec(spec: Spec) -> dict[str, Any]:
    """The spec as plain data with every default, keys in the order of the sections; default weights by full path."""
    data = spec.model_dump(mode="json", by_alias=True, exclude={"extends", "official", "variants"})
    for network, file in checkpoint_files(spec).items():
        data["checkpoints"][network]["weights"] = str(file) if is_remote(file) else file.resolve().as_posix()
    if list(data["networks"]) == ["main"]:
        data = {"backbone" if key == "networks" else key: value for key, value in data.items()}
        data["backbone"] = data["backbone"]["main"]
    return data


def resolved_yaml(spec: Spec) -> str:
    """The spec as YAML with every default written out; it loads back to an equal spec."""
    return yaml_from_data(data_from_spec(spec))


def base_of(spec: Spec, source: str | Path | None, folder: Path) -> str:
    """The value of `extends` for the spec `source` in a spec in `folder`; if it is not a file, one is written there."""
    if source is not None and str(source) in shipped.shipped_specs() and not Path(source).exists():
        return str(source)
    if source is not None and Path(source).is_file():
        return Path(os.path.relpath(source, folder)).as_posix()
    (folder / "base.yaml").write_text(resolved_yaml(spec), encoding="utf-8")
    return "base.yaml"
