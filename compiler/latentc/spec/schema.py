"""The schema of a spec: a pydantic model whose sections are components of the vocabulary."""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr
from pydantic.fields import FieldInfo

from latentc.components import Closed, Component, OneOf
from latentc.components.backbone import Backbone
from latentc.components.dataset import Data
from latentc.components.objective import Objective
from latentc.components.sampler import Sampler
from latentc.diagnostics import Span
from latentc.spec.sections import Checkpoint, Identifier, Official, Optimize, Target, Train
from latentc.spec.yaml import Document, PathKey

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$")]

OfficialName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]


class Spec(Closed):
    """A whole spec, checked; every default filled in. Made by `latentc.spec.load_spec`."""

    # The component folders are imported when the first spec is read, not when this module is.
    model_config = ConfigDict(defer_build=True)

    latentc: Literal[1] = Field(1, description="version of the spec's format")
    name: Name = Field(description="short name: letters, digits and . _ + -")
    source: str | None = Field(None, description="where the system is published")
    extends: str | None = Field(None, description="one base spec: a path relative to this file, or a shipped spec")
    data: Annotated[Data, OneOf("data")] = Field(description="the training samples and their fields")
    networks: dict[Identifier, Annotated[Backbone, OneOf("networks")]] = Field(
        min_length=1, description="the networks by name; `backbone: x` is shorthand for `networks: {main: x}`"
    )
    conditioning: dict[Identifier, Annotated[Component, OneOf("conditions")]] = Field(
        default_factory=dict, description="network inputs besides the sample, by name: the class, the time, ..."
    )
    objective: Annotated[Objective | None, OneOf("objectives")] = Field(
        None, description="prediction target and loss; null: cannot be trained"
    )
    sampler: Annotated[Sampler | None, OneOf("samplers")] = Field(
        None, description="how samples are drawn; null: cannot be sampled"
    )
    programs: tuple[Annotated[Component, OneOf("programs", named=True)], ...] = Field(
        (), max_length=100, description="programs around the sampler, which change its steps or are compiled beside it"
    )
    train: Train = Field(Train(), description="how the networks are trained")
    optimize: Optimize = Field(Optimize(), description="optional passes")
    target: Target = Field(Target(), description="the engine to compile for")
    weights: dict[Identifier, dict[Identifier, tuple[dict[str, Any], ...]]] = Field(
        default_factory=dict, description="name maps: checkpoint flavour → network → renaming rules"
    )
    checkpoints: dict[Identifier, Checkpoint] = Field(
        default_factory=dict, description="default weights by network, for commands without `--weights`"
    )
    official: dict[OfficialName, Official] = Field(
        default_factory=dict,
        description="checkpoints of the authors, by the NAME of `--weights official:NAME`",
    )
    variants: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="named overrides of this spec, merged by --variant"
    )

    # Where values were written, for diagnostics of later stages; not part of the spec's content.
    _document: Document | None = PrivateAttr(None)
    # (source, variant, overrides) as `load_spec` was given them; None if the spec was not read from a file.
    _origin: tuple[str, str | None, tuple[str, ...]] | None = PrivateAttr(None)

    # The section `official` of the spec's own file: no part of the content either.
    _official: dict[str, Official] = PrivateAttr(default_factory=dict)

    # Effects of merging that the spec's author may not expect, one line each.
    _notes: tuple[str, ...] = PrivateAttr(())

    # Reads the spec of the data's first stage; that spec, once it is read.
    _read_stage: Callable[[Spec], Spec | None] | None = PrivateAttr(None)
    _first_stage: Spec | None = PrivateAttr(None)

    @property
    def first_stage(self) -> Spec | None:
        """The spec of the autoencoder that encodes the data, if there is one. DiagnosticError if it is wrong."""
        if self._first_stage is None and self.data.first_stage is not None and self._read_stage is not None:
            self._first_stage = self._read_stage(self)
        return self._first_stage

    @property
    def first_stage_fits(self) -> bool:
        """True if the data has the sizes that the first stage produces."""
        stage = self.first_stage
        if stage is None:
            return False
        codes = stage.networks["main"].codes(stage)
        field = self.data.fields.get("tokens" if codes.values else "x")
        shape = tuple(int(d) for d in codes.type.shape[1:])  # type: ignore[arg-type]
        return field is not None and field.shape == shape and codes.values in (None, field.classes)

    @property
    def backbone(self) -> Backbone:
        """The network called `main`; KeyError if a spec with several networks has none."""
        return self.networks["main"]

    @property
    def conditions(self) -> dict[str, Any]:
        """The conditions by name (`latentc.components.condition.Condition`), in the order written, without the time."""
        from latentc.components.condition import TimeEmbedding

        return {name: c for name, c in self.conditioning.items() if not isinstance(c, TimeEmbedding)}

    @property
    def time(self) -> Component | None:
        """The time embedding (`latentc.components.condition.TimeEmbedding`), if the networks have one."""
        return self.conditioning.get("time")

    @property
    def official_checkpoints(self) -> dict[str, Official]:
        """The section `official` of the spec's own file, which bundles and specs that extend it do not have."""
        return self._official

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on effects of `extends`, a variant and `--set` that the author may not expect, one line each."""
        return self._notes

    def span(self, *path: str | int) -> Span | None:
        """Where the value at `path` was written ("networks", "main", "width"), or None if nowhere."""
        return self._document.span(path) if self._document else None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spec) and self.__dict__ == other.__dict__


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a spec file, for editors; allows `backbone` as a file does."""
    schema = Spec.model_json_schema(by_alias=True)
    networks = schema["properties"]["networks"]
    # Components are distinguished by `kind`, so a spec must write it although the class has a default.
    for definition in schema["$defs"].values():
        kind = definition.get("properties", {}).get("kind", {})
        if "const" in kind and "kind" not in definition.get("required", []):
            definition["required"] = ["kind", *definition.get("required", [])]
    networks["additionalProperties"] = False  # names outside the pattern
    pattern, component = next(iter(networks["patternProperties"].items()))
    # A network that extends another spec's need not give its kind.
    extended = {"type": "object", "required": ["extends"], "properties": _OF_ANOTHER}
    networks["patternProperties"][pattern] = component = {"anyOf": [component, extended]}
    backbone = {**component, "description": "the network, where there is one"}
    schema["properties"]["backbone"] = backbone
    # A file that extends another need not repeat the base's keys.
    schema["required"] = ["latentc"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "latentc spec"}


