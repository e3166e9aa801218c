"""An autoencoder of two transformers over patches, whose number of latents is another than that of the patches.

Symbols: B batch, T patches, N tokens, Z channels of the latents, D width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.networks._query_parts import Grid, Place
from latentc.components.networks.query_autoencoder import QueryAutoencoder
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, Var, f32
from latentc.ir.ops.image import resizing


class DenseAutoencoder(QueryAutoencoder):
    """A query_autoencoder whose encoder's outputs are resized to fewer tokens, and back in the decoder (GIVT's for
    dense prediction, Tschannen et al. 2023, arXiv:2312.02116). The positions of its patches are learned."""

    kind: Literal["dense_autoencoder"]  # type: ignore[assignment]
    tokens: int = Field(gt=0, le=1_048_576, description="number of tokens per sample (N)")  # type: ignore[assignment]
    resized_by: Literal["interpolation", "matrix"] = Field(
        "interpolation",
        description="linear interpolation of the square of patches, or a learned matrix that mixes them",
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {
        **QueryAutoencoder.EXAMPLE,
        "kind": "dense_autoencoder",
        "resized_by": "matrix",
    }

    @property
    def queries(self) -> int | None:
        return None

    def learns(self, place: Place) -> bool:
        return True

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        frames = self.grid(spec)[0]
        if self.resized_by == "interpolation" and (frames != 1 or math.isqrt(self.tokens) ** 2 != self.tokens):
            message = (
                f"interpolation needs images and a square number of tokens, but there are {self.tokens} tokens of "
                f"{frames} patches along the frames"
            )
            yield Problem(("resized_by",), message, "use `matrix`, or images and a square number of tokens")

    def as_tokens(self, b: Builder, x: Var, grid: Grid, tokens: Any) -> Var:
        return self._resized(b, "to_fewer", x, tokens)

    def from_latents(self, b: Builder, z: Var, grid: Grid, width: Any) -> Var:
        return self._resized(b, "to_more", super().from_latents(b, z, grid, width), math.prod(grid))

    def _resized(self, b: Builder, name: str, x: Var, count: Any) -> Var:
        """Tokens x [B, T, D] as `count` ones [B, N, D]."""
        batch, tokens, width = x.shape
        if self.resized_by == "matrix":
            matrix = b.param(f"{name}.weight", f32(tokens, count), "xavier_uniform")
            return b.matmul(b.transpose(matrix, perm=(1, 0)), x, out="x")
        side, wanted = math.isqrt(tokens), math.isqrt(count)
        matrix = b.constant(resizing(side, wanted, "antialiased"), out="resizing")
        x = b.matmul(matrix, b.reshape(x, shape=(batch, side, side * width)), out="rows")
        x = b.matmul(matrix, b.reshape(x, shape=(batch, wanted, side, width)), out="cells")
        return b.reshape(x, shape=(batch, count, width), out="x")
