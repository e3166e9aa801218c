"""A set of labels that a sample is to have, and of those that it is not to have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.condition import Condition, Form
from latentc.components.contract import Port
from latentc.components.networks.resnet_classifier import classes_of
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import f32
from latentc.ir.types import B
from latentc_runtime.sources import Condition as Requested


class LabelSet(Condition):
    """Labels that samples have and lack, f32[B, K] (S2M, Cho et al. 2022, arXiv:2206.05764).

    A positive number includes the label, a negative one excludes it, and 0 leaves it open. Its magnitude is the weight
    gamma of the label's probability: a sample's density is the least weighted probability of the included labels, less
    the greatest of the excluded ones. Only the sampler `latent_metropolis` reads it; training does not.
    """

    kind: Literal["label_set"]
    field: None = Field(None, description="not read from the data")
    dropout: float = Field(0.0, ge=0, le=0, description="never dropped")
    prior: None = Field(None, description="always null: requests pass it")
    default: tuple[float, ...] | None = Field(
        None, description="the set that samples have if a request does not pass one; null: required"
    )
    FORMS: ClassVar[tuple[Form, ...]] = ()
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "label_set"}

    def problems_as(self, name: str, spec: Spec) -> Iterator[Problem]:
        classes = classes_of(spec)
        if not classes:
            yield Problem((), f"condition `{name}` is a set of labels, but the data has none", "add `data.classes`")
        elif self.default is not None and len(self.default) != classes:
            message = f"`default` has {len(self.default)} numbers, but the data has {classes} labels"
            yield Problem(("default",), message, "give one number per label")

    def ports(self, name: str, spec: Spec) -> tuple[Port, ...]:
        return (Port(name, f32(B, classes_of(spec)), "condition"),)

    def requests(self, name: str, spec: Spec) -> tuple[Requested, ...]:
        default = None if self.default is None else list(self.default)
        return (Requested(name, "array", (classes_of(spec),), "f32", ("label",), default=default),)
