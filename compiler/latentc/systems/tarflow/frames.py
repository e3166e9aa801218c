"""Images and videos as tokens, frame after frame, after tokens of conditions: sizes, patches, rotary tables.

Symbols: B batch, F frames (1 of images), S tokens of a frame, C channels of a token, L tokens of conditions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from latentc.components.kit.patches import image, patchify, unpatchify
from latentc.components.parts import Positions
from latentc.ir.builder import Builder, Var
from latentc.ir.types import B


@dataclass(frozen=True)
class Layout:
    """How tokens lie: `prefix` of conditions before them, on a `square` of patches or not, in `frames` of a video.

    Videos have 1 frame or more, images 0. Flows but the last one take each frame by itself, as a batch of B F. `frame`:
    tokens of a frame of a video.
    """

    prefix: int
    square: bool = True
    frames: int = 0
    frame: int = 0

    def grid(self, static: Mapping[str, Any]) -> tuple[Any, Any]:
        """Rows and columns of patches."""
        if self.square:
            return static["size"] // static["patch"], static["size"] // static["patch"]
        return static["rows"], static["columns"]

    def static(self, shape: tuple[int, ...], patch: int) -> dict[str, int]:
        """The static arguments that say how large it is, of a sample's shape."""
        height, width = shape[-2:]
        sides = {"size": height} if self.square else {"rows": height // patch, "columns": width // patch}
        return {**sides, **({"frames": self.frames} if self.frames else {})}

    @property
    def shape(self) -> str:
        """The shape of a sample, for the emitted class."""
        if self.frames:
            return "B channels frames H W"
        return "B channels size size" if self.square else "B channels H W"


def layout_of(shape: tuple[int, ...], patch: int, prefix: int) -> Layout:
    """That of samples [C, H, W] or [C, F, H, W]."""
    _, *frames, height, width = shape
    if not frames:
        return Layout(prefix, height == width)
    return Layout(prefix, height == width, frames[0], (height // patch) * (width // patch))


Tables = tuple[Var, ...]


def rotary_tables(config: Any, b: Builder, static: Mapping[str, Any], layout: Layout) -> tuple[Tables, Tables]:
    """Rotary tables of a flow without conditions, and of one with them; the latter has all frames."""
    positions = config.positions
    if not isinstance(positions, Positions):
        return (), ()
    rows, columns = layout.grid(static)
    size = static.get("head_width", static["width"] // config.block.heads(static))
    if layout.frames or not layout.square:
        own = positions.rotary_of_frames(b, size, (1, rows, columns), 0, "freqs")
        frames = static["frames"] if layout.frames else 1
        return own, positions.rotary_of_frames(b, size, (frames, rows, columns), layout.prefix, "last_freqs")
    full = positions.rotary(b, size, rows, layout.prefix)
    if not layout.prefix:
        return full, full
    start, stop = layout.prefix, layout.prefix + rows**2
    own = tuple(b.slice(t, axis=0, start=start, stop=stop, out=n) for t, n in zip(full, ("cos", "sin"), strict=True))
    return own, full


def patches(b: Builder, config: Any, layout: Layout, x: Var, tokens: Any, static: Mapping[str, Any]) -> Var:
    """f32[B, S, C], or of a video f32[B F, S, C], of a sample."""
    if layout.frames:
        frames, (batch, channels, _, height, width) = static["frames"], x.shape
        x = b.transpose(x, perm=(0, 2, 1, 3, 4), out="frames")
        x = b.reshape(x, shape=(batch * frames, channels, height, width), out="frames")
    return patchify(b, x, static["patch"], out="x", tokens=tokens, channels_last=config.channels_last)


def sample_of(b: Builder, config: Any, layout: Layout, x: Var, static: Mapping[str, Any]) -> Var:
    """The inverse of `patches`."""
    patch, channels, (rows, columns) = static["patch"], static["channels"], layout.grid(static)
    if layout.square and not layout.frames:
        if config.channels_last:
            return image(b, x, channels, rows, patch, side=static["size"])
        return unpatchify(b, x, (channels, static["size"], static["size"]), patch=patch)
    frames = static["frames"] if layout.frames else 1
    x = b.reshape(x, shape=(B, frames, rows, columns, *_parts(config, patch, channels)))
    x = b.transpose(x, perm=(0, 6, 1, 2, 4, 3, 5) if config.channels_last else (0, 4, 1, 2, 5, 3, 6))
    shape = (channels, *([frames] if layout.frames else []), rows * patch, columns * patch)
    return b.reshape(x, shape=(B, *shape), out="x")


def _parts(config: Any, patch: Any, channels: Any) -> tuple[Any, Any, Any]:
    return (patch, patch, channels) if config.channels_last else (channels, patch, patch)
