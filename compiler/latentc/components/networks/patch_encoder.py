"""A vision transformer that encodes an image as a sequence of features: the encoder of GIVT for dense prediction.

Why a file of its own: other networks that encode return codes, vectors or maps, or have a decoder too.
Symbols: B batch, C channels, T patches, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Component, OneOf
from latentc.components.backbone import Backbone, add_method
from latentc.components.blocks.block import Block
from latentc.components.capabilities import Capability
from latentc.components.contract import Network, Port
from latentc.components.kit.patches import embedded_patches
from latentc.components.parts import Positions, Problem, Weights
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, items, module_class
from latentc.ir.types import B, Named, TensorType

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class PatchEncoder(Backbone):
    """Encodes images f32[B, C, H, H] as features f32[B, T, D] of their patches (ViT, Dosovitskiy et al. 2020,
    arXiv:2010.11929, without a class token).
    """

    kind: Literal["patch_encoder"]
    reads: str | None = Field(
        None, description="data field that it encodes, for a condition `encoded`; null: the samples themselves"
    )
    width: int = Field(gt=0, le=65_536, description="channels of a feature (D)")
    depth: int = Field(gt=0, le=512, description="number of blocks")
    patch: int = Field(gt=0, le=1_024, description="side of a patch, in pixels")
    positions: Annotated[Component, OneOf("blocks/positions")] = Field(description="how patches know their place")
    block: Block = Field(description="the block that is repeated; its norm is the last layer, too")
    weights: Weights = Field("xavier", description="how linear layers start")
    conditions: tuple[str, ...] | None = Field((), description="always empty: it is told nothing")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"encode"})
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "patch_encoder",
        "width": 16,
        "depth": 1,
        "patch": 4,
        "positions": {"kind": "learned"},
        "block": {
            "mixer": {"kind": "attention", "heads": 2},
            "feed_forward": {"kind": "gelu_mlp"},
            "norm": {"kind": "layer_norm", "affine": True},
            "condition": {"kind": "in_context"},
        },
    }

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if self.reads is not None and self.reads not in spec.data.fields:
            known = ", ".join(spec.data.fields) or "none"
            yield Problem(("reads",), f"the data has no field `{self.reads}`", f"fields of the data: {known}")
            return
        shape, grid = self._shape(spec), None
        if shape[1] != shape[2] or not shape[1]:
            what = spec.data.words if self.reads is None else f"others in `{self.reads}`"
            yield Problem(("reads",), f"a patch_encoder takes square images [C, H, H], and the data has {what}")
        elif shape[1] % self.patch:
            yield Problem(("patch",), f"patches of {self.patch} do not tile a side of {shape[1]}")
        else:
            grid = shape[1] // self.patch
        if isinstance(self.positions, Positions) and self.positions.ROTARY:
            yield Problem(("positions",), f"`{self.positions.kind}` adds nothing to patches", "use `{kind: learned}`")
        yield from self.block.problems_of_width(self.width, grid)
        yield from self.block.problems_of_condition(self.kind, None)
        yield from self.problems_of_conditions(spec)

    def _shape(self, spec: Spec) -> tuple[int, int, int]:
        """Channels, rows and columns; zeros of what is no image, which `problems` refuses."""
        field = spec.data.fields.get(self.reads or "x")
        shape = () if field is None else field.shape
        return (shape[0], shape[1], shape[2]) if len(shape) == 3 else (0, 0, 0)

    def encoding(self, spec: Spec) -> tuple[tuple[Port, ...], TensorType]:
        shape = self._shape(spec)
        features = f32(B, (shape[1] // self.patch) * (shape[2] // self.patch), self.width)
        return (Port(self.reads or "x", f32(B, *shape), "state"),), features

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        channels, size, _ = self._shape(spec)
        static = {
            "size": size,
            "patch": self.patch,
            "channels": channels,
            "width": self.width,
            "depth": self.depth,
            **self.block.static(self.width),
        }
        x = Port("x", f32(B, channels, size, size), "state")
        method = add_method(mb, name, "encode", _encode(self), [x], static)
        return Network(name, {"encode": method}, self.PROVIDES)


@cache
def _encode(config: PatchEncoder) -> BlockBody:
    mixer, feed_forward, norm, condition = config.block.parts()
    block = condition.block(mixer, feed_forward, norm, config.weights)
    positions = config.positions
    assert isinstance(positions, Positions)

    @module_class("PatchEncoder", "encode", x="B channels size size")
    def encode(
        b: Builder, x: Var, *, size: int, patch: int, channels: int, width: int, depth: int, **static: Any
    ) -> Var:
        """Features [B, T, width] of the patches of images x."""
        grid = size // patch
        x = embedded_patches(b, "x_embedder", x, width, patch, "xavier_matrix", Named(grid**2, "T"))
        x = positions.add(b, x, width, grid)
        for name in items("blocks", depth):
            x = b.sub(name, block, x, dim=width, **config.block.own(width, {**static, "grid": grid}))
        return norm.apply(b, "norm", x)

    return encode


__all__ = ["PatchEncoder"]
