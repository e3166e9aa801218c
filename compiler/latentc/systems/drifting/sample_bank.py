"""Recent data by class, which drifting models take positive and negative samples from.

Symbols: B batch, K classes, S samples kept per class, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone, add_method, asked
from latentc.components.capabilities import Capability
from latentc.components.contract import Network, Port
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, i64, module_class
from latentc.ir.types import B


class SampleBank(Backbone):
    """Keeps the last samples of each class, and the last of all (Deng et al. 2026, arXiv:2602.04770).

    Takes samples f32[B, C, H, W], their classes i64[B], and uniform numbers f32[B, P] and f32[B, N]. For each of the B
    it returns P kept samples of its class and N of any class, each drawn with replacement; itself, while there is none.
    In training it then keeps the B samples in place of the oldest, which it returns too. Its tensors are saved with the
    networks.
    """

    kind: Literal["sample_bank"]
    of_class: int = Field(128, gt=0, le=1_000_000, description="samples kept of each class (S)")
    of_all: int = Field(1000, gt=0, le=1_000_000, description="samples kept of any class")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"keep_samples"})
    TRAINING_ONLY: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "sample_bank", "of_class": 3, "of_all": 5}

    @property
    def fixed(self) -> tuple[str, ...]:
        return ("channels", "rows", "columns", "classes")  # the data's

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if spec.data.shape is None or len(spec.data.shape) != 3:
            yield Problem((), f"a {self.kind} keeps arrays [C, H, W], but the data has {spec.data.words}")
        if not spec.data.classes:
            yield Problem((), f"a {self.kind} keeps samples by class, but the data has none", "set `data.classes`")
        yield from self.problems_of_conditions(spec)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        channels, rows, columns = spec.data.shape
        static = {"of_class": self.of_class, "of_all": self.of_all, "classes": spec.data.classes}
        static |= {"channels": channels, "rows": rows, "columns": columns}
        positives, negatives = (asked(spec, name, n, 1) for n in ("positives", "negatives"))
        ports = [
            Port("x", f32(B, channels, rows, columns), "state"),
            Port("y", i64(B), "position", values=spec.data.classes),
            Port("of_class_chance", f32(B, positives), "noise", distribution="uniform"),
            Port("of_all_chance", f32(B, negatives), "noise", distribution="uniform"),
        ]
        forward = add_method(mb, name, "forward", _forward(), ports, static, ["output"] * 3)
        return Network(name, {"forward": forward}, self.PROVIDES)


@cache
def _forward() -> BlockBody:
    @module_class("SampleBank")
    def forward(
        b: Builder,
        x: Var,
        y: Var,
        of_class_chance: Var,
        of_all_chance: Var,
        *,
        of_class: int,
        of_all: int,
        classes: int,
        channels: int,
        rows: int,
        columns: int,
    ) -> tuple[Var, ...]:
        """Kept samples of the same class and of any class, and those that the new ones replace."""
        array, batch = (channels, rows, columns), x.shape[0]
        kept = b.param("kept", f32(classes * of_class + of_all, *array), "zeros", "state")
        # Of each class and then of all: how many samples are kept, and the place of the next.
        ends = b.param("ends", f32(classes + 1, 2), "zeros", "state")
        of = b.concat(y, b.fill_like(y, classes), axis=0, out="of")
        ones = b.cast(b.reshape(b.fill_like(y, 1), shape=(batch, 1)), to="f32", out="ones")
        size = b.concat(ones * of_class, ones * of_all, axis=0, out="size")
        first = b.concat(y * of_class, b.fill_like(y, classes * of_class), axis=0, out="first")
        filled, following = b.split(b.take(ends, of, axis=0), axis=1, sizes=(1, 1), out="filled following")
        found, many = [], zip(*(b.split(v, axis=0, sizes=(batch, batch)) for v in (filled, first)), strict=True)
        for (count, start), chance in zip(many, (of_class_chance, of_all_chance), strict=True):
            last = b.maximum(count - 1.0, 0.0)
            drawn = b.cast(b.minimum(b.floor(chance * count), last), to="i64")
            drawn = b.add(drawn, b.reshape(start, shape=(batch, 1)), out="drawn")
            picks = drawn.shape[1]
            past = b.take(kept, b.reshape(drawn, shape=(batch * picks,)), axis=0, out="past")
            past = b.reshape(past, shape=(batch, picks, *array))
            itself = b.broadcast_to(b.reshape(x, shape=(batch, 1, *array)), shape=(batch, picks, *array))
            some = b.reshape(b.greater(count, 0.0), shape=(batch, 1, 1, 1, 1), out="some")
            found.append(b.where(some, past, itself, out="samples"))
        after = _numbered(b, of)
        now = b.minimum(filled + after, size, out="now")
        then = b.concat(now, _modulo(b, following + after, size), axis=1, out="then")
        _, place = b.split(b.exchanged(then, ends, of), axis=1, sizes=(1, 1), out="before place")
        place = b.add(b.cast(b.reshape(place, shape=first.shape), to="i64"), first, out="place")
        return *found, b.exchanged(b.concat(x, x, axis=0), kept, place, out="replaced")

    return forward


def _numbered(b: Builder, of: Var) -> Var:
    """f32[B, 1]: the place of each of the numbers i64[B] among those equal to it, from 1."""
    count = of.shape[0]
    column, row = (count, 1), (1, count)
    same = b.equal(b.reshape(of, shape=column), b.reshape(of, shape=row), out="same")
    order = b.cumsum(b.fill_like(of, 1), axis=0, out="order")
    early = b.less_equal(b.reshape(order, shape=row), b.reshape(order, shape=column), out="early")
    return b.sum(b.cast(b.logical_and(same, early), to="f32"), axes=(1,), keepdims=True, out="after")


def _modulo(b: Builder, x: Var, size: Var) -> Var:
    """The remainder of whole numbers x >= 0."""
    return b.op("sub", x, b.floor(x / size) * size, out="remainder")
