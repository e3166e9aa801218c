"""The data fields that training reads, the kinds of data that can hold them, and the fields that networks compute."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from latentc.components import load
from latentc.components.backbone import encoding_networks
from latentc.components.condition import GivenInput, searches
from latentc.components.contract import Update
from latentc.components.dataset import Data
from latentc.components.fields import Field
from latentc.components.parts import Problem, Spec
from latentc.ir.types import TensorType

IMAGES = "images"
"""The name of the images of a first stage as input of a network; no field holds them."""


@dataclass(frozen=True)
class EncodedField:
    """A field that network `network` computes from the field that it `reads`, or from `images` of the first stage.

    `mask`: the field of valid tokens, which the network takes if it is `masked`. `empty`: the tokens of one text,
    followed by `pad`, whose features all samples share; None: each sample has its own.
    """

    network: str
    reads: str
    mask: str | None = None
    masked: bool = False
    empty: tuple[int, ...] | None = None
    pad: int = 0

    def settings(self) -> dict[str, Any]:
        """The entry of config.yaml, without defaults."""
        given = {key: value for key, value in asdict(self).items() if value not in (None, 0, False)}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in given.items()}


@dataclass(frozen=True)
class CachedFeatures:
    """Features f32[B, ...], in the field `field` of a batch, that a frozen network computes once, before training.

    If `encoded` has an `empty` text, the field `empty_field` has the features of its null.
    """

    field: str
    type: TensorType
    encoded: EncodedField

    @property
    def empty_field(self) -> str:
        return f"empty_{self.field}"

    @property
    def fields(self) -> dict[str, EncodedField]:
        """How the fields of a batch are computed."""
        own = {self.field: replace(self.encoded, empty=None, pad=0)}
        return own if self.encoded.empty is None else own | {self.empty_field: self.encoded}


def encoded_fields(spec: Spec) -> dict[str, EncodedField]:
    """The fields of a batch that networks compute: fields of the data, and features of captions."""
    found, networks = {}, encoding_networks(spec)
    for name, field in spec.data.fields.items():
        if (network := networks.get(field.encoded_by or "")) is not None:
            found[name] = EncodedField(field.encoded_by or "", network.encoding(spec)[0][0].name)
    for name, condition in spec.conditions.items():
        for given in condition.inputs(name, spec):
            if isinstance(given, GivenInput) and given.cached is not None:
                found |= given.cached.fields
    return found


def images_of(spec: Spec) -> tuple[int, ...]:
    """The shape of the images that the first stage encodes; empty if training does not see them."""
    stage = spec.first_stage
    seen = stage is not None and spec.data.holds_images and stage.data.shape is not None
    return tuple(stage.data.shape) if seen else ()  # type: ignore[union-attr, arg-type]


def problems_of_encoded(name: str, field: Field, spec: Spec) -> Iterator[Problem]:
    """Reasons why a network cannot compute this field."""
    place, encoder = ("fields", name, "encoded_by"), field.encoded_by
    able = encoding_networks(spec)
    if (network := able.get(encoder or "")) is None:
        what = "encodes nothing" if encoder in spec.networks else "does not exist"
        yield Problem(place, f"network `{encoder}` {what}", f"networks that encode: {', '.join(able) or 'none'}")
        return
    ports, type = network.encoding(spec)
    if len(ports) != 1 or network.encodes_masked:
        yield Problem(place, f"network `{encoder}` reads more than one field", "use one that encodes an image")
    elif (read := spec.data.fields.get(ports[0].name)) is not None and read.encoded_by is not None:
        yield Problem(place, f"network `{encoder}` reads `{ports[0].name}`, which is itself computed by a network")
    elif network.trainable or network.pretrained is None:
        message = f"this field is computed before training, but network `{encoder}` is trained"
        yield Problem(place, message, f"set `networks.{encoder}.pretrained: FILE`, or use a condition `encoded`")
    elif _shape(type) != field.shape:
        message = (
            f"network `{encoder}` returns {list(_shape(type))} per sample, but the field has shape {list(field.shape)}"
        )
        yield Problem(("fields", name, "shape"), message, f"write `shape: {list(_shape(type))}`")


def _shape(type: TensorType) -> tuple[int, ...]:
    return tuple(int(d) for d in type.shape[1:])  # type: ignore[arg-type]


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
