"""LION's prior of global latents: a residual multilayer perceptron with squeeze-and-excitation.

RCG's vector_mlp normalises in its blocks and adds the conditions; here no block has a norm, and the class is a second
half of the input of every block. Symbols: B batch, C channels of the vector, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone, add_method
from latentc.components.capabilities import Capability
from latentc.components.condition import Entry, Form, TimeFeatures, ports_of, with_operands
from latentc.components.contract import Network, Port
from latentc.components.parts import Problem, Spec
from latentc.components.sums import summed
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, items, module_class
from latentc.ir.types import B

REDUCTION = 8  # of the channels inside squeeze-and-excitation


class GlobalPrior(Backbone):
    """Denoises a vector that describes a whole shape (LION, Zeng et al. 2022, arXiv:2210.06978).

    Takes x f32[B, C], t f32[B] and any number of vectors, such as a class; returns f32[B, C]. Without conditions it is
    LION's prior of one class, with dropout; with them the one that DC3DO classifies with, which has none.
    """

    kind: Literal["global_prior"]
    width: int = Field(2048, gt=0, le=65_536, multiple_of=REDUCTION, description="channels between blocks (D)")
    depth: int = Field(8, gt=0, le=512, description="number of residual blocks")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="dropout before the second layer of a block, in training; without conditions only"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "global_prior", "width": 16, "depth": 1}

    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"denoise"})
    TAKES: ClassVar[tuple[Form, ...]] = ("vector",)
    TIME: ClassVar[bool] = True

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if spec.data.shape is None or len(spec.data.shape) != 1:
            yield Problem((), f"a global_prior models vectors, but the data has {spec.data.words}")
        yield from self.problems_of_time(spec)
        yield from self.problems_of_conditions(spec)
        if self.dropout and self.entries(spec):
            message = "blocks that take conditions have no dropout"
            yield Problem(("dropout",), message, "leave `dropout` out, or set `conditions: []`")

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None and isinstance(spec.time, TimeFeatures)
        (channels,) = spec.data.shape
        entries = self.entries(spec)
        static = {
            "channels": channels,
            "width": self.width,
            "depth": self.depth,
            **self.condition_sizes(spec),
            "out_channels": out_channels,
        }
        ports = (Port("x", f32(B, channels), "state"), Port("t", f32(B), "time"), *ports_of(entries))
        body = _network(spec.time, self.dropout, entries)
        return Network(name, {"forward": add_method(mb, name, "forward", body, ports, static)}, self.PROVIDES)


@cache
def _network(time: TimeFeatures, dropout: float, entries: tuple[Entry, ...]) -> BlockBody:
    block = _block(dropout)

    @module_class("GlobalPrior", x="B channels")
    def forward(
        b: Builder,
        x: Var,
        t: Var,
        *conditions: Var,
        channels: int,
        width: int,
        depth: int,
        out_channels: int,
        **static: Any,
    ) -> Var:
        """Predicts from noisy vectors x at time t, given the conditions."""
        sizes = time.static()
        h = b.dense("t_embedder.fc1", time.features(b, t, **sizes), 4 * sizes["frequencies"])
        moment = b.dense("t_embedder.fc2", h, width, out="t")  # linear: LION has nothing between the two layers
        embedded = with_operands(entries, conditions)
        parts = [entry.vector(b, entry.prefix, operands, width, static) for entry, operands in embedded]
        cond = [summed(b, "c", parts)] if parts else []
        x = b.dense("enter", x, width, out="x")
        for name in items("blocks", depth):
            x = b.sub(name, block, x, moment, *cond, width=width)
        return b.dense("leave", x, out_channels, out="x")

    return forward


@cache
def _block(dropout: float) -> BlockBody:
    @module_class("GlobalPriorBlock", x="B width")
    def block(b: Builder, x: Var, t: Var, *cond: Var, width: int) -> Var:
        """A residual block of two linear layers, whose channels are scaled by what they say themselves."""
        h = b.add(x, t, out="h")
        h = b.concat(h, *cond, axis=1, out="h") if cond else h
        h = b.relu(b.dense("fc1", h, width), out="h")
        h = b.dropout(h, p=dropout, out="h") if dropout else h
        h = b.relu(b.dense("fc2", h, width), out="h")
        gate = b.relu(b.dense("squeeze", h, width // REDUCTION, False), out="gate")
        return x + h * b.sigmoid(b.dense("excite", gate, width, False), out="gate")

    return block
