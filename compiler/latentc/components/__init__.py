"""The vocabulary of a spec: the base class of components, and the folders as their registry.

A component is one file with one class:

    class LayerNorm(Component):
        "Layer normalisation over the last axis."

        kind: Literal["layer_norm"] = "layer_norm"
        epsilon: float = Field(1e-6, gt=0, description="added to the variance")
        EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "layer_norm"}

A field that takes any component of a folder says so by an annotation that type checkers read as well:

    norm: Annotated[Component, OneOf("blocks/norms")]
    refiner: Annotated[Component | None, OneOf("networks")] = None

Specs are immutable and validated strictly: a YAML list arrives as a tuple, so fields are tuples, never lists.
"""

from __future__ import annotations

import importlib
import pkgutil
import types
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationInfo,
    field_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

# Integers of specs: every one has a bound, so that no number of a user's makes a loop or an array that never ends.
Size = Annotated[int, Field(gt=0, le=65_536)]  # channels, widths
Steps = Annotated[int, Field(gt=0, le=100_000)]
Index = Annotated[int, Field(ge=0, le=100_000)]  # of a step, a block
Level = Annotated[int, Field(ge=0, le=63)]  # of a network that changes resolution
Multiplier = Annotated[float, Field(gt=0, le=1_024)]


class Closed(BaseModel):
    """A part of a spec: immutable, its set of keys closed, its numbers finite."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        validate_by_name=True,
        validate_by_alias=True,
        protected_namespaces=(),
    )
    # fields whose texts may hold line breaks
    SEVERAL_LINES: ClassVar[tuple[str, ...]] = ()

    @field_validator("*", mode="after")
    @classmethod
    def _texts_are_lines(cls, value: Any, info: ValidationInfo) -> Any:
        texts = value if isinstance(value, tuple) else value.values() if isinstance(value, dict) else [value]
        broken = any("\n" in text or "\t" in text for text in texts if isinstance(text, str))
        if broken and info.field_name not in cls.SEVERAL_LINES:
            raise ValueError("a line break or a tab in a text of one line")
        return value


class Component(Closed):
    """A `Closed` part chosen by its `kind`; a subclass narrows `kind` to a `Literal` of one name."""

    kind: str
    # A small, valid use of the component, from which the generic tests build it.
    EXAMPLE: ClassVar[dict[str, Any]] = {}


@cache
def load(folder: str) -> dict[str, type[Component]]:
    """Every component of a folder of this package ("networks", "blocks/mixers"), by its kind, sorted.

    Imports the folder's modules; names with a leading underscore are helpers. An absent folder is empty.
    Raises ValueError where two classes claim one kind.
    """
    name = ".".join([__name__, *folder.split("/")])
    paths = [str(Path(root, folder)) for root in __path__]
    found: dict[str, type[Component]] = {}
    for module in sorted(pkgutil.iter_modules(paths), key=lambda module: module.name):
        if module.ispkg or module.name.startswith("_"):
            continue
        for value in vars(importlib.import_module(f"{name}.{module.name}")).values():
            if not (isinstance(value, type) and issubclass(value, Component)):
                continue
            if value.__module__ != f"{name}.{module.name}" or (kind := kind_of(value)) is None:
                continue
            if kind in found:
                raise ValueError(f"{found[kind]!r} and {value!r} both claim the kind {kind!r} in {folder}")
            found[kind] = value
    return dict(sorted(found.items()))


def kind_of(component: type[Component]) -> str | None:
    """The name a component class goes by in a spec, or None for an abstract base."""
    names = get_args(component.model_fields["kind"].annotation)
    return names[0] if len(names) == 1 and isinstance(names[0], str) else None


@dataclass(frozen=True)
class OneOf:
    """Annotates a `Component` field: any component of `folder`, told apart by `kind`.

    Unlike a pydantic union with a discriminator it also works for folders of one component or none, and the
    folder is imported only when the schema of the class is built.
    """

    folder: str
    # a spec may write a component by its kind alone
    named: bool = field(default=False, kw_only=True)
    # the kind of a mapping that does not say it
    default: str | None = field(default=None, kw_only=True)
    # a spec may write a list of components
    many: bool = field(default=False, kw_only=True)

    def choices(self) -> dict[str, type[Component]]:
        """The component classes a spec can choose from, by kind."""
        return load(self.folder)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        made = handler(schema)
        if self.named:
            return {"anyOf": [{"enum": list(self.choices()), "type": "string"}, made]}
        if self.default is None or self.many:
            return made
        usual = handler.resolve_ref_schema({"$ref": made["discriminator"]["mapping"][self.default]})
        usual = {**usual, "required": [key for key in usual.get("required", []) if key != "kind"]}
        return {"anyOf": [made, usual]}

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        if self.many:
            one = handler.generate_schema(Annotated[Component, replace(self, many=False)])
            each = {"one": one, "list": core_schema.tuple_variable_schema(one)}
            schema: CoreSchema = core_schema.tagged_union_schema(each, discriminator=_one_or_list)
            return core_schema.nullable_schema(schema) if _is_optional(source) else schema
        schema = _tagged_schema(self.choices(), handler)
        if self.named:
            schema = core_schema.no_info_before_validator_function(_of_name, schema)
        if self.default is not None:
            schema = core_schema.no_info_before_validator_function(partial(_with_kind, self.default), schema)
        return core_schema.nullable_schema(schema) if _is_optional(source) else schema


@dataclass(frozen=True)
class OneOfThese(OneOf):
    """As `OneOf`, for components that stand in one module instead of a folder; `folder` names them."""

    classes: tuple[type[Component], ...] = ()

    def choices(self) -> dict[str, type[Component]]:
        """The component classes a spec can choose from, by kind."""
        return {kind: component for component in self.classes if (kind := kind_of(component))}


def _tagged_schema(classes: Mapping[str, type[Component]], handler: GetCoreSchemaHandler) -> CoreSchema:
    if not classes:
        return core_schema.no_info_after_validator_function(_refuse, core_schema.any_schema())
    choices = {kind: handler.generate_schema(component) for kind, component in classes.items()}
    return core_schema.tagged_union_schema(choices, discriminator="kind")


def _of_name(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


def _with_kind(kind: str, value: Any) -> Any:
    return {"kind": kind, **value} if isinstance(value, Mapping) else value


def _one_or_list(value: Any) -> str:
    return "list" if isinstance(value, list | tuple) else "one"


def _refuse(value: Any) -> Any:
    raise PydanticCustomError("union_tag_invalid", "no component can stand here", {"expected_tags": ""})


def _is_optional(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, types.UnionType) and type(None) in get_args(annotation)
