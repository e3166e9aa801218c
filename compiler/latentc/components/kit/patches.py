"""Arrays as sequences of square patches, and back.

Symbols: B batch, C channels, H and W sides of the array, P side of a patch, T = H W / P^2 tokens.
"""

from __future__ import annotations

from latentc.ir.builder import Builder, Var


def patchify(b: Builder, x: Var, patch: int, out: str = "tokens") -> Var:
    """f32[B, C, H, W] -> f32[B, T, C P P], patches row by row, a patch as [C, P, P]."""
    batch, channels, height, width = x.shape
    rows, columns = int(height) // patch, int(width) // patch
    x = b.reshape(x, shape=(batch, channels, rows, patch, columns, patch))
    x = b.transpose(x, perm=(0, 2, 4, 1, 3, 5))
    return b.reshape(x, shape=(batch, rows * columns, channels * patch**2), out=out)  # type: ignore[no-any-return]


def unpatchify(b: Builder, tokens: Var, shape: tuple[int, int, int], out: str = "x") -> Var:
    """f32[B, T, C P P] -> f32[B, C, H, W] of `shape` [C, H, W]: the inverse of `patchify`."""
    channels, height, width = shape
    patch = patch_side(int(tokens.shape[2]), channels)
    rows, columns = height // patch, width // patch
    x = b.reshape(tokens, shape=(tokens.shape[0], rows, columns, channels, patch, patch))
    x = b.transpose(x, perm=(0, 3, 1, 4, 2, 5))
    return b.reshape(x, shape=(tokens.shape[0], channels, height, width), out=out)  # type: ignore[no-any-return]


def patch_side(size: int, channels: int) -> int:
    """P of patches with `size` numbers, C P P."""
    return round((size // channels) ** 0.5)


__all__ = ["patch_side", "patchify", "unpatchify"]
