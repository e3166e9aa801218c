"""The data fields that training reads, and the kinds of data that can hold them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from latentc.components import load
from latentc.components.condition import GivenInput, searches
from latentc.components.contract import Update
from latentc.components.dataset import Data
from latentc.components.encoded_fields import IMAGES, encoded_fields
from latentc.components.parts import Problem

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


def fields_read(spec: Spec, updates: Sequence[Update]) -> tuple[str, ...]:
    """The fields that a training with these updates reads from the data, in the order of `data.fields`.

    Not those that only requests pass, and those that networks, a search or an augmentation compute.
    """
    found = searches(spec)
    names = {name for update in updates for name in update.batch} - {*found}
    names |= {search.field for search in found.values()}
    encoded = {name: of for name, of in encoded_fields(spec).items() if name in names}
    names -= {*encoded}
    for of in encoded.values():
        names |= {of.reads, *([of.mask] if of.mask is not None else [])} - {IMAGES}
    names -= spec.data.drawn_fields
    return tuple(name for name in spec.data.fields if name in names)


def fields_of_project(spec: Spec, updates: Sequence[Update]) -> tuple[str, ...]:
    """The fields that the reader of a training project returns: those read, and others that the data can hold.

    Conditions that only requests pass are not among them.
    """
    read = fields_read(spec, updates)
    conditions = [given for name, c in spec.conditions.items() for given in c.inputs(name, spec)]
    asked = {given.field for given in conditions if isinstance(given, GivenInput)}
    names = (name for name in spec.data.fields if name not in asked and _provides(type(spec.data), name, spec.data))
    return tuple(dict.fromkeys((*read, *names)))


def problems_of_reading(spec: Spec, updates: Sequence[Update]) -> Iterator[Problem]:
    """Fields that training reads but the data cannot hold, and labels of mixed images that it does not read."""
    data, fields, read = spec.data, spec.data.fields, fields_read(spec, updates)
    if "y_share" in data.drawn_fields and not any("y_share" in update.batch for update in updates):
        message = "the objective does not take labels of mixed images"
        yield Problem(("views",), message, "use `{kind: classification}`, or leave out `mixup` and `cutmix`")
    for name in read:
        if not _provides(type(data), name, data):
            kinds = [kind for kind, cls in load("data").items() if all(_provides(cls, n, data) for n in read)]
            given = f"field `{name}` {list(fields[name].shape)} of medium `{fields[name].medium}`"
            message = f"training reads {given}, which data of kind `{data.kind}` cannot hold: it has {data.HOLDS}"
            mend = f"kinds of data that hold all that training reads: {', '.join(kinds)}" if kinds else None
            yield Problem(_place(name, data), message, mend)


def _provides(kind: type, name: str, data: Data) -> bool:
    assert issubclass(kind, Data)
    encoded = kind.holds_images and data.first_stage is not None
    return kind.provides(name, data.fields[name], data.fields, encoded)


def _place(name: str, data: Data) -> tuple[str | int, ...]:
    """Where the field is declared, below `data`."""
    short = {"x": "shape", "tokens": "tokens", "y": "classes"}
    return ("fields", name) if name in data.fields_ else (short[name],) if name in short else ()


__all__ = ["fields_of_project", "fields_read", "problems_of_reading"]
