"""A vision transformer that encodes an image, as features of its patches or as one vector: ViT, CLIP's, MoCo v3's.

Why a file of its own: other networks that encode return codes or maps, or have a decoder too.
Symbols: B batch, C channels, T patches, D width, F features.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Component, OneOf
from latentc.components.backbone import add_method
from latentc.components.blocks.block import Block
from latentc.components.blocks.projection import Projection
from latentc.components.capabilities import Capability
from latentc.components.contract import Network, Port
from latentc.components.kit.patches import embedded_patches
from latentc.components.networks._image_encoder import ImageEncoder
from latentc.components.parts import Positions, Problem, Spec, Weights
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, items, module_class
from latentc.ir.types import B, Named, TensorType


class PatchEncoder(ImageEncoder):
    """Encodes images f32[B, C, H, H] as features f32[B, T, D] of their patches, or as one vector f32[B, F].

    A vision transformer (ViT, Dosovitskiy et al. 2020, arXiv:2010.11929), such as CLIP's (Radford et al. 2021,
    arXiv:2103.00020) or MoCo v3's (Chen et al. 2021, arXiv:2104.02057).
    """

    kind: Literal["patch_encoder"]
    width: int = Field(gt=0, le=65_536, description="channels of a token (D)")
    depth: int = Field(gt=0, le=512, description="number of blocks")
    patch: int = Field(gt=0, le=1_024, description="side of a patch, in pixels")
    patch_bias: bool = Field(True, description="bias of the layer that embeds patches (CLIP: false)")
    class_token: bool = Field(False, description="a learned token stands before the patches")
    positions: Annotated[Component, OneOf("blocks/positions")] = Field(description="position encoding")
    enter_norm: bool = Field(False, description="normalises tokens before the first block, too (CLIP)")
    block: Block = Field(description="the repeated block; its norm is also the last layer")
    output: Literal["patches", "class", "mean"] = Field(
        "patches", description="what it returns: all patches, the class token, or the mean of the patches"
    )
    head: Projection | None = Field(None, description="linear layers after that; null: none")
    standardise: bool = Field(
        False, description="each vector it returns is given mean 0 and deviation 1, over its numbers (RCG)"
    )
    weights: Weights = Field("xavier", description="initialisation of linear layers")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"encode", "see"})
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "patch_encoder",
        "width": 16,
        "depth": 1,
        "patch": 4,
        "positions": {"kind": "learned"},
        "block": Block.EXAMPLE,
    }

    @property
    def fixed(self) -> tuple[str, ...]:
        return ("patch",)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        found = list(self.problems_of_images(spec, self.patch, ("patch",)))
        yield from found
        if any(problem.path == ("reads",) for problem in found):
            return
        side = self.side(self.shape_read(spec)[1])
        grid = None if side % self.patch else side // self.patch
        if self.standardise and self.features_seen(spec) == 1:
            yield Problem(
                ("standardise",), "vectors of one number have no standard deviation", "leave `standardise` out"
            )
        yield from self._problems_of_tokens()
        yield from self.block.problems_of_width(self.width, None if self.class_token else grid)
        yield from self.block.problems_of_condition(self.kind, None)
        yield from self.problems_of_conditions(spec)

    def _problems_of_tokens(self) -> Iterator[Problem]:
        """Positions that add nothing or have no place for a class token, and an output that is not there."""
        positions = self.positions
        if isinstance(positions, Positions) and positions.ROTARY:
            yield Problem(("positions",), f"`{positions.kind}` is not added to patches", "use `{kind: learned}`")
        elif self.class_token and isinstance(positions, Positions) and positions.GRIDDED:
            message = f"the square of `{positions.kind}` has no position for a class token"
            yield Problem(("positions",), message, "use `{kind: learned}`, or leave `class_token` out")
        if self.output == "class" and not self.class_token:
            yield Problem(("output",), "there is no class token", "set `class_token: true`, or use `mean`")

    def features_seen(self, spec: Spec) -> int:
        return self.width if self.head is None else self.head.features

    def map_seen(self, spec: Spec) -> tuple[int, ...] | None:
        if self.reads is not None:
            return None
        features, *tokens = reversed([int(d) for d in self.encoding(spec)[1].shape[1:]])  # type: ignore[arg-type]
        return features, *tokens

    def encoding(self, spec: Spec) -> tuple[tuple[Port, ...], TensorType]:
        shape, features = self.shape_read(spec), self.features_seen(spec)
        tokens = [(self.side(shape[1]) // self.patch) ** 2] if self.output == "patches" else []
        return (Port(self.reads or "x", f32(B, *shape), "state"),), f32(B, *tokens, features)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        channels, size, _ = self.shape_read(spec)
        static = {
            "size": self.side(size),
            "patch": self.patch,
            "channels": channels,
            "width": self.width,
            "depth": self.depth,
            **self.block.static(self.width),
        }
        x = Port("x", f32(B, channels, size, size), "state")
        methods = {"encode": add_method(mb, name, "encode", _encode(self), [x], static)}
        provides = self.provides(spec)
        if "see" in provides:
            methods["see"] = add_method(mb, name, "see", _encode(self, sees=True), [x], static)
        return Network(name, methods, provides)


@cache
def _encode(config: PatchEncoder, sees: bool = False) -> BlockBody:
    mixer, feed_forward, norm, condition = config.block.parts()
    block = condition.block(mixer, feed_forward, norm, config.weights)
    positions = config.positions
    assert isinstance(positions, Positions)
    shape = "B channels size size" if config.image is None else "B channels H W"

    @module_class("PatchEncoder", "see" if sees else "encode", x=shape)
    def encode(
        b: Builder, x: Var, *, size: int, patch: int, channels: int, width: int, depth: int, **static: Any
    ) -> Var:
        """Features of images x."""
        x = config.prepared(b, x, size)
        grid = size // patch
        tokens = Named(grid**2, "T")
        x = embedded_patches(b, "x_embedder", x, width, patch, "xavier_matrix", tokens, config.patch_bias)
        if config.class_token:
            token = b.param("cls_token", f32(1, 1, width), "normal", std=0.02)
            x = b.concat(b.broadcast_to(token, x, shape=(x.shape[0], 1, width), out="token"), x, axis=1, out="x")
        x = positions.add(b, x, width, grid)
        x = norm.apply(b, "enter_norm", x) if config.enter_norm else x
        for name in items("blocks", depth):
            x = b.sub(name, block, x, dim=width, **config.block.own(width, {**static, "grid": grid}))
        x = _read(b, config, norm.apply(b, "norm", x))
        x = x if config.head is None else config.head.apply(b, "head", x, config.weights)
        x = standardised_rows(b, x) if config.standardise else x
        return b.transpose(x, perm=(0, 2, 1), out="features") if sees and x.type.rank == 3 else x

    encode.body.__doc__ = _doc(config, sees)
    return encode


def _doc(config: PatchEncoder, sees: bool) -> str:
    if config.output != "patches":
        return "A vector for each of images x."
    return f"Features {'[B, F, T]' if sees else '[B, T, F]'} of the patches of images x."


def _read(b: Builder, config: PatchEncoder, x: Var) -> Var:
    """The output for tokens x f32[B, T, D], a class token first if there is one."""
    batch, count, width = x.shape
    if config.output == "class":
        return b.reshape(b.slice(x, axis=1, start=0, stop=1), shape=(batch, width), out="x")
    x = b.slice(x, axis=1, start=1, stop=count, out="x") if config.class_token else x
    return b.mean(x, axes=(1,), keepdims=False, out="x") if config.output == "mean" else x


def standardised_rows(b: Builder, x: Var) -> Var:
    """x f32[..., F] less its mean over F, over its deviation (that of F - 1 numbers)."""
    last = x.type.rank - 1
    centred = b.op("sub", x, b.mean(x, axes=(last,), keepdims=True, out="mean"), out="centred")
    total = b.sum(b.mul(centred, centred), axes=(last,), keepdims=True)
    deviation = b.sqrt(b.mul(total, 1 / (int(x.shape[last]) - 1)), out="deviation")
    return b.div(centred, deviation, out="x")
