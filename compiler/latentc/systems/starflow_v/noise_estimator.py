"""A transformer over patches that estimates the noise in a sample.

Beside patch_transformer: it takes no time, conditions are tokens before the sample, and each frame of a video sees so
many before and after it.

Symbols: B batch, F frames, S tokens of a frame, T = F S, C channels of a token, L tokens of conditions, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components import Component, OneOf
from latentc.components.backbone import Backbone, add_method
from latentc.components.blocks.block import Block
from latentc.components.blocks.conditions.in_context import InContext
from latentc.components.capabilities import Capability
from latentc.components.condition import Entry, Form, ports_of, with_operands
from latentc.components.contract import Network, Port
from latentc.components.decoding import BlockForm
from latentc.components.parts import Positions, Problem, Spec, TokenNorm, Weights, a_divisor, dense
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, items, module_class
from latentc.ir.types import B, Named
from latentc.systems.tarflow.flow_methods import OF_NETWORK
from latentc.systems.tarflow.frames import Layout, layout_of, patches, rotary_tables, sample_of


class NoiseEstimator(Backbone):
    """STARFlow-V's denoiser of samples, trained beside its flow (Gu et al. 2025, arXiv:2511.20462).

    `forward`: x f32[B, C, H, W] or f32[B, C, F, H, W], conditions -> the noise that is in it, of its shape.
    """

    kind: Literal["noise_estimator"]
    width: int = Field(gt=0, le=65_536, description="channels of a token inside (D)")
    depth: int = Field(8, gt=0, le=512, description="number of blocks")
    patch: int = Field(gt=0, le=1_024, description="side of a patch in pixels")
    channels_last: bool = Field(False, description="a token is its patch as [P, P, C], rather than [C, P, P]")
    positions: Annotated[Component, OneOf("blocks/positions")] = Field(description="rotary positions")
    before: int | None = Field(None, ge=0, le=65_536, description="frames that a frame sees before it; null: all")
    after: int | None = Field(None, ge=0, le=65_536, description="frames that a frame sees after it; null: all")
    unit: float = Field(0.3, gt=0, description="what its output is multiplied by: noise of this deviation is 1 inside")
    final_norm: Annotated[Component | None, OneOf("blocks/norms", base=TokenNorm)] = Field(
        None, description="normalises what comes out of the blocks"
    )
    block: Block = Field(description="the block that is repeated")
    weights: Weights = Field("xavier", description="how linear layers start; the last one starts at zero")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "noise_estimator",
        "width": 16,
        "depth": 2,
        "patch": 2,
        "positions": {"kind": "rope_prefix", "pairs": 2},
        "block": {**Block.EXAMPLE, "feed_forward": {"kind": "gelu_mlp", "approximate": "none"}},
    }

    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"estimate_noise"})
    TAKES: ClassVar[tuple[Form, ...]] = ("tokens",)

    @property
    def fixed(self) -> tuple[str, ...]:
        return ("rows", "columns", "frames")

    def problems(self, spec: Spec) -> Iterator[Problem]:
        shape = spec.data.shape
        if shape is None or len(shape) not in (3, 4):
            yield Problem((), f"a noise_estimator takes arrays [C, H, W] or [C, F, H, W], not {spec.data.words}")
            return
        for side in dict.fromkeys(shape[-2:]):
            if side % self.patch:
                yield Problem(
                    ("patch",), f"patches of {self.patch} do not tile a side of {side}", a_divisor(*shape[-2:])
                )
        for name in ("before", "after"):
            if len(shape) == 3 and getattr(self, name) is not None:
                yield Problem((name,), "images have no other frames to see", "leave it out")
        if isinstance(self.positions, Positions) and not self.positions.FRAMES:
            message = f"`{self.positions.kind}` has no positions for frames or for grids that are not square"
            yield Problem(("positions",), message, "use `{kind: rope_prefix}`")
        mixer = self.block.parts()[0]
        if mixer.ordered:
            message = "every token of a frame sees every other, so its mixer must not be causal"
            yield Problem(("block", "mixer"), message, "use `{kind: attention, causal: false}`")
        yield from self.block.problems_of_condition(self.kind, None)
        yield from self.block.problems_of_width(self.width, any_heads=True)
        yield from self.block.problems_of_rotary(self.width, positions=self.positions)
        yield from self.problems_of_conditions(spec)

    def prefix(self, spec: Spec) -> int:
        """L: how many tokens of conditions stand before those of the sample."""
        return sum(entry.token_shape(spec).length for entry in self.entries(spec))

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        layout = layout_of(spec.data.shape, self.patch, self.prefix(spec))
        entries = self.entries(spec)
        static: dict[str, Any] = {
            **layout.static(spec.data.shape, self.patch),
            "patch": self.patch,
            "channels": spec.data.shape[0],
            "width": self.width,
            "depth": self.depth,
            **self.block.static(self.width),
            **self.condition_sizes(spec),
        }
        ports = (Port("x", f32(B, *spec.data.shape), "state"), *ports_of(entries))
        method = add_method(mb, name, "forward", _forward(self, entries, layout), ports, static, ("output",))
        sizes = {"rms": int(not self.block.parts()[2].CENTRED)}
        return Network(name, {"forward": method}, self.PROVIDES, sizes=sizes)


@cache
def _forward(config: NoiseEstimator, entries: tuple[Entry, ...], layout: Layout) -> BlockBody:
    mixer, feed_forward, norm, condition = config.block.parts()
    assert isinstance(condition, InContext)
    windowed = bool(layout.frames) and (config.before is not None or config.after is not None)
    block = condition.block(mixer, feed_forward, norm, config.weights, BlockForm(masked=windowed))

    @module_class("NoiseEstimator", x=layout.shape)
    def forward(b: Builder, x: Var, *conditions: Var, **static: Any) -> Var:
        """The noise in x."""
        width, features = static["width"], static["channels"] * static["patch"] ** 2
        rows, columns = layout.grid(static)
        frames = static["frames"] if layout.frames else 1
        count = rows * columns * frames
        x = patches(b, config, layout, x, rows * columns, static)
        x = b.reshape(x, shape=(B, Named(count, "T"), features), out="x")
        h = dense(b, "proj_in", x, width, True, config.weights, out="h")
        cond = [
            entry.tokens(b, f"{entry.name}_embed", own, width, static)[0]
            for entry, own in with_operands(entries, conditions)
        ]
        if cond:
            h = b.concat(*cond, h, axis=1, out="h")
        tables = rotary_tables(config, b, static, layout)[1]
        seen = [_seen(b, config, layout, rows * columns, frames)] if windowed else []
        sizes = {k: v for k, v in static.items() if k not in (*OF_NETWORK, "depth")}
        for name in items("attn_blocks", static["depth"]):
            h = b.sub(name, block, h, *seen, *tables, dim=width, out="h", **config.block.own(width, sizes))
        if layout.prefix:
            h = b.slice(h, axis=1, start=layout.prefix, stop=layout.prefix + count, out="h")
        if isinstance(config.final_norm, TokenNorm):
            h = config.final_norm.apply(b, "final_norm", h)
        h = dense(b, "proj_out", h, features, True, "zeros", out="h")
        h = b.mul(h, config.unit, out="noise")
        if layout.frames:
            h = b.reshape(h, shape=(B * frames, rows * columns, features), out="noise")
        return sample_of(b, config, layout, h, static)

    return forward


def _seen(b: Builder, config: NoiseEstimator, layout: Layout, tokens: Any, frames: Any) -> Var:
    """bool[1, 1, L + T, L + T]: tokens of conditions, and of the frames that a frame sees, those as the first."""
    own = np.concatenate([np.full(layout.prefix, -1.0), np.repeat(np.arange(float(frames)), int(tokens))])
    frame = b.constant(own.astype(np.float32), out="frame")
    count = len(own)
    key, query = b.reshape(frame, shape=(1, count)), b.reshape(frame, shape=(count, 1))
    terms = []
    if config.after is not None:
        last = b.add(b.maximum(query, 0.0), config.after + 0.5, out="last")
        terms.append(b.less(key, last))
    if config.before is not None:
        terms.append(b.less(b.add(query, -config.before - 0.5, out="first"), key))
    near = terms[0] if len(terms) == 1 else b.logical_and(*terms, out="near")
    seen = b.logical_or(near, b.less(key, -0.5), out="seen")
    return b.reshape(seen, shape=(1, 1, count, count), out="mask")
