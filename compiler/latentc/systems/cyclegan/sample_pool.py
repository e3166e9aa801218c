"""Past samples of generators, which discriminators see in place of some new ones.

Symbols: B batch, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone, add_method
from latentc.components.capabilities import Capability, Role
from latentc.components.contract import Network, Port
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, i64, module_class
from latentc.ir.types import B

OF = ("target", "source")
"""The two sets of samples: images of the target made of the source's, and the reverse."""


class SamplePool(Backbone):
    """Keeps `size` past samples of each generator (Shrivastava et al. 2017, arXiv:1612.07828, section 2.3).

    Takes samples f32[B, C, H, W] of the target and of the source, and for each a uniform number f32[B] and an index
    i64[B] per sample. The first `size` samples are kept and returned; of the later ones half are exchanged for a
    kept sample. Its tensors are saved with the networks, so a resumed training goes on with the same samples.
    """

    kind: Literal["sample_pool"]
    size: int = Field(50, gt=0, le=1_000_000, description="number of samples kept of each generator")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"replay"})
    TRAINING_ONLY: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "sample_pool", "size": 3}

    @property
    def fixed(self) -> tuple[str, ...]:
        return ("channels", "rows", "columns", "size")  # the data's, and one that the loss draws indices for

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if spec.data.shape is None or len(spec.data.shape) != 3:
            yield Problem((), f"a {self.kind} keeps arrays [C, H, W], but the data has {spec.data.words}")
        yield from self.problems_of_conditions(spec)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        channels, rows, columns = spec.data.shape
        ports = [Port(f"{of}_samples", f32(B, channels, rows, columns), "state") for of in OF]
        for of in OF:
            ports.append(Port(f"{of}_chance", f32(B), "noise", distribution="uniform"))
            ports.append(Port(f"{of}_index", i64(B), "noise", values=self.size, distribution="integers"))
        static = {"size": self.size, "channels": channels, "rows": rows, "columns": columns}
        roles: list[Role] = ["output", "output"]
        forward = add_method(mb, name, "forward", _forward(), ports, static, roles)
        return Network(name, {"forward": forward}, self.PROVIDES)


@cache
def _forward() -> BlockBody:
    @module_class("SamplePool")
    def forward(
        b: Builder,
        target_samples: Var,
        source_samples: Var,
        target_chance: Var,
        target_index: Var,
        source_chance: Var,
        source_index: Var,
        *,
        size: int,
        channels: int,
        rows: int,
        columns: int,
    ) -> tuple[Var, ...]:
        """Samples, of which past ones replace some."""
        ones = b.fill_like(target_chance, 1.0)
        passes = b.training_passes(b.param("passes", f32(1), "zeros", "state"), otherwise=0.0, out="passes")
        batch = b.sum(ones, axes=(0,), keepdims=True, out="batch")
        seen = b.add(passes * batch, b.cumsum(ones, axis=0) - 1.0, out="seen")  # samples before each
        first = b.less(seen, size, out="first")
        alone = b.reshape(first, shape=(first.shape[0], 1, 1, 1))
        found = []
        for of, x, chance, index in (
            ("target", target_samples, target_chance, target_index),
            ("source", source_samples, source_chance, source_index),
        ):
            kept = b.param(of, f32(size, channels, rows, columns), "zeros", "state")
            drawn = b.where(b.greater(chance, 0.5), index, b.scalar(-1, index), out="drawn")
            place = b.where(first, b.cast(seen, to="i64"), drawn, out="place")
            past = b.exchanged(x, kept, place, out="past")
            found.append(b.where(alone, x, past, out=of))
        return tuple(found)

    return forward
