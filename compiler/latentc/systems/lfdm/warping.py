"""The image side of a flow autoencoder: features of an image at several sizes, and images from warped features.

Symbols: B batch, C channels, F frames, H and W sides, h and w of the flow.
"""

from __future__ import annotations

from functools import cache

from latentc.ir.builder import BlockBody, Builder, Var, module_class
from latentc.systems.lfdm.parts import conv, encoder, residual_block, same_block, up_block, widths


@cache
def image_encoder(width: int, most: int, count: int) -> BlockBody:
    @module_class("ImageEncoder", x="B C H W")
    def forward(b: Builder, x: Var) -> tuple[Var, ...]:
        """Features of images x at full size and after each halving of the sides."""
        x = b.sub("first", same_block, x, channels=x.shape[1], features=width, out="h")
        return tuple(encoder(b, "down", x, widths(width, most, count)))

    return forward


@cache
def warp_decoder(width: int, most: int, count: int, blocks: int) -> BlockBody:
    @module_class("WarpDecoder", x="B C H W")
    def forward(b: Builder, x: Var, *given: Var) -> tuple[Var, Var]:
        """Images x, in 0…1, warped by a flow [B, 2, h, w] where visible [B, 1, h, w]; elsewhere drawn anew.

        Features of x at each size, the largest first, come before the flow. Returns the image and x, only warped.
        """
        *levels, flow, visible = given
        of = widths(width, most, count)
        h = _warped(b, levels[-1], flow) * _resized(b, visible, levels[-1])
        for i in range(blocks):
            h = b.sub(f"blocks.{i}", residual_block, h, channels=of[-1], out="h")
        for i in range(count):
            h = _mixed(b, levels[-1 - i], h, flow, visible)
            h = b.sub(f"up.{i}", up_block, h, channels=h.shape[1], features=of[-2 - i], out="h")
        h = _mixed(b, levels[0], h, flow, visible)
        drawn = b.sigmoid(conv(b, "final", h, x.shape[1], 7), out="drawn")
        warped = _warped(b, x, flow)
        seen = _resized(b, visible, x)
        return b.add(warped * seen, drawn * (1.0 - seen), out="image"), warped

    return forward


def _resized(b: Builder, x: Var, like: Var) -> Var:
    """x [B, C, h, w] with the sides of another, by bilinear interpolation."""
    size = tuple(int(side) for side in like.shape[2:])
    return x if tuple(map(int, x.shape[2:])) == size else b.resize(x, size=size, mode="bilinear", out=x.value.name)


def _warped(b: Builder, x: Var, flow: Var) -> Var:
    """x [B, C, H, W] as the flow [B, 2, h, w] moves it."""
    grid = b.transpose(_resized(b, flow, x), perm=(0, 2, 3, 1), out="grid")
    return b.grid_sample(x, grid, outside="zeros", out="warped")


def _mixed(b: Builder, of_image: Var, drawn: Var, flow: Var, visible: Var) -> Var:
    """Warped features of the image where they are visible, and others elsewhere."""
    seen = _resized(b, visible, of_image)
    return b.add(_warped(b, of_image, flow) * seen, drawn * (1.0 - seen), out="h")
