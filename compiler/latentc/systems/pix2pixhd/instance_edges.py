"""The edges between instances, as pix2pixHD draws them."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from latentc.components.condition import Form
from latentc.components.conditions.map import Map
from latentc.ir.builder import Builder, Var


class InstanceEdges(Map):
    """A map of instances [H, W], numbered as labels are, as one channel: 1 for pixels that have a neighbour above,
    below, left or right of another instance (pix2pixHD, arXiv:1711.11585, section 3.3).
    """

    kind: Literal["instance_edges"]  # type: ignore[assignment]
    FORMS: ClassVar[tuple[Form, ...]] = ("map",)
    RANKS: ClassVar[tuple[int, ...]] = (2,)
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "instance_edges"}

    def sizes(self, name: str, spec: Any) -> dict[str, int]:
        return {}

    def map(self, b: Builder, name: str, operands: tuple[Var, ...], sizes: Any, side: Any) -> Var:
        (instances,) = operands
        edges = None
        for axis in (1, 2):
            count = instances.shape[axis]
            first = b.slice(instances, axis=axis, start=0, stop=count - 1, out="first")
            second = b.slice(instances, axis=axis, start=1, stop=count, out="second")
            differ = b.op("sub", 1.0, b.cast(b.equal(first, second), to="f32"), out="differ")
            for before in (0, 1):
                found = b.pad(differ, axis=axis, before=before, after=1 - before, value=0.0, out="found")
                edges = found if edges is None else b.maximum(edges, found, out="edges")
        assert edges is not None
        batch, rows, columns = instances.shape
        edges = b.reshape(edges, shape=(batch, 1, rows, columns), out=name)
        factor = int(side) // int(rows)
        return b.upsample_nearest(edges, factor=factor, out=name) if factor > 1 else edges
