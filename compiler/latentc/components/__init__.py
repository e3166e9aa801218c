"""The vocabulary of a spec: the base class of components, and the folders and packages as their registry.

A component is one file with one class:

    class LayerNorm(Component):
        "Layer normalisation over the last axis."

        kind: Literal["layer_norm"] = "layer_norm"
        epsilon: float = Field(1e-6, gt=0, description="added to the variance")
        EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "layer_norm"}

A field that takes any component of a folder says so by an annotation that type checkers read as well:

    norm: Annotated[Component, OneOf("blocks/norms")]
    refiner: Annotated[Component | None, OneOf("networks")] = None

Components of published systems and of users are in packages of their own (`packages.py`); `load` and `find` know both.

Specs are immutable and validated strictly: a YAML list becomes a tuple, so fields are tuples, never lists.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import types
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from latentc.components import mistakes, packages
from latentc.components.component import Closed, Component, Index, Level, Multiplier, Size, Steps, kind_of
from latentc.diagnostics import DiagnosticError, did_you_mean


def kinds_with(folder: str, fits: Callable[[type[Component]], bool]) -> str:
    """The kinds of a folder whose class fits, as help texts name them: "`a` or `b`"."""
    return " or ".join(f"`{kind}`" for kind, cls in load(folder).items() if fits(cls))


@cache
def load(folder: str) -> dict[str, type[Component]]:
    """Every component of a folder ("networks", "blocks/mixers"), by its kind, sorted: the core's and all packages'.

    Imports their modules, in the core those without a leading underscore. An absent folder is empty.
    DiagnosticError E0902 where two classes claim one kind, and where a package's module has no such component.
    """
    found = dict(_core(folder))
    for kind, module in packages.modules(folder).items():
        if kind in found:
            raise packages.claimed_twice(folder, kind, found[kind].__module__, module)
        found[kind] = _packaged(module, kind)
    return dict(sorted(found.items()))


def use(folder: Path | str) -> None:
    """Adds the component package in a folder, for this process. DiagnosticError E0902."""
    packages.add(folder)
    load.cache_clear()
    find.cache_clear()


@cache
def find(folder: str, kind: str) -> type[Component] | None:
    """The component of a folder that goes by `kind`; only its own module is imported, if it is named after it."""
    if component := _core_module(folder, kind):
        packages.unclaimed(folder, kind, component.__module__)
        return component
    if module := packages.modules(folder).get(kind):
        return _packaged(module, kind)
    return _core(folder).get(kind)


@cache
def _core(folder: str) -> dict[str, type[Component]]:
    """The components of a folder of this package, by kind."""
    paths = [str(Path(root, folder)) for root in __path__]
    found: dict[str, type[Component]] = {}
    for module in sorted(pkgutil.iter_modules(paths), key=lambda module: module.name):
        if module.ispkg or module.name.startswith("_"):
            continue
        for kind, component in _components(f"{_package(folder)}.{module.name}").items():
            if kind in found:
                raise ValueError(f"{found[kind]!r} and {component!r} both claim the kind {kind!r} in {folder}")
            found[kind] = component
    return found


def _core_module(folder: str, kind: str) -> type[Component] | None:
    """The core's component whose module is named after its kind."""
    try:
        present = kind.isidentifier() and importlib.util.find_spec(f"{_package(folder)}.{kind}") is not None
    except ModuleNotFoundError:  # no such folder
        return None
    return _components(f"{_package(folder)}.{kind}").get(kind) if present else None


def _packaged(module: str, kind: str) -> type[Component]:
    """The component that a package's table says is in a module. DiagnosticError E0902."""
    package, _, name = module.rpartition(".")
    subject = f"the component `{kind}` of the package `{package}`"
    try:
        present = _components(module)
    except Exception as error:
        raise mistakes.of_import(error, subject, packages.folder_of(module)) from error
    if kind not in present:
        message = f"{subject}: its module `{name}` defines no component of this kind"
        mend = did_you_mean(kind, present, f"it defines {', '.join(present) or 'none'}")
        raise DiagnosticError.of("E0902", message, help=mend)
    if package.partition(".")[0] in mistakes.USERS:
        from latentc.components.contracts import check_class

        with mistakes.blamed():
            check_class(present[kind])
    return present[kind]


def _package(folder: str) -> str:
    return ".".join([__name__, *folder.split("/")])


def _components(module: str) -> dict[str, type[Component]]:
    """The components that a module defines, by kind."""
    values = vars(importlib.import_module(module)).values()
    classes = [v for v in values if isinstance(v, type) and issubclass(v, Component) and v.__module__ == module]
    return {kind: component for component in classes if (kind := kind_of(component))}


# the classes around the one whose JSON schema is being made
_described: ContextVar[frozenset[type[Component]]] = ContextVar("_described", default=frozenset())


