"""Random smooth deformations of images: an affine map near the identity, and a thin-plate spline.

Coordinates are (column, row) from -1, the first pixel of an axis, to 1, the last. Symbols: B batch, P points, N control
points, H and W sides.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from latentc.ir.builder import Builder, Var
from latentc.systems.lfdm.regions import Pair

EPS = 1e-6
"""Added to distances whose logarithm is taken."""


@dataclass(frozen=True)
class Deformation:
    """A deformation per sample: six numbers f32[B, 1, 1] of the affine map, and weights f32[B, 1, N] of the spline.

    The spline's radial function is d^2 log d of the distance |dx| + |dy| to a control point; it moves a point by as
    much along both axes, as in the authors' code.
    """

    b: Builder
    theta: list[Var]
    weights: Var
    points: int

    @classmethod
    def drawn(cls, b: Builder, theta: Var, weights: Var, of: tuple[float, float], points: int) -> Deformation:
        """From normals f32[B, 2, 3] and f32[B, points^2], and the standard deviations of both."""
        batch = theta.shape[0]
        identity = b.constant(np.eye(2, 3).reshape(1, 6), "f32", out="identity")
        flat = b.add(b.reshape(theta, shape=(batch, 6)) * of[0], identity, out="theta")
        numbers = b.split(flat, axis=1, sizes=(1,) * 6, out="a00 a01 a02 a10 a11 a12")
        spread = b.reshape(weights * of[1], shape=(batch, 1, points**2), out="weights")
        return cls(b, [b.reshape(n, shape=(batch, 1, 1)) for n in numbers], spread, points)

    def _offsets(self, at: Pair) -> tuple[Var, Var, Var]:
        """Signed distances along both axes of points f32[·, P, 1] from the control points, and their sum."""
        b, along = self.b, np.linspace(-1.0, 1.0, self.points)
        controls = np.tile(along, self.points), np.repeat(along, self.points)
        dx, dy = (
            b.op("sub", x, b.constant(c.reshape(1, 1, -1), "f32"), out=n)
            for x, c, n in zip(at, controls, ("dx", "dy"), strict=True)
        )
        return dx, dy, b.add(b.abs(dx), b.abs(dy), out="distance")

    def moved(self, at: Pair) -> Pair:
        """Where points (x, y), f32[·, P, 1] each, go: f32[B, P, 1]."""
        b, a = self.b, self.theta
        _, _, d = self._offsets(at)
        bend = b.sum(d * d * b.log(d + EPS) * self.weights, axes=(2,), keepdims=True, out="bend")
        return at[0] * a[0] + at[1] * a[1] + a[2] + bend, at[0] * a[3] + at[1] * a[4] + a[5] + bend

    def jacobian(self, at: Pair) -> list[Var]:
        """The derivative of `moved`, row by row: four numbers f32[B, P, 1]."""
        b, a = self.b, self.theta
        dx, dy, d = self._offsets(at)
        slope = b.op("mul", d * b.log(d + EPS) * 2.0 + d * d / (d + EPS), self.weights, out="slope")
        bends = [b.sum(slope * self._sign(offset), axes=(2,), keepdims=True, out="bend") for offset in (dx, dy)]
        return [a[0] + bends[0], a[1] + bends[1], a[3] + bends[0], a[4] + bends[1]]

    def _sign(self, x: Var) -> Var:
        b = self.b
        return b.where(b.less(x, 0.0), b.scalar(-1.0, x), 1.0, out="sign")

    def deformed(self, image: Var) -> Var:
        """Images f32[B, C, H, W] read at the moved pixels, mirrored beyond their edges."""
        b = self.b
        batch, _, rows, columns = image.shape
        x, y = (b.constant(np.linspace(-1.0, 1.0, int(n)), "f32") for n in (columns, rows))
        shape = (1, rows, columns, 1)
        wide = [
            b.broadcast_to(b.reshape(x, shape=(1, 1, columns, 1)), shape=shape),
            b.broadcast_to(b.reshape(y, shape=(1, rows, 1, 1)), shape=shape),
        ]
        moved = self.moved(tuple(b.reshape(w, shape=(1, rows * columns, 1)) for w in wide))  # type: ignore[arg-type]
        grid = b.reshape(b.concat(*moved, axis=2), shape=(batch, rows, columns, 2), out="grid")
        return b.grid_sample(image, grid, outside="reflection", out="deformed")
