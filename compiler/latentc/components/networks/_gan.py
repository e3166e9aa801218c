"""Fields and checks shared by generators and discriminators of images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from latentc.components.backbone import Backbone
from latentc.components.parts import Problem

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


def problems_of_class(network: Backbone, spec: Spec) -> Iterator[Problem]:
    """The only condition is the class, as an index."""
    for name, condition in network.told(spec).items():
        if name != "class":
            message = f"a {network.kind} takes the class only, not condition `{name}`"
            yield Problem(("conditions",), message, "name its conditions: `conditions: [class]`, or `[]` for none")
        elif condition.ports(name, spec)[0].type.is_float:
            message = f"a {network.kind} takes the class as an index, but `conditioning.class` gives a vector"
            yield Problem((), message, "write `conditioning.class: {kind: label, dropout: 0}`")
