"""A multilayer perceptron that denoises vectors: RCG's representation diffusion model.

Unlike a token_mlp it models the data itself, and time and context are added inside its blocks, whose norms are plain.
Symbols: B batch, C channels of the vector, D width, E width of the embedded time, K channels of the context.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone, add_method
from latentc.components.blocks.norms.layer_norm import LayerNorm
from latentc.components.capabilities import Capability
from latentc.components.condition import Entry, Form, TimeFeatures, ports_of, with_operands
from latentc.components.contract import Network, Port
from latentc.components.parts import Problem, Spec, dense
from latentc.components.sums import summed
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, items, module_class
from latentc.ir.types import B

NORM = LayerNorm(kind="layer_norm", affine=True, eps=1e-5)
LAST_NORM = LayerNorm(kind="layer_norm", affine=True, eps=1e-6)


class VectorMlp(Backbone):
    """Denoises vectors (RCG, Li et al. 2023, arXiv:2312.03701): x f32[B, C], t f32[B] -> f32[B, C].

    Arrays are used as context directly, other conditions are embedded; every block adds a projection of their sum.
    """

    kind: Literal["vector_mlp"]
    width: int = Field(gt=0, le=65_536, multiple_of=2, description="channels between blocks (D)")
    depth: int = Field(gt=0, le=512, description="number of residual blocks")
    hidden: int | None = Field(None, gt=0, le=65_536, description="channels inside a block; null: `width`")
    time_width: int = Field(gt=0, le=65_536, description="channels of the embedded time (E)")
    context: int = Field(512, gt=0, le=65_536, description="channels of the embedded conditions (K)")
    frequencies: int | None = Field(
        None, gt=2, le=65_536, multiple_of=2, description="size of the timestep features; null: `width`"
    )
    dropout: float = Field(
        0.0, ge=0, lt=1, description="dropout before the second linear layer of a block, in training"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "vector_mlp", "width": 16, "depth": 1, "time_width": 8, "context": 8}

    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"denoise"})
    TAKES: ClassVar[tuple[Form, ...]] = ("array", "vector")
    TIME: ClassVar[bool] = True

    @property
    def fixed(self) -> tuple[str, ...]:
        return ("time_width", "context")

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if spec.data.shape is None or len(spec.data.shape) != 1:
            yield Problem((), f"a vector_mlp models vectors, but the data has {spec.data.words}")
        yield from self.problems_of_time(spec)
        yield from self.problems_of_conditions(spec)
        arrays = [e for e in self.entries(spec) if e.form == "array"]
        for entry in arrays:
            shape = tuple(int(d) for d in entry.ports[0].type.shape[1:])  # type: ignore[arg-type]
            if shape != (self.context,):
                message = (
                    f"condition `{entry.name}` has shape {list(shape)}, but the context has {self.context} channels"
                )
                yield Problem(("context",), message, "set `context` to the size of the condition")

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None and isinstance(spec.time, TimeFeatures)
        (channels,) = spec.data.shape
        static = {
            "channels": channels,
            "width": self.width,
            "depth": self.depth,
            "hidden": self.hidden or self.width,
            "time_width": self.time_width,
            "context": self.context,
            **self.condition_sizes(spec),
            "out_channels": out_channels,
        }
        time = spec.time.model_copy(update={"frequencies": self.frequencies or self.width})
        entries = self.entries(spec)
        ports = (Port("x", f32(B, channels), "state"), Port("t", f32(B), "time"), *ports_of(entries))
        forward = add_method(mb, name, "forward", _network(time, self.dropout, entries), ports, static)
        return Network(name, {"forward": forward}, self.PROVIDES)


@cache
def _network(time: TimeFeatures, dropout: float, entries: tuple[Entry, ...]) -> BlockBody:
    block = _block(dropout)

    @module_class("VectorMlp", x="B channels")
    def forward(
        b: Builder,
        x: Var,
        t: Var,
        *conditions: Var,
        channels: int,
        width: int,
        depth: int,
        hidden: int,
        time_width: int,
        context: int,
        out_channels: int,
        **static: Any,
    ) -> Var:
        """Predicts from noisy vectors x at time t, given the conditions."""
        embedded = time.vector(b, "time_embed", t, time_width)
        contexts = []
        for entry, operands in with_operands(entries, conditions):
            if entry.form == "array":
                contexts.append(operands[0])
            else:
                contexts.append(entry.vector(b, entry.prefix, operands, context, static))
        cond = [summed(b, "context", contexts)] if contexts else []
        x = b.dense("input_proj", x, width, out="x")
        for name in items("res_blocks", depth):
            x = b.sub(name, block, x, embedded, *cond, width=width, hidden=hidden)
        x = b.silu(LAST_NORM.apply(b, "out_norm", x), out="x")
        return dense(b, "out", x, out_channels, True, "zeros", out="x")

    return forward


@cache
def _block(dropout: float) -> BlockBody:
    @module_class("ResBlock")
    def block(b: Builder, x: Var, t: Var, *context: Var, width: int, hidden: int) -> Var:
        """A residual block: time and context are added between its two linear layers."""
        h = b.silu(NORM.apply(b, "in_norm", x))
        h = b.dense("fc1", h, hidden) + b.dense("time_proj", b.silu(t), hidden)
        if context:
            h = h + b.dense("context_proj", b.silu(context[0]), hidden)
        h = b.silu(NORM.apply(b, "out_norm", h), out="h")
        if dropout:
            h = b.dropout(h, p=dropout, out="h")
        return x + dense(b, "fc2", h, width, True, "zeros")

    return block
