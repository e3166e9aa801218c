"""Rotary positions of rows and columns beside channels that stay as they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Size
from latentc.components.parts import Positions, Problem
from latentc.ir.builder import Builder, Var, f32


class RopeAxes(Positions):
    """Rotates channels of a head by row and column, after those of a third axis that images do not use (FLUX).

    Tokens of the text are at row and column 0, where nothing is rotated.
    """

    kind: Literal["rope_axes"]
    axes: tuple[Size, Size, Size] = Field(
        (16, 56, 56),
        description="channels of a head that stay as they are, that the row rotates and that the column rotates; even",
    )
    base: float = Field(10000.0, gt=1, description="ratio of the longest to the shortest wavelength")
    ROTARY: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "rope_axes", "axes": [2, 4, 2]}

    def problems_of_head(self, channels: int) -> Iterator[Problem]:
        if sum(self.axes) != channels or any(count % 2 for count in self.axes):
            message = f"`axes` {list(self.axes)} must be even numbers whose sum is the {channels} of a head"
            yield Problem(("axes",), message, "change `axes`, the width or the number of heads")

    def rotary(self, b: Builder, head_dim: int, grid: int, prefix: int, name: str = "freqs") -> tuple[Var, ...]:
        return tuple(self._table(b, head_dim, grid, prefix, name, part) for part in ("cos", "sin"))

    def _table(self, b: Builder, head_dim: int, grid: int, prefix: int, name: str, part: str) -> Var:
        """f32[prefix + grid * grid, head_dim / 2]: cosines or sines of the angle of each pair of channels."""
        still, unturned = self.axes[0] // 2, float(part == "cos")
        parts = []
        for axis, count in (("rows", self.axes[1]), ("columns", self.axes[2])):
            args = {"head_dim": count, "length": grid, "base": self.base, "part": part}
            table = b.param(f"{name}_{axis}_{part}", f32(grid, count // 2), "rope_1d", "buffer", **args)
            place = (grid, 1) if axis == "rows" else (1, grid)
            table = b.reshape(table, shape=(*place, count // 2), out=axis)
            parts.append(b.broadcast_to(table, table, shape=(grid, grid, count // 2), out=axis))
        one = b.scalar(unturned, parts[0])
        first = b.broadcast_to(one, parts[0], shape=(grid, grid, still), out="still")
        whole = b.reshape(b.concat(first, *parts, axis=2), shape=(grid * grid, head_dim // 2), out=part)
        before = b.broadcast_to(one, whole, shape=(prefix, head_dim // 2), out="before")
        return b.concat(before, whole, axis=0, out=part)  # type: ignore[no-any-return]
