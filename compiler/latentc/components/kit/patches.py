"""Arrays as sequences of patches, and back; a patch is a square, or of so many rows and columns.

Symbols: B batch, C channels, D width, H and W sides of the array, P side of a patch, T = H W / P^2 tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from latentc.components.layers import patch_conv
from latentc.components.parts import Problem, a_divisor
from latentc.ir.builder import Builder, Var

if TYPE_CHECKING:
    from latentc.components.dataset import Data


def patchify(
    b: Builder, x: Var, patch: Any, out: str = "tokens", tokens: Any = None, channels_last: bool = False
) -> Var:
    """f32[B, C, H, W] -> f32[B, T, C P P], patches row by row, a patch as [C, P, P]; `tokens`: T with its name.

    A patch is [P, P, C] if `channels_last`; `image` is the inverse of that.
    """
    batch, channels, height, width = x.shape
    high, wide = _sides(patch)
    rows, columns = height // high, width // wide
    count = rows * columns if tokens is None else tokens
    x = b.reshape(x, shape=(batch, channels, rows, high, columns, wide))
    x = b.transpose(x, perm=(0, 2, 4, 3, 5, 1) if channels_last else (0, 2, 4, 1, 3, 5))
    size = high * wide if isinstance(patch, tuple) else patch**2
    return b.reshape(x, shape=(batch, count, channels * size), out=out)


def unpatchify(b: Builder, tokens: Var, shape: tuple[Any, Any, Any], out: str = "x", patch: Any = None) -> Var:
    """f32[B, T, C P P] -> f32[B, C, H, W] of `shape` [C, H, W]: the inverse of `patchify`."""
    channels, height, width = shape
    patch = patch_side(int(tokens.shape[2]), channels) if patch is None else patch
    high, wide = _sides(patch)
    rows, columns = height // high, width // wide
    x = b.reshape(tokens, shape=(tokens.shape[0], rows, columns, channels, high, wide))
    x = b.transpose(x, perm=(0, 3, 1, 4, 2, 5))
    return b.reshape(x, shape=(tokens.shape[0], channels, height, width), out=out)


def embedded_patches(
    b: Builder, name: str, x: Var, width: Any, patch: int, init: str, tokens: Any, bias: bool = True
) -> Var:
    """f32[B, C, H, W] -> f32[B, T, D] with D = `width` and T = `tokens`, row by row: a linear map of each patch."""
    x = patch_conv(b, name, x, width, patch, init, bias)
    return b.transpose(b.reshape(x, shape=(x.shape[0], width, tokens)), perm=(0, 2, 1), out="x")


def image(b: Builder, tokens: Var, channels: Any, grid: Any, patch: Any, side: Any = None, out: str = "") -> Var:
    """f32[B, T, P P C] -> f32[B, C, side, side], a patch as [P, P, C]; `side`: that with its name."""
    batch, side = tokens.shape[0], grid * patch if side is None else side
    x = b.reshape(tokens, shape=(batch, grid, grid, patch, patch, channels))
    x = b.transpose(x, perm=(0, 5, 1, 3, 2, 4))
    return b.reshape(x, shape=(batch, channels, side, side), out=out)


def _sides(patch: Any) -> tuple[Any, Any]:
    return patch if isinstance(patch, tuple) else (patch, patch)


def problems_of_square(kind: str, data: Data, patch: int) -> Iterator[Problem]:
    """Problems of a network of that kind with data that is no square array [C, H, W] or that patches do not tile."""
    shape = data.shape
    if shape is None or len(shape) != 3 or shape[1] != shape[2]:
        yield Problem((), f"a {kind} takes square arrays [C, H, W], but the data has {data.words}")
    elif shape[1] % patch:
        yield Problem(("patch",), f"patches of {patch} do not tile a side of {shape[1]}", a_divisor(shape[1]))


def patch_side(size: int, channels: int) -> int:
    """P of patches with `size` numbers, C P P."""
    return round((size // channels) ** 0.5)