@dataclass(frozen=True)
class OneOf:
    """Annotates a `Component` field: any component of `folder`, told apart by `kind`.

    Unlike a pydantic union with a discriminator it imports a component when a spec names it, so that reading a spec
    takes as long as the spec is rich, not the vocabulary.
    """

    folder: str
    # a spec may give a component by its kind alone
    named: bool = field(default=False, kw_only=True)
    # the kind of a mapping that omits it
    default: str | None = field(default=None, kw_only=True)
    # a spec may give a list of components
    many: bool = field(default=False, kw_only=True)
    # only components derived from it; otherwise a component that holds another of its folder would nest without end
    base: type[Component] | None = field(default=None, kw_only=True)

    def choices(self) -> dict[str, type[Component]]:
        """The component classes a spec can choose from, by kind."""
        every = load(self.folder)
        return every if self.base is None else {k: c for k, c in every.items() if issubclass(c, self.base)}

    def find(self, kind: str) -> type[Component] | None:
        """The component class of that kind, if there is one."""
        found = find(self.folder, kind)
        return found if found is None or self.base is None or issubclass(found, self.base) else None

    def validated(self, value: Any) -> Component:
        """The component that a spec's data say; for pydantic, whose errors it raises."""
        if self.named and isinstance(value, str):
            value = {"kind": value}
        if isinstance(value, Mapping):
            kind = value.get("kind", self.default)
            if kind is None:
                raise PydanticCustomError("union_tag_not_found", "no `kind`")
            value = {"kind": kind, **value}
        elif isinstance(value, Component):
            kind = value.kind
        else:
            raise PydanticCustomError("model_type", "not a mapping")
        component = self.find(kind) if isinstance(kind, str) else None
        if component is None:
            elsewhere = isinstance(kind, str) and find(self.folder, kind) is not None
            raise PydanticCustomError("union_tag_invalid", "unknown kind", {"elsewhere": elsewhere})
        if lacking := getattr(component, "__abstractmethods__", None):
            raise ValueError(f"the component {component.__name__} does not define {', '.join(sorted(lacking))}")
        return component.model_validate(value)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        one = core_schema.no_info_plain_validator_function(self.validated)
        schema: CoreSchema = one
        if self.many:
            each: dict[Any, Any] = {"one": one, "list": core_schema.tuple_variable_schema(one)}
            schema = core_schema.tagged_union_schema(each, discriminator=_one_or_list)
        return core_schema.nullable_schema(schema) if _is_optional(source) else schema

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        # A component may hold another of its own folder; those already being described are only referred to.
        described = _described.get()
        classes: dict[Any, Any] = {}
        for kind, component in self.choices().items():
            whole: Any = component.__pydantic_core_schema__
            known = component in described and "ref" in whole
            classes[kind] = core_schema.definition_reference_schema(whole["ref"]) if known else whole
        token = _described.set(described | set(self.choices().values()))
        made = handler(core_schema.tagged_union_schema(classes, discriminator="kind")) if classes else {"not": {}}
        _described.reset(token)
        if self.named:
            made = {"anyOf": [{"enum": list(classes), "type": "string"}, made]}
        if self.default is not None:
            usual = handler.resolve_ref_schema({"$ref": made["discriminator"]["mapping"][self.default]})
            usual = {**usual, "required": [key for key in usual.get("required", []) if key != "kind"]}
            made = {"anyOf": [made, usual]}
        if self.many:
            made = {"anyOf": [made, {"type": "array", "items": made}]}
        return {"anyOf": [made, {"type": "null"}]} if _is_nullable(schema) else made


@dataclass(frozen=True)
class OneOfThese(OneOf):
    """As `OneOf`, for components that stand in one module instead of a folder; `folder` names them."""

    classes: tuple[type[Component], ...] = ()

    def choices(self) -> dict[str, type[Component]]:
        """The component classes a spec can choose from, by kind."""
        return {kind: component for component in self.classes if (kind := kind_of(component))}

    def find(self, kind: str) -> type[Component] | None:
        """The component class of that kind, if there is one."""
        return self.choices().get(kind)


def _one_or_list(value: Any) -> str:
    return "list" if isinstance(value, list | tuple) else "one"


def _is_nullable(schema: Any) -> bool:
    """Whether a schema allows null, below the validators around it."""
    return schema["type"] == "nullable" or ("schema" in schema and _is_nullable(schema["schema"]))


def _is_optional(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, types.UnionType) and type(None) in get_args(annotation)


__all__ = [
    "Closed",
    "Component",
    "Index",
    "Level",
    "Multiplier",
    "OneOf",
    "OneOfThese",
    "Size",
    "Steps",
    "find",
    "kind_of",
    "load",
    "use",
]