_OF_ANOTHER = {
    "extends": {"type": "string", "description": "spec whose network `main` this one is, but for the other keys here"},
    "variant": {"type": "string", "description": "variant of that spec"},
}


# ---- values allowed at a path


@dataclass(frozen=True)
class Place:
    """The part of the schema at a path."""

    annotation: Any
    metadata: tuple[Any, ...] = ()
    info: FieldInfo | None = None

    @property
    def mark(self) -> OneOf | None:
        """The folder of components that it takes, if any."""
        return next((mark for mark in self.metadata if isinstance(mark, OneOf)), None)

    @property
    def optional(self) -> bool:
        """True if null is one of its values."""
        return self.annotation is type(None) or type(None) in _alternatives(self.annotation)

    def types(self) -> Iterator[Any]:
        """The alternatives: model classes, generic aliases and plain types."""
        if self.mark is not None:
            yield from self.mark.choices().values()
        else:
            yield from _alternatives(self.annotation)

    def model(self, data: Any) -> type[BaseModel] | None:
        """The class that reads `data` here: the one of its kind, or the only one that has most of its keys."""
        models = [kind for kind in self.types() if isinstance(kind, type) and issubclass(kind, BaseModel)]
        default = self.mark.default if self.mark is not None else None
        tag = data.get("kind", default) if isinstance(data, Mapping) else None
        for model in models:
            field = model.model_fields.get("kind")
            if field is not None and isinstance(tag, str) and tag in get_args(field.annotation):
                return model
        if self.mark is not None or not models:
            return None if len(models) != 1 else models[0]
        keys = {*data} if isinstance(data, Mapping) else set()
        return max(models, key=lambda model: len(keys.intersection(model.model_fields)))

    def keys(self, data: Any) -> dict[str, FieldInfo]:
        """The keys a mapping may have here, as a spec writes them."""
        model = self.model(data)
        return {info.alias or name: info for name, info in model.model_fields.items()} if model else {}

    def kinds(self) -> list[str]:
        """The kinds a component may have here."""
        fields = [kind.model_fields.get("kind") for kind in self.types() if hasattr(kind, "model_fields")]
        return sorted(name for field in fields if field for name in get_args(field.annotation))

    def child(self, key: str | int, data: Any) -> Place | None:
        """The place one step further down, or None if the schema does not say."""
        if self.mark is not None and self.mark.many and isinstance(key, int):
            return Place(self.annotation, (replace(self.mark, many=False),), self.info)
        info = self.keys(data).get(str(key))
        if info is not None:
            return Place(info.annotation, tuple(info.metadata), info)
        for kind in self.types():
            args = get_args(kind)
            if get_origin(kind) is dict and isinstance(key, str):
                return _unwrapped(args[1])
            if get_origin(kind) in (list, tuple) and isinstance(key, int) and args:
                return _unwrapped(args[key] if key < len(args) and args[key] is not ... else args[0])
        return None


def _unwrapped(annotation: Any) -> Place:
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        return Place(inner, tuple(metadata))
    return Place(annotation)


def _alternatives(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Annotated:
        yield from _unwrapped(annotation).types()
    elif get_origin(annotation) in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from _alternatives(part)
    else:
        yield annotation


def place_at(path: Sequence[str | int], data: Any) -> Place | None:
    """The place in a spec's schema at `path`, given the (possibly wrong) data around it."""
    place: Place | None = Place(Spec)
    for key in path:
        if place is None:
            return None
        place = place.child(key, data)
        inside = isinstance(data, Mapping) and key in data
        if not inside:
            inside = isinstance(data, list) and isinstance(key, int) and key < len(data)
        data = data[key] if inside else None
    return place


def shown_path(path: PathKey) -> str:
    """A path as a spec's author would say it: `backbone.block.mixer`; the root is "the spec"."""
    if path[:2] == ("networks", "main"):
        path = ("backbone", *path[2:])
    text = ".".join(str(key) for key in path)
    return re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", text) if text else "the spec"
