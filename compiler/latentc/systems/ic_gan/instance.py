"""The embedding of an instance, of whose nearest neighbours the sample is one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.condition import Form, Searched
from latentc.components.conditions._retrieved import Retrieved
from latentc.components.contract import Network, Port
from latentc.components.layers import EPS
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, Var, f32
from latentc.ir.types import B


class Instance(Retrieved):
    """The embedding f32[B, D] of an instance; the sample is one of its k nearest neighbours (IC-GAN, Casanova et al.
    2021, arXiv:2109.05070).

    Training gives each row of the data as an instance, with a random one of its neighbours as the sample, whose other
    fields (such as its class) are given too. Data field `field` holds the embeddings (arrays of any rank are
    flattened). Requests pass an embedding, or what to search for in the index next to the bundle: the nearest entry is
    the instance, by default a random one.
    """

    kind: Literal["instance"]
    count: int = Field(50, gt=0, le=4_096, description="number of neighbours (k) of an instance in training")
    itself: bool = Field(False, description="an instance is one of its neighbours")
    normalized: bool = Field(True, description="divide embeddings by their length")
    FORMS: ClassVar[tuple[Form, ...]] = ("array",)
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "instance", "field": "x"}

    @property
    def requested(self) -> int:
        return 1

    def problems_as(self, name: str, spec: Spec) -> Iterator[Problem]:
        yield from super().problems_as(name, spec)
        others = [n for n, condition in spec.conditions.items() if isinstance(condition, Instance) and n != name]
        if others:
            message = f"a sample is a neighbour of one instance, but `{others[0]}` is another"
            yield Problem((), message, "keep one of them")

    def ports(self, name: str, spec: Spec) -> tuple[Port, ...]:
        return (Port(name, f32(B, self.size(name, spec)), "condition"),)

    def operands(
        self, b: Builder, name: str, given: tuple[Var, ...], networks: Mapping[str, Network]
    ) -> tuple[Var, ...]:
        (x,) = given
        flat = b.reshape(x, shape=(x.shape[0], x.shape[2]), out=name)
        if not self.normalized:
            return (flat,)
        length = b.sqrt(b.sum(flat * flat, axes=(1,), keepdims=True))
        return (b.div(flat, b.maximum(length, EPS, out="length"), out=name),)

    def search(self, field: str) -> Searched:
        return Searched(field, self.count, None, self.metric, self.itself, around=True)
