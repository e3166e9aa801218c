"""The nearest neighbours of a sample in a database of embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.condition import Form, Searched, TokenShape
from latentc.components.conditions._retrieved import Retrieved
from latentc.components.contract import Port
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, Var, f32
from latentc.ir.types import B


class Neighbours(Retrieved):
    """The embeddings of the k nearest neighbours of a sample, nearest first (Blattmann et al. 2022, arXiv:2204.11824).

    Its operand is f32[B, k, D]; the null value is zeros, even for networks never trained without neighbours. Training
    searches neighbours by the embedding of each sample in data field `field` (arrays of any rank are flattened).
    Requests pass the neighbours, or what to search for in the index next to the bundle.
    """

    kind: Literal["neighbours"]
    count: int = Field(4, gt=0, le=4_096, description="number of neighbours (k)")
    database: str | None = Field(
        None,
        description="folder written by `latentc index`, or an .npy file of embeddings [N, D]; null: the training data",
    )
    itself: bool = Field(False, description="a sample may be its own neighbour, if the database is the training data")
    embedding: Literal["none", "linear"] = Field(
        "none", description="how embeddings become tokens: unchanged, or through a linear layer to the network's width"
    )
    FORMS: ClassVar[tuple[Form, ...]] = ("tokens", "array")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "neighbours", "field": "x"}

    @property
    def nullable(self) -> bool:
        return True

    @property
    def requested(self) -> int:
        return self.count

    def problems_as(self, name: str, spec: Spec) -> Iterator[Problem]:
        yield from super().problems_as(name, spec)
        if self.database is not None and self.itself:
            yield Problem(("itself",), "`itself` applies only if the training data is the database", "leave it out")

    def ports(self, name: str, spec: Spec) -> tuple[Port, ...]:
        return (Port(name, f32(B, self.count, self.size(name, spec)), "condition"),)

    def tokens(
        self, b: Builder, prefix: str, name: str, operands: tuple[Var, ...], width: Any, sizes: Mapping[str, Any]
    ) -> tuple[Var, Var | None]:
        (x,) = operands
        return (x if self.embedding == "none" else b.dense(prefix, x, width, init="normal", std=0.02, out=name)), None

    def token_shape(self, name: str, spec: Spec) -> TokenShape:
        return TokenShape(self.count, width=self.size(name, spec) if self.embedding == "none" else None)

    def search(self, field: str) -> Searched:
        return Searched(field, self.count, self.database, self.metric, self.itself)
