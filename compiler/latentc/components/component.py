"""The base classes of what a spec consists of, and the bounds of its integers."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

# Integers of specs: each has a bound, so that no value can cause an endless loop or an enormous array.
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
        strict=True,
        allow_inf_nan=False,
        ser_json_inf_nan="constants",  # of values without a type of their own, such as those of name maps
        validate_by_name=True,
        validate_by_alias=True,
        protected_namespaces=(),
    )
    # fields whose texts may hold line breaks
    SEVERAL_LINES: ClassVar[tuple[str, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _lists_are_tuples(cls, data: Any) -> Any:
        return _immutable(data)

    @field_validator("*", mode="after")
    @classmethod
    def _texts_are_lines(cls, value: Any, info: ValidationInfo) -> Any:
        texts = value if isinstance(value, tuple) else value.values() if isinstance(value, dict) else [value]
        broken = any("\n" in text or "\t" in text for text in texts if isinstance(text, str))
        if broken and info.field_name not in cls.SEVERAL_LINES:
            raise ValueError("a line break or a tab in a text of one line")
        return value


def _immutable(data: Any) -> Any:
    """Data with tuples in place of lists."""
    if isinstance(data, dict):
        return {key: _immutable(value) for key, value in data.items()}
    return tuple(map(_immutable, data)) if isinstance(data, list) else data


class Component(Closed):
    """A `Closed` part chosen by its `kind`; a subclass narrows `kind` to a `Literal` of one name."""

    kind: str
    # A small, valid spec of the component, from which the generic tests build it.
    EXAMPLE: ClassVar[dict[str, Any]] = {}

    @classmethod
    def example(cls, **changes: Any) -> Self:
        """The component of `EXAMPLE`, with some of its keys changed."""
        return cls.model_validate({**cls.EXAMPLE, **changes})


def kind_of(component: type[Component]) -> str | None:
    """The name a component class goes by in a spec, or None for an abstract base."""
    names = get_args(component.model_fields["kind"].annotation)
    return names[0] if len(names) == 1 and isinstance(names[0], str) else None
