"""Codes of another network with a separator after them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.conditions.encoded import Encoded
from latentc.components.contract import Network, Port
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, Var, i64
from latentc.ir.types import B


class EndedCodes(Encoded):
    """Tokens that another network of the spec encodes data fields as, followed by a token that ends them."""

    kind: Literal["ended_codes"]  # type: ignore[assignment]
    end: int = Field(ge=0, le=16_777_215, description="token after the codes")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "ended_codes", "network": "encoder", "end": 0}

    def problems_as(self, name: str, spec: Spec) -> Iterator[Problem]:
        yield from super().problems_as(name, spec)
        if (encoding := self._encoding(spec)) is not None and (encoding[1].rank, encoding[1].dtype) != (2, "i64"):
            message = f"network `{self.network}` does not encode as tokens"
            yield Problem(("network",), message, "use `kind: encoded`, or a network that encodes as tokens")

    def ports(self, name: str, spec: Spec) -> tuple[Port, ...]:
        encoding = self._encoding(spec)
        if encoding is None or encoding[1].rank != 2:
            return super().ports(name, spec)
        return (Port(name, i64(B, int(encoding[1].shape[1]) + 1), "condition", self.end + 1),)  # type: ignore[arg-type]

    def operands(
        self, b: Builder, name: str, given: tuple[Var, ...], networks: Mapping[str, Network]
    ) -> tuple[Var, ...]:
        (codes,) = super().operands(b, name, given, networks)
        return (b.concat(codes, b.full(codes, shape=(1,), value=self.end, dtype="i64", out="end"), axis=1, out=name),)
