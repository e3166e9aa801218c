"""LARP's codebook, whose rows training draws."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.blocks.bottlenecks.codebook import Codebook
from latentc.components.contract import Port
from latentc.components.kit.tokens import draw
from latentc.ir.builder import Builder, Var, f32
from latentc.ir.types import B


class StochasticCodebook(Codebook):
    """A codebook of which training draws rows from the softmax of cosines, instead of taking the nearest (LARP, Wang et
    al. 2024, arXiv:2410.21264)."""

    kind: Literal["stochastic_codebook"]  # type: ignore[assignment]
    normalize: Literal[True] = Field(True, description="always true: rows are drawn by cosine similarity")
    temperature: float = Field(gt=0, le=1_024, description="temperature of the softmax")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "stochastic_codebook",
        "size": 16,
        "channels": 4,
        "temperature": 0.03,
    }

    def noise_ports(self, rows: int, columns: int) -> tuple[Port, ...]:
        return (Port("u", f32(B, rows * columns), "noise", distribution="uniform"),)

    def chosen(self, b: Builder, rows: Var, table: Var, noise: Var | None) -> Var:
        assert noise is not None
        closeness = b.op("mul", b.linear(rows, table), 1 / self.temperature, out="closeness")
        return draw(b, closeness, b.reshape(noise, shape=(rows.shape[0],), out="u"), out="index")
