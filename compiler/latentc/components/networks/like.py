"""A network of the architecture of another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone
from latentc.components.capabilities import Capability
from latentc.components.condition import Condition
from latentc.components.contract import Network
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import ModuleBuilder


class Like(Backbone):
    """A second network with the architecture of another and its own weights, such as a teacher or a critic."""

    kind: Literal["like"]
    network: str = Field("main", description="the network whose architecture it copies")
    conditions: tuple[str, ...] | None = Field(
        None, description="names of the conditions it takes; null: those of the other network"
    )
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset()
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "like"}

    def original(self, spec: Spec) -> Backbone | None:
        """The network it is like; None if there is none, or if that is like another itself."""
        found = spec.networks.get(self.network)
        return found if isinstance(found, Backbone) and not isinstance(found, Like) else None

    @property
    def same_as(self) -> str | None:
        return self.network

    def provides(self, spec: Spec) -> frozenset[Capability]:
        original = self.original(spec)
        return frozenset() if original is None else original.provides(spec)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        original = self.original(spec)
        if original is None:
            others = [n for n, net in spec.networks.items() if isinstance(net, Backbone) and not isinstance(net, Like)]
            what = "is itself `like` another network" if self.network in spec.networks else "does not exist"
            yield Problem(("network",), f"network `{self.network}` {what}", f"name one of {', '.join(others)}")
        elif self.conditions is not None:
            known = {problem.message for problem in original.problems(spec)}
            for problem in self._built(spec).problems(spec):
                if problem.message not in known:
                    yield replace(problem, path=("conditions",))

    def _built(self, spec: Spec) -> Backbone:
        """The other network with the conditions of this one."""
        original = self.original(spec)
        assert original is not None  # `problems` has looked
        return original if self.conditions is None else original.model_copy(update={"conditions": self.conditions})

    def takes(self, spec: Spec) -> dict[str, Condition]:
        return {} if self.original(spec) is None else self._built(spec).takes(spec)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        return self._built(spec).build(mb, name, spec, out_channels)
