"""Data fields that a frozen network of the spec computes from other fields, once per sample, before training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from latentc.components.backbone import encoding_networks
from latentc.components.condition import EncodedField, GivenInput
from latentc.components.fields import Field
from latentc.components.parts import Problem
from latentc.ir.types import TensorType

if TYPE_CHECKING:
    from latentc.spec.schema import Spec

IMAGES = "images"
"""The name of the images of a first stage as input of a network; no field holds them."""


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


__all__ = ["IMAGES", "encoded_fields", "images_of", "problems_of_encoded"]
