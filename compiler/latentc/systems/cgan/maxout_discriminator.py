"""A discriminator of maxout layers.

Symbols: B batch, C channels.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.condition import Entry
from latentc.components.networks.mlp_discriminator import MlpDiscriminator
from latentc.components.parts import Spec, dense
from latentc.ir.builder import Builder, Var


class MaxoutDiscriminator(MlpDiscriminator):
    """An `mlp_discriminator` whose hidden layers are maxout units (Mirza and Osindero 2014, arXiv:1411.1784).

    A unit is the largest of several linear pieces (Goodfellow et al. 2013, arXiv:1302.4389).
    """

    kind: Literal["maxout_discriminator"]  # type: ignore[assignment]
    activation: Literal["maxout"] = Field("maxout", description="always maxout")  # type: ignore[assignment]
    pieces: int = Field(5, gt=0, le=1_024, description="pieces of the units that see x or a condition alone")
    joint_pieces: int = Field(4, gt=0, le=1_024, description="pieces of the units of the layers `widths`")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        **{**MlpDiscriminator.EXAMPLE, "kind": "maxout_discriminator"},
        **{"pieces": 3, "joint_pieces": 2},
    }

    def static(self, spec: Spec) -> dict[str, Any]:
        return {**super().static(spec), "pieces": self.pieces, "joint_pieces": self.joint_pieces}

    def layer(self, b: Builder, name: str, x: Var, width: Any, static: dict[str, Any]) -> Var:
        pieces = static["joint_pieces" if name.startswith("hidden") else "pieces"]
        return self.active(b, largest(b, dense(b, name, x, width * pieces, True, self.weights, out="h"), width, pieces))

    def embedded(self, b: Builder, entry: Entry, operands: tuple[Var, ...], static: dict[str, Any]) -> Var:
        width, pieces = static["condition_width"], static["pieces"]
        return largest(b, entry.vector(b, entry.prefix, operands, width * pieces, static), width, pieces)

    def active(self, b: Builder, h: Var) -> Var:
        return b.dropout(h, p=self.dropout, out="h") if self.dropout else h


def largest(b: Builder, h: Var, width: Any, pieces: Any) -> Var:
    """The largest of `pieces` adjacent numbers of h f32[B, width * pieces]: f32[B, width]."""
    return b.max(b.reshape(h, shape=(h.shape[0], width, pieces)), axes=(2,), keepdims=False, out="h")
