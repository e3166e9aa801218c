"""A multilayer perceptron of conditions alone, such as a propensity score."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone, add_method
from latentc.components.capabilities import Capability
from latentc.components.condition import Entry, Form, ports_of
from latentc.components.contract import Network
from latentc.components.parts import Problem, Spec, dense
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, module_class
from latentc.systems.neural_csa.arrays import joined, problems_of_arrays


class ConditionMlp(Backbone):
    """`embed`: conditions -> f32[B, `numbers`], by linear layers with ReLU between them."""

    kind: Literal["condition_mlp"]
    width: int = Field(gt=0, le=65_536, description="width of the hidden layers")
    depth: int = Field(2, gt=0, le=64, description="number of hidden layers")
    numbers: int = Field(1, gt=0, le=65_536, description="dimension of the output")
    positive: bool = Field(False, description="apply softplus to the output")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "condition_mlp", "width": 8}

    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"embed_conditions"})
    TAKES: ClassVar[tuple[Form, ...]] = ("array",)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from problems_of_arrays(self, spec)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        entries = self.entries(spec)
        static = {"width": self.width, "numbers": self.numbers}
        embed = add_method(mb, name, "embed", _embed(self.depth, self.positive, entries), ports_of(entries), static)
        return Network(name, {"embed": embed}, self.PROVIDES)


@cache
def _embed(depth: int, positive: bool, entries: tuple[Entry, ...]) -> BlockBody:
    @module_class("ConditionMlp", "embed")
    def embed(b: Builder, *conditions: Var, width: int, numbers: int) -> Var:
        """Numbers of the conditions."""
        x = joined(b, entries, conditions)
        for i in range(depth):
            x = b.relu(dense(b, f"layers.{i}", x, width, True, "xavier"), out="x")
        x = dense(b, f"layers.{depth}", x, numbers, True, "xavier", out="numbers")
        return b.softplus(x, out="numbers") if positive else x

    return embed
