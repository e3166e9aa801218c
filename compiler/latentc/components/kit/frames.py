"""Video as images, for networks that look at each frame by itself.

Symbols: B batch, C channels, F frames, H and W sides.
"""

from __future__ import annotations

from latentc.ir.builder import Builder, Var


def as_images(b: Builder, x: Var, out: str = "x") -> Var:
    """Video f32[B, C, F, H, W] as f32[B F, C, H, W]; images as they are."""
    if x.type.rank != 5:
        return x
    batch, channels, frames, rows, columns = x.shape
    x = b.transpose(x, perm=(0, 2, 1, 3, 4), out=out)
    return b.reshape(x, shape=(batch * int(frames), channels, rows, columns), out=out)
