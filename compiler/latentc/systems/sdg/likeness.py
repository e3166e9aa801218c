"""Likeness to a reference that a request gives, an image or features: in pixels, or in the features of a network.

Symbols: B batch, C channels, F features, T positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone
from latentc.components.contract import Network
from latentc.components.guidance.scores._score import NetworkScore
from latentc.components.kit import Operands, call, per_sample_mean
from latentc.components.parts import Problem, Spec
from latentc.components.sums import weighted_sum
from latentc.ir.builder import Builder, Var, f32
from latentc.ir.types import B, TensorType


class Likeness(NetworkScore):
    """SDG's guidance (Liu et al. 2021, arXiv:2112.05744): the similarity of the data to a reference image or text.

    With a `network`, features of both are compared, without it pixels: `content` compares position by position, `style`
    products of features regardless of position, at each level of a `clip_resnet`, 1e10 times their squared error as in
    SDG's code. `meaning` compares the mean feature
    over the positions with reference features: those of a text, from the encoder that the network was trained with.
    """

    kind: Literal["likeness"]
    reference: str = Field(
        description="condition that provides the reference: an array of the data's shape, or features for `meaning`"
    )
    match: Literal["content", "style", "meaning"] = Field("content", description="what should match")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "likeness", "reference": "sketch"}

    @property
    def OF_STATES(self) -> bool:  # type: ignore[override]
        return self.network is not None

    def noised(self) -> tuple[str, ...]:
        return () if self.match == "meaning" else (self.reference,)

    def reads(self) -> tuple[str, ...]:
        return (self.reference,)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        condition = spec.conditions.get(self.reference)
        if condition is None:
            return  # the owner of the score reports it
        shapes = [tuple(port.type.shape[1:]) for port in condition.ports(self.reference, spec)]
        if self.match == "meaning":
            yield from self._problems_of_features(shapes, spec)
        elif shapes[:1] != [tuple(spec.data.shape or ())]:
            message = f"condition `{self.reference}` is not an array of the data's shape {list(spec.data.shape or ())}"
            yield Problem(("reference",), message, "use a condition of kind `array` or `map`")

    def _problems_of_features(self, shapes: list[tuple[Any, ...]], spec: Spec) -> Iterator[Problem]:
        """A reference that is not as many features as the network sees."""
        network = spec.networks.get(self.network or "")
        count = network.features_seen(spec) if isinstance(network, Backbone) else None
        if self.network is None:
            yield Problem(
                ("match",),
                "`match: meaning` compares features, but no network is named to compute them",
                "name a `network` that computes features",
            )
        elif count is not None and shapes[:1] != [(count,)]:
            message = f"condition `{self.reference}` does not have the {count} features that `{self.network}` computes"
            yield Problem(("reference",), message, f"give its data field the shape [{count}]")

    def operands(self, data: TensorType, networks: Mapping[str, Network]) -> dict[str, TensorType]:
        if self.match != "meaning":
            return {self.reference: data}
        assert self.network is not None
        return {self.reference: f32(B, networks[self.network].methods["see"].output().type.shape[1])}

    def build(
        self, b: Builder, data: Var, given: Operands, networks: Mapping[str, Network], time: Var | None = None
    ) -> Var:
        at = {} if time is None else {"time": time}
        if self.match == "meaning":
            assert self.network is not None
            seen = call(b, networks[self.network], "see", {}, state=data, out="features", **at)
            if seen.type.rank > 2:
                seen = b.mean(seen, axes=tuple(range(2, seen.type.rank)), keepdims=False, out="features")
            return _cosine(b, seen, given[self.reference])
        both = [data, given[self.reference]]
        network = None if self.network is None else networks[self.network]
        if network is not None and self.match == "style" and "see_levels" in network.methods:
            out = " ".join("map" for _ in network.methods["see_levels"].outputs)
            return _styles(b, *(call(b, network, "see_levels", {}, state=x, out=out, **at) for x in both))
        if network is not None:
            both = [call(b, network, "see", {}, state=x, out="features", **at) for x in both]
        if self.match == "style":
            return _styles(b, both[:1], both[1:])
        if network is not None:
            return _cosine(b, *both)
        difference = b.op("sub", *both, out="difference")
        return b.neg(per_sample_mean(b, b.mul(difference, difference)), out="likeness")


def _cosine(b: Builder, x: Var, y: Var) -> Var:
    """f32[B]: the mean over positions of the cosine between the features at axis 1."""
    inner = b.sum(b.mul(x, y), axes=(1,), keepdims=False, out="inner")
    lengths = [b.sqrt(b.add(b.sum(b.mul(v, v), axes=(1,), keepdims=False), 1e-8), out="length") for v in (x, y)]
    cosine = b.div(inner, b.mul(*lengths), out="cosine")
    return per_sample_mean(b, cosine, out="likeness") if cosine.type.rank > 1 else cosine


def _styles(b: Builder, seen: Sequence[Var], wanted: Sequence[Var]) -> Var:
    """f32[B]: minus the mean over levels of the mean squared difference of products of features, times 1e10 (SDG)."""
    terms = []
    for x, y in zip(seen, wanted, strict=True):
        difference = b.op("sub", _products(b, x), _products(b, y), out="difference")
        # Of products that are also means over channels.
        terms.append((-1e10 / len(seen) / int(x.shape[1]) ** 2, per_sample_mean(b, b.mul(difference, difference))))
    return weighted_sum(b, "likeness", *terms)


def _products(b: Builder, x: Var) -> Var:
    """f32[B, F, F]: the mean over positions of the products of features (Gram matrices)."""
    batch, features, *space = x.shape
    count = 1
    for d in space:
        count *= int(d)
    flat = b.reshape(x, shape=(batch, features, count), out="flat")
    return b.mul(b.matmul(flat, b.transpose(flat, perm=(0, 2, 1))), 1.0 / count, out="products")
