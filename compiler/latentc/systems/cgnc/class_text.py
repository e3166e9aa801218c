"""The feature of a text about a class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import encoding_networks
from latentc.components.condition import Condition, Form, GivenInput
from latentc.components.contract import Network, Port
from latentc.components.kit import call
from latentc.components.networks.resnet_classifier import classes_of
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, Var, f32, i64
from latentc.ir.types import B
from latentc_runtime.sources import Condition as Requested


class ClassText(Condition):
    """A class, as the feature f32[B, E] that another network has of a text about it.

    Requests pass the class (CGNC, arXiv:2407.10179). That network is trained with those that take the feature, unless
    it is frozen.
    """

    kind: Literal["class_text"]
    network: str = Field("texts", description="one of `networks`, which encodes the class as a vector")
    field: None = Field(None, description="not read from the data")
    dropout: float = Field(0.0, ge=0, le=0, description="never dropped")
    prior: None = Field(None, description="always null: requests pass the class")
    FORMS: ClassVar[tuple[Form, ...]] = ("array",)
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "class_text"}

    def _width(self, spec: Spec) -> int:
        """E; 0 if the network encodes no class."""
        encoder = encoding_networks(spec).get(self.network)
        if encoder is None:
            return 0
        ports, feature = encoder.encoding(spec)
        of_class = len(ports) == 1 and ports[0].type == i64(B) and feature.rank == 2
        return int(feature.shape[1]) if of_class else 0  # type: ignore[arg-type]

    def problems_as(self, name: str, spec: Spec) -> Iterator[Problem]:
        if not classes_of(spec):
            yield Problem((), f"condition `{name}` is a class, but the data has none", "add `data.classes`")
        elif not self._width(spec):
            what = "encodes no class as a vector" if self.network in spec.networks else "does not exist"
            message = f"network `{self.network}` {what}"
            yield Problem(("network",), message, f"add `networks.{self.network}: {{kind: class_texts}}`")

    def ports(self, name: str, spec: Spec) -> tuple[Port, ...]:
        return (Port(f"{name}_text", f32(B, self._width(spec)), "condition"),)

    def inputs(self, name: str, spec: Spec) -> tuple[GivenInput, ...]:
        return (GivenInput("y", i64(B), "y", name, encoder=self.network),)

    def operands(
        self, b: Builder, name: str, given: tuple[Var, ...], networks: Mapping[str, Network]
    ) -> tuple[Var, ...]:
        return (call(b, networks[self.network], "encode", {}, out=f"{name}_text", state=given[0]),)

    def requests(self, name: str, spec: Spec) -> tuple[Requested, ...]:
        names = spec.data.fields["y"].class_names
        return (Requested(name, "label", classes=classes_of(spec), names=names if isinstance(names, tuple) else ()),)
