"""Tokens of different samples kept apart.

Symbols: B batch, T tokens, D width.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Need
from latentc.components.objectives.denoising_terms._term import Denoised, DenoisingTerm
from latentc.ir.builder import Var


class Dispersion(DenoisingTerm):
    """log mean exp(-d) over all pairs of samples of the batch, d the mean squared difference of their tokens
    (dispersive loss, Wang and He 2025, arXiv:2506.09027, equation 6 with squared distances).
    """

    kind: Literal["dispersion"]
    weight: float = Field(0.5, gt=0, le=1_000, description="weight of the term")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "dispersion"}

    def needs(self) -> tuple[Need, ...]:
        return (Need("main", "denoise", ("features",)),)

    def value(self, denoised: Denoised) -> Var:
        b, (tokens,) = denoised.b, denoised.features
        batch, *space = tokens.shape
        size = math.prod(space)
        z = b.reshape(tokens, shape=(batch, size), out="z")
        squares = b.sum(z * z, axes=(1,), keepdims=True, out="squares")
        products = b.matmul(z, b.transpose(z, perm=(1, 0)), out="products")
        distances = (squares + b.transpose(squares, perm=(1, 0)) - 2.0 * products) / float(int(size))
        near = b.exp(b.neg(b.maximum(distances, 0.0)), out="near")
        mean = b.reshape(b.mean(near, axes=(0, 1), keepdims=True), shape=(1,), out="mean")
        return b.broadcast_to(b.log(mean), tokens, shape=(batch,), out="dispersion")
