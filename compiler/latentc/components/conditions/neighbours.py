"""The nearest neighbours of a sample in a database of embeddings.

Why a file of its own: training finds them in an index, which a request searches too; no field of the data holds them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from latentc.components.condition import Condition, Form, GivenInput, Searched
from latentc.components.contract import Port
from latentc.components.parts import Problem
from latentc.ir.builder import Builder, Var, f32
from latentc.ir.types import B
from latentc_runtime.sources import Condition as Requested

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class Neighbours(Condition):
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
    metric: Literal["cosine", "l2"] = Field("cosine", description="similarity by which the training data are searched")
    itself: bool = Field(False, description="a sample may be its own neighbour, if the database is the training data")
    embedding: Literal["none", "linear"] = Field(
        "none", description="how embeddings become tokens: unchanged, or through a linear layer to the network's width"
    )
    FORMS: ClassVar[tuple[Form, ...]] = ("tokens", "array")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "neighbours", "field": "x"}

    @property
    def nullable(self) -> bool:
        return True

    def size(self, name: str, spec: Spec) -> int:
        """D, the size of an embedding."""
        field, size = spec.data.fields.get(self.field or name), 1
        for length in field.shape if field is not None else ():
            size *= length
        return size

    def problems_as(self, name: str, spec: Spec) -> Iterator[Problem]:
        field = spec.data.fields.get(self.field or name)
        if field is None or field.classes is not None:
            arrays = [n for n, one in spec.data.fields.items() if one.classes is None]
            what = f"`{self.field or name}` of the data holds no embeddings" if self.field else "no field is named"
            mend = f"name an array in `conditioning.{name}.field`: {', '.join(arrays) or 'the data has none'}"
            yield Problem(("field",), f"neighbours are searched by an embedding of each sample, and {what}", mend)
        if name in spec.data.fields:
            message = f"condition `{name}` is searched for, but the data has a field of that name"
            yield Problem((), message, "rename the condition, or read the field with `{kind: sequence}`")
        if self.database is not None and self.itself:
            yield Problem(("itself",), "`itself` is about training data as the database", "leave it out")

    def ports(self, name: str, spec: Spec) -> tuple[Port, ...]:
        return (Port(name, f32(B, self.count, self.size(name, spec)), "condition"),)

    def inputs(self, name: str, spec: Spec) -> tuple[GivenInput, ...]:
        (port,) = self.ports(name, spec)
        return (GivenInput(name, port.type, name, name),)

    def null_operands(self, b: Builder, name: str, operands: tuple[Var, ...], spec: Spec) -> tuple[Var, ...]:
        return (b.scalar(0.0, operands[0]),)

    def tokens(
        self, b: Builder, prefix: str, name: str, operands: tuple[Var, ...], width: Any, sizes: Mapping[str, Any]
    ) -> tuple[Var, Var | None]:
        (x,) = operands
        return (x if self.embedding == "none" else b.dense(prefix, x, width, init="normal", std=0.02, out=name)), None

    def length(self, name: str, spec: Spec) -> int:
        return self.count

    def token_width(self, name: str, spec: Spec) -> int | None:
        return self.size(name, spec) if self.embedding == "none" else None

    def requests(self, name: str, spec: Spec) -> tuple[Requested, ...]:
        shape = (self.count, self.size(name, spec))
        return (Requested(name, "array", shape, "f32", ("neighbour", "feature"), retrieved=True),)

    def searched(self, name: str, spec: Spec) -> Searched:
        return Searched(self.field or name, self.count, self.database, self.metric, self.itself)
