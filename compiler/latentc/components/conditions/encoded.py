"""The output of another network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone, encoding_networks
from latentc.components.condition import Condition, Form, GivenInput, TokenShape
from latentc.components.conditions.array import request_of
from latentc.components.contract import Network, Port
from latentc.components.kit import call
from latentc.components.parts import Problem, Refusal, Spec
from latentc.ir.builder import Builder, Var, f32
from latentc.ir.types import B, TensorType
from latentc_runtime.sources import Condition as Requested


class Encoded(Condition):
    """The output of another network of the spec, which encodes data fields.

    That network is trained together with those it conditions, unless it is frozen. Requests pass the fields.
    """

    kind: Literal["encoded"]
    network: str = Field(description="one of `networks`, which provides `encode`")
    field: None = Field(None, description="the encoder determines the fields")
    form: Form | None = Field(
        None, description="how it enters networks: array, vector, tokens or map; null: whichever the network supports"
    )
    FORMS: ClassVar[tuple[Form, ...]] = ("array", "vector", "tokens")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "encoded", "network": "encoder"}

    @property
    def forms(self) -> tuple[Form, ...]:
        return self.FORMS if self.form is None else (self.form,)

    def _encoding(self, spec: Spec) -> tuple[tuple[Port, ...], Any] | None:
        encoder = encoding_networks(spec).get(self.network)
        return None if encoder is None else encoder.encoding(spec)

    def problems_as(self, name: str, spec: Spec) -> Iterator[Problem]:
        encoding = self._encoding(spec)
        if encoding is None:
            able = encoding_networks(spec)
            what = "encodes nothing" if self.network in spec.networks else "does not exist"
            mend = f"networks that encode: {', '.join(able) or 'none'}"
            yield Problem(("network",), f"network `{self.network}` {what}", mend)
            return
        if spec.networks[self.network].encodes_masked:  # type: ignore[attr-defined]
            message = f"network `{self.network}` takes a mask, which an encoded condition does not have"
            mend = f"set `networks.{self.network}.masked: false`, or use `kind: encoded_text`"
            yield Problem(("network",), message, mend)
            return
        (port,), state = self.ports(name, spec), spec.data.shape or ()
        if self.form == "map" and not _beside(port.type, state):
            message = (
                f"network `{self.network}` returns {list(port.type.shape[1:])} per sample, "
                "which is not a map that fits the data"
            )
            yield Problem(("form",), message, "leave `form` out, or choose another network")
        for other, network in spec.networks.items():
            if not isinstance(network, Backbone) or not network.TAKES or name not in network.takes(spec):
                continue
            if network.form_of(self) == "vector" and port.type.rank != 2:
                message = f"network `{self.network}` returns {list(port.type.shape[1:])} per sample, but "
                mend = "set `form: tokens`, or let the network return one vector"
                yield Problem(("network",), f"{message}`{other}` takes one vector", mend)
        yield from super().problems_as(name, spec)

    def ports(self, name: str, spec: Spec) -> tuple[Port, ...]:
        encoding = self._encoding(spec)
        return () if encoding is None else (Port(name, encoding[1], "condition"),)

    def inputs(self, name: str, spec: Spec) -> tuple[GivenInput, ...]:
        if (encoding := self._encoding(spec)) is None:  # `problems_as` says so
            return (GivenInput(name, f32(B), name, name, encoder=self.network),)
        return tuple(GivenInput(p.name, p.type, p.name, p.name, encoder=self.network) for p in encoding[0])

    def operands(
        self, b: Builder, name: str, given: tuple[Var, ...], networks: Mapping[str, Network]
    ) -> tuple[Var, ...]:
        return (call(b, networks[self.network], "encode", {}, out=name, state=list(given)),)

    def vector(
        self, b: Builder, prefix: str, name: str, operands: tuple[Var, ...], width: Any, sizes: Mapping[str, Any]
    ) -> Var:
        return b.dense(prefix, _numbers(name, operands[0]), width, init="normal", std=0.02, out=name)

    def tokens(
        self, b: Builder, prefix: str, name: str, operands: tuple[Var, ...], width: Any, sizes: Mapping[str, Any]
    ) -> tuple[Var, Var | None]:
        embedded = b.dense(prefix, _numbers(name, operands[0]), width, init="normal", std=0.02, out=name)
        if embedded.type.rank == 2:
            embedded = b.reshape(embedded, shape=(embedded.shape[0], 1, width), out=name)
        return embedded, None

    def map(self, b: Builder, name: str, operands: tuple[Var, ...], sizes: Any, side: Any) -> Var:
        (x,) = operands
        factor = int(side) // int(x.shape[2]) if x.type.rank == 4 else 1
        return b.upsample_nearest(x, factor=factor, out=name) if factor > 1 else x

    def token_shape(self, name: str, spec: Spec) -> TokenShape:
        (port,) = self.ports(name, spec)
        return TokenShape(int(port.type.shape[1])) if port.type.rank == 3 else TokenShape()  # type: ignore[arg-type]

    def requests(self, name: str, spec: Spec) -> tuple[Requested, ...]:
        ports, _ = self._encoding(spec) or ((), None)
        return tuple(request_of(port, spec) for port in ports)


def _numbers(name: str, codes: Var) -> Var:
    """The codes, which a linear layer is to embed. Refusal if they are tokens."""
    if codes.type.dtype != "f32":
        message = f"condition `{name}` is encoded as tokens, which this network cannot embed"
        raise Refusal(message, "encode it as numbers, or use a network over tokens")
    return codes


def _beside(of: TensorType, state: tuple[int, ...]) -> bool:
    """True if an array of this type can be channels beside a state [C, H, W], or [C, T] of as many vectors."""
    if of.rank != len(state) + 1:
        return False
    return state[1] == of.shape[2] if of.rank == 3 else of.rank == 4 and state[1] % int(of.shape[2]) == 0  # type: ignore[arg-type]
