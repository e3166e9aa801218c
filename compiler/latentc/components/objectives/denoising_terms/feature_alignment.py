"""Alignment of a network's features with those of another.

Symbols: B batch, T tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone
from latentc.components.contract import Need
from latentc.components.objectives.denoising_terms._term import Denoised, DenoisingTerm
from latentc.components.parts import Problem
from latentc.ir.builder import Builder, Var, f32
from latentc.ir.types import B

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class FeatureAlignment(DenoisingTerm):
    """Aligns projected features with those of a frozen encoder, by the cosine of each token (REPA, Yu et al. 2024,
    arXiv:2410.06940).

    The encoder's features [T, C] are data fields, one per projection of `backbone.alignment`.
    """

    kind: Literal["feature_alignment"]
    weight: float = Field(0.5, gt=0, description="factor of the term")
    features: tuple[str, ...] = Field(
        ("features",), min_length=1, max_length=16, description="data fields of the encoders' features"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "feature_alignment"}

    @property
    def fields(self) -> tuple[str, ...]:
        return self.features

    def needs(self) -> tuple[Need, ...]:
        return (Need("main", "denoise", ("features",)),)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        network = spec.networks.get("main")
        shapes = network.feature_shapes(spec) if isinstance(network, Backbone) else ()
        if len(shapes) != len(self.features):
            message = f"{len(self.features)} fields of features for {len(shapes)} projections of the network"
            yield Problem(("features",), message, "name a field for each of `backbone.alignment.features`")
            return
        for i, (name, shape) in enumerate(zip(self.features, shapes, strict=True)):
            field = spec.data.fields.get(name)
            if field is None or field.shape != shape:
                what = "no such field" if field is None else f"of shape {list(field.shape)}"
                message = f"features `{name}` in the data: {what}"
                yield Problem(("features", i), message, f"declare `data.fields.{name}: {{shape: {list(shape)}}}`")

    def value(self, denoised: Denoised) -> Var:
        b = denoised.b
        total = None
        for name, ours in zip(self.features, denoised.features, strict=True):
            theirs = denoised.input(name, f32(B, *denoised.spec.data.fields[name].shape))
            product = b.op("mul", _unit(b, theirs, name), _unit(b, ours, "ours"), out="product")
            cosine = b.mean(b.sum(product, axes=(2,), keepdims=False), axes=(1,), keepdims=False, out="cosine")
            total = cosine if total is None else b.op("add", total, cosine, out="cosine")
        return b.op("mul", -1.0 / len(self.features), total, out="alignment")  # type: ignore[no-any-return]


def _unit(b: Builder, x: Var, out: str) -> Var:
    """x [B, T, C] with vectors of length 1."""
    length = b.sqrt(b.sum(x * x, axes=(2,), keepdims=True), out="length")
    return b.div(x, b.maximum(length, 1e-12), out=out)  # type: ignore[no-any-return]


__all__ = ["FeatureAlignment"]
