"""A network of the architecture of another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Capability, Network
from latentc.components.parts import Backbone, Problem
from latentc.ir.builder import ModuleBuilder

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class Like(Backbone):
    """A second network of the same architecture as another, with weights of its own: a teacher, a critic."""

    kind: Literal["like"]
    network: str = Field("main", description="the network it is like")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset()
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "like"}

    def original(self, spec: Spec) -> Backbone | None:
        """The network it is like; None if there is none, or if that is like another itself."""
        found = spec.networks.get(self.network)
        return found if isinstance(found, Backbone) and not isinstance(found, Like) else None

    def provides(self, spec: Spec) -> frozenset[Capability]:
        original = self.original(spec)
        return frozenset() if original is None else original.provides(spec)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if self.original(spec) is None:
            others = [n for n, net in spec.networks.items() if isinstance(net, Backbone) and not isinstance(net, Like)]
            what = "is like another itself" if self.network in spec.networks else "does not exist"
            yield Problem(("network",), f"network `{self.network}` {what}", f"name one of {', '.join(others)}")

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        original = self.original(spec)
        assert original is not None  # `problems` has looked
        return original.build(mb, name, spec, out_channels)
