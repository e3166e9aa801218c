"""Shared by networks over one sequence of tokens: those of conditions, the time's, and those of the patches.

Symbols: B batch, C channels, T tokens (patches), P patch side, D width.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, ClassVar

from pydantic import Field

from latentc.components.backbone import Backbone, add_method
from latentc.components.capabilities import Capability
from latentc.components.condition import Entry, Form, TimeFeatures, ports_of, with_operands
from latentc.components.contract import Network, Port
from latentc.components.kit.patches import embedded_patches, problems_of_square
from latentc.components.parts import Problem, Spec, dense
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, module_class
from latentc.ir.types import B, Named


class OneSequence(Backbone):
    """Blocks over one sequence of tokens, as many after the middle one as before it."""

    width: int = Field(gt=0, le=65_536, multiple_of=2, description="channels of a token (D)")
    half: int = Field(ge=0, le=256, description="blocks before the middle one, and as many after it")
    patch: int = Field(gt=0, le=1_024, description="side of a patch (P)")
    time_mlp: bool = Field(description="two linear layers after the timestep features")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"denoise"})
    TAKES: ClassVar[tuple[Form, ...]] = ("tokens",)
    TIME: ClassVar[bool] = True
    INIT: ClassVar[str]
    """How its linear layers start."""
    EMITTED: ClassVar[str]
    """The name of the emitted class."""
    POSITIONS: ClassVar[tuple[str, Mapping[str, Any]]]
    """How the learned positions of all tokens start."""

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from problems_of_square(self.kind, spec.data, self.patch)
        yield from self.problems_of_blocks()
        yield from self.problems_of_conditions(spec)
        yield from self.problems_of_time(spec)
        size = self.width
        if isinstance(spec.time, TimeFeatures):
            size = spec.time.count(spec.time.static()["frequencies"])
        if not self.time_mlp and size != self.width:
            message = f"the time has {size} features, but a token has {self.width} channels"
            mend = f"set `conditioning.time.frequencies: {self.width}`, or `time_mlp: true`"
            yield Problem(("width",), message, mend)

    @abstractmethod
    def problems_of_blocks(self) -> Iterator[Problem]:
        """Parts of the blocks that do not fit."""

    @abstractmethod
    def sizes_of_blocks(self) -> dict[str, Any]:
        """The sizes that emitted blocks are constructed with, beside the width."""

    @abstractmethod
    def read(self, b: Builder, x: Var, prefix: list[Var], patches: Any, sizes: Mapping[str, Any]) -> Var:
        """The prediction, by blocks over x f32[B, N, D]: the tokens of `prefix`, then the patches.

        `sizes` has the static arguments of the network.
        """

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None and isinstance(spec.time, TimeFeatures)
        channels, size, _ = spec.data.shape
        static = {
            "size": size,
            "patch": self.patch,
            "channels": channels,
            "width": self.width,
            "half": self.half,
            **self.sizes_of_blocks(),
            **spec.time.static(),
            **self.condition_sizes(spec),
            "out_channels": out_channels,
        }
        entries = self.entries(spec)
        ports = (Port("x", f32(B, channels, size, size), "state"), Port("t", f32(B), "time"), *ports_of(entries))
        forward = add_method(mb, name, "forward", _network(self, spec.time, entries), ports, static)
        return Network(name, {"forward": forward}, self.PROVIDES)

    def prefix(
        self,
        b: Builder,
        time: TimeFeatures,
        t: Var,
        entries: tuple[Entry, ...],
        conditions: tuple[Var, ...],
        width: Any,
        static: Mapping[str, Any],
    ) -> list[Var]:
        """The tokens before those of the patches, f32[B, n, D] each: of the conditions, and the time's last."""
        c = time.features(b, t, **{k: static[k] for k in time.static()})
        if self.time_mlp:
            c = b.silu(dense(b, "t_embedder.fc1", c, 4 * width, True, self.INIT), out="c")
            c = dense(b, "t_embedder.fc2", c, width, True, self.INIT, out="c")
        last = b.reshape(c, shape=(t.shape[0], 1, width), out="time")
        cond = [
            entry.tokens(b, entry.prefix, operands, width, static)[0]
            for entry, operands in with_operands(entries, conditions)
        ]
        return [*cond, last]


@cache
def _network(config: OneSequence, time: TimeFeatures, entries: tuple[Entry, ...]) -> BlockBody:
    @module_class(config.EMITTED, x="B channels size size")
    def forward(b: Builder, x: Var, t: Var, *conditions: Var, size: int, patch: int, width: int, **static: Any) -> Var:
        """Predicts from noisy x at time t, given the conditions."""
        grid = size // patch
        patches = Named(int(grid * grid), "T", "grid ** 2")
        x = embedded_patches(b, "x_embedder", x, width, patch, "linear_default", patches)
        prefix = config.prefix(b, time, t, entries, conditions, width, static)
        extras = sum(token.shape[1] for token in prefix)
        x = b.concat(*prefix, x, axis=1, out="x")
        start, how = config.POSITIONS
        x = x + b.param("positions", f32(1, grid**2 + extras, width), start, **how)
        sizes = {"size": size, "patch": patch, "width": width, **static}
        return config.read(b, x, prefix, patches, sizes)

    return forward


def without_prefix(b: Builder, x: Var, prefix: list[Var], patches: Any) -> Var:
    """f32[B, T, ...]: the T = `patches` tokens of x after those of the prefix."""
    extras = sum(token.shape[1] for token in prefix)
    return b.slice(x, axis=1, start=extras, stop=patches + extras, out="x")
