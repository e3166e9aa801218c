"""An autoencoder of two transformers whose latents are planes.

Symbols: B batch, C channels, F frames, N vectors of all planes, Z channels of the latents, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.networks._query_parts import Grid
from latentc.components.networks.query_autoencoder import QueryAutoencoder
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, Var
from latentc.systems.four_plane.planes import as_planes, from_planes, plane_tokens


class PlaneAutoencoder(QueryAutoencoder):
    """A query_autoencoder whose tokens are those of planes (Suhail et al. 2024, arXiv:2412.04452)."""

    kind: Literal["plane_autoencoder"]  # type: ignore[assignment]
    tokens: None = Field(None, description="always null: the tokens are the vectors of the planes")
    planes: Literal[3, 4] = Field(
        4,
        description="means of the patches over frames, rows and columns (3), or over each half of the frames, rows and "
        "columns (4)",
    )
    planes_by: Literal["mean", "projection"] = Field(
        "mean",
        description="how the vectors along an axis are reduced to one plane vector: their mean, or a linear map of "
        "all of them",
    )
    planes_as: Literal["joined", "summed"] = Field(
        "joined", description="decoder input per patch: its vectors from all planes, or their sum"
    )
    filled_by: Literal["last", "nearest"] = Field(
        "last",
        description="how shorter videos are extended: repeat the last frame, or spread the given frames evenly and "
        "fill with the nearest",
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {
        **QueryAutoencoder.EXAMPLE,
        "kind": "plane_autoencoder",
        "tokens": None,
        "planes": 3,
    }

    @property
    def every_patch(self) -> bool:
        return False

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        frames, _, _ = self.grid(spec)
        if self.planes == 4 and frames % 2:
            message = f"{frames} patches along the frames cannot be halved"
            yield Problem(("planes",), message, "use `planes: 3`, or an even number of patches")

    def token_count(self, spec: Spec) -> int:
        return plane_tokens(self.grid(spec), self.planes)

    def filled_up(self, b: Builder, x: Var, frames: int) -> Var:
        given = int(x.shape[2])
        if given == frames or self.filled_by == "last":
            return super().filled_up(b, x, frames)
        nearest = [round(i * (given - 1) / (frames - 1)) for i in range(frames)]
        return b.take(x, b.constant(nearest, "i64", out="nearest"), axis=2, out="x")

    def as_tokens(self, b: Builder, x: Var, grid: Grid, tokens: Any) -> Var:
        made = as_planes(b, x, grid, self.planes, self.planes_by, self.weights)
        return b.reshape(made, shape=(x.shape[0], tokens, x.shape[2]), out="x")

    def from_latents(self, b: Builder, z: Var, grid: Grid, width: Any) -> Var:
        z = from_planes(b, z, grid, self.planes, self.planes_as == "joined")
        return super().from_latents(b, z, grid, width)
