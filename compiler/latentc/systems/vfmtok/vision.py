"""A vision transformer whose patches are the features of a tokenizer: DINOv2.

A part, not the network `patch_transformer`, which denoises: it knows neither time nor conditions, has a class token
and registers, and gives the patches of several depths.

Symbols: B batch, T patches, D width, L depths.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from pydantic import Field

from latentc.components import Closed, Index
from latentc.components.blocks.conditions.in_context import InContext
from latentc.components.blocks.feed_forwards.gelu_mlp import GeluMlp
from latentc.components.blocks.mixers.attention import Attention
from latentc.components.blocks.norms.layer_norm import LayerNorm
from latentc.components.kit.patches import embedded_patches
from latentc.components.layers import standardised
from latentc.components.parts import Problem, Spec, a_divisor
from latentc.ir.builder import BlockBody, Builder, Var, f32, items, module_class
from latentc.systems.vfmtok.resizing import resized_positions


class Vision(Closed):
    """DINOv2's vision transformer (Oquab et al. 2023, arXiv:2304.07193), with registers or without.

    Images are given in [-1, 1]. The features of the last block are normalised, those of others are not.
    """

    width: int = Field(gt=0, le=65_536, description="channels of a token (D); ViT-L: 1024")
    depth: int = Field(gt=0, le=512, description="blocks; ViT-L: 24")
    heads: int = Field(gt=0, le=1_024, description="heads of each attention; ViT-L: 16")
    patch: int = Field(14, gt=0, le=1_024, description="side of a patch, in pixels")
    ratio: int = Field(4, gt=0, le=64, description="hidden width of the feed-forwards as a multiple of the width")
    registers: int = Field(4, ge=0, le=1_024, description="additional learned tokens (registers) after the class token")
    side: int = Field(
        37, gt=0, le=4_096, description="side of the patch grid that position embeddings were trained for"
    )
    offset: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="offset added to the side when position embeddings are resized; 0.1 without registers",
    )
    antialias: bool = Field(True, description="resize position embeddings with antialiasing; false without registers")
    image: int | None = Field(
        None,
        gt=1,
        le=65_536,
        description="side to which images are first resized, in pixels, bicubically: with aligned corners, after a "
        "Gaussian blur when shrinking (VFMTok), or by pixel centres (RAE); null: not resized",
    )
    levels: tuple[Index, ...] = Field(
        min_length=1,
        max_length=64,
        description="indices of the blocks whose patch features are returned, from 0, ascending; the last one is "
        "the last block",
    )

    @property
    def final_norm(self) -> LayerNorm:
        """The norm after the last block."""
        return LayerNorm(kind="layer_norm", eps=1e-6, affine=True)

    def seen(self, size: int) -> int:
        """Side of the images that it sees, in pixels, of images of side `size`."""
        return size if self.image is None else self.image

    def cells(self, size: int) -> int:
        """Side of the square of patches."""
        return self.seen(size) // self.patch

    def problems(self, size: int) -> Iterator[Problem]:
        """The problem with images of this side in pixels, or None."""
        size = self.seen(size)
        if size % self.patch:
            yield Problem(("patch",), f"patches of {self.patch} pixels do not tile a side of {size}", a_divisor(size))
        if self.width % self.heads:
            yield Problem(
                ("heads",), f"{self.heads} heads do not divide a width of {self.width}", a_divisor(self.width)
            )
        if list(self.levels) != sorted(set(self.levels)):
            yield Problem(("levels",), f"{list(self.levels)} must be in ascending order")
        elif self.levels[-1] != self.depth - 1:
            message = f"the last level is {self.levels[-1]}, but the last of {self.depth} blocks is {self.depth - 1}"
            yield Problem(("levels",), message, f"end `levels` with {self.depth - 1}, or change `depth`")

    def static(self) -> dict[str, int]:
        """The sizes that the emitted class is constructed with."""
        sizes = {"patch": self.patch, "width": self.width, "depth": self.depth, "heads": self.heads}
        return {**sizes, "hidden": self.ratio * self.width}


def problem_of_images(spec: Spec) -> Problem | None:
    """The problem with data that are no square images of 3 channels."""
    shape = spec.data.shape
    if shape is not None and len(shape) == 3 and shape[0] == 3 and shape[1] == shape[2]:
        return None
    return Problem((), f"a vision model takes square images of 3 channels, but the data has {spec.data.words}")


@cache
def vision_transformer(config: Vision) -> BlockBody:
    """Images [B, 3, size, size] -> the patches [B, T, D] of every level."""
    norm = LayerNorm(kind="layer_norm", eps=1e-6, affine=True)
    mixer = Attention(kind="attention", heads=config.heads)
    feed_forward = GeluMlp(kind="gelu_mlp", ratio=config.ratio, approximate="none")
    block = InContext(kind="in_context", gated=True).block(mixer, feed_forward, norm, "normal")

    @module_class("VisionTransformer", x="B 3 size size")
    def forward(
        b: Builder, x: Var, *, size: int, patch: int, width: int, depth: int, heads: int, hidden: int
    ) -> tuple[Var, ...]:
        """The patches of images x [B, 3, size, size] in [-1, 1] after several of its blocks, [B, T, width] each."""
        grid, before = size // patch, 1 + config.registers
        x = embedded_patches(b, "x_embedder", standardised(b, x), width, patch, "normal", grid * grid)
        table = b.param("positions", f32(1, config.side**2, width), "normal", std=0.02)
        x = b.add(x, resized_positions(b, table, config.side, grid, config.offset, config.antialias), out="x")
        place = b.param("cls_position", f32(1, 1, width), "normal", std=0.02)
        first = [b.add(b.param("cls_token", f32(1, 1, width), "normal", std=1e-6), place, out="cls")]
        if config.registers:
            first.append(b.param("registers", f32(1, config.registers, width), "normal", std=1e-6))
        first = [b.broadcast_to(v, x, shape=(x.shape[0], v.shape[1], width), out="first") for v in first]
        x = b.concat(*first, x, axis=1, out="x")
        found = []
        for i, name in enumerate(items("blocks", depth)):
            x = b.sub(name, block, x, dim=width, heads=heads, hidden=hidden)
            if i in config.levels[:-1]:
                found.append(b.slice(x, axis=1, start=before, stop=before + int(grid) ** 2, out="level"))
        x = config.final_norm.apply(b, "norm", x)
        return *found, b.slice(x, axis=1, start=before, stop=before + int(grid) ** 2, out="level")

    return forward
