"""A transformer over image patches: DiT, SiT and their kin.

Symbols: B batch, C channels, T tokens (patches), P patch side, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, reduce
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Component, OneOf
from latentc.components.backbone import Backbone, add_method
from latentc.components.blocks.block import Block
from latentc.components.condition import Entry, Form, TimeEmbedding, ports_of, with_operands
from latentc.components.contract import Capability, Network, Port
from latentc.components.parts import Norm, Positions, Problem, Weights, dense
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, items, module_class
from latentc.ir.types import B, Named

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class PatchTransformer(Backbone):
    """Transformer over patches of an image or latent (DiT, Peebles and Xie 2022, arXiv:2212.09748).

    Takes x f32[B, C, H, W], t f32[B] and its conditions; returns f32[B, C_out, H, W]. Vectors are added to the
    embedded time; maps are concatenated to x.
    """

    kind: Literal["patch_transformer"]
    width: int = Field(gt=0, le=65_536, description="channels of a token (D)")
    depth: int = Field(gt=0, le=512, description="number of blocks")
    patch: int = Field(gt=0, le=1_024, description="side of a patch, in pixels of the network's input (P)")
    positions: Annotated[Component, OneOf("blocks/positions")] = Field(description="how tokens know their place")
    block: Block = Field(description="the block that is repeated")
    weights: Weights = Field("xavier", description="how linear layers start")
    unused_channels: int = Field(
        0,
        ge=0,
        le=65_536,
        description="output channels that are computed and dropped (SiT keeps DiT's variance channels)",
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "patch_transformer",
        "width": 16,
        "depth": 2,
        "patch": 2,
        "positions": {"kind": "sincos_2d"},
        "block": {
            "mixer": {"kind": "attention", "heads": 2},
            "feed_forward": {"kind": "gelu_mlp"},
            "norm": {"kind": "layer_norm"},
            "condition": {"kind": "adaln_zero"},
        },
    }

    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"denoise"})
    TAKES: ClassVar[tuple[Form, ...]] = ("vector", "map")
    TIME: ClassVar[bool] = True

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if spec.data.shape is None or len(spec.data.shape) != 3:
            yield Problem(
                (),
                f"a patch_transformer takes arrays [C, H, W], but the data has {spec.data.words}",
                "use a token_transformer",
            )
        else:
            _, height, width = spec.data.shape
            if height != width:
                yield Problem((), f"a patch_transformer takes square inputs, not {height} by {width}")
            elif height % self.patch:
                fits = [d for d in range(1, height + 1) if height % d == 0]
                message = f"patches of {self.patch} do not tile a side of {height}"
                yield Problem(("patch",), message, f"choose one of {', '.join(map(str, fits))}")
        yield from self.block.problems_of_width(self.width)
        yield from self.problems_of_conditions(spec)
        if self.block.condition.kind == "in_context":
            message = "a patch_transformer has no place for the condition in its sequence"
            yield Problem(("block", "condition"), message, "use `{kind: adaln_zero}`")

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None and isinstance(spec.time, TimeEmbedding)
        channels, size, _ = spec.data.shape
        static: dict[str, Any] = {
            "size": size,
            "patch": self.patch,
            "channels": channels,
            "width": self.width,
            "depth": self.depth,
            **self.block.static(self.width),
            **self.condition_sizes(spec),
            "out_channels": out_channels + self.unused_channels,
        }
        entries = self.entries(spec)
        ports = (
            Port("x", f32(B, channels, size, size), "state"),
            Port("t", f32(B), "time"),
            *ports_of(entries),
        )
        forward = add_method(mb, name, "forward", _network(self, spec.time, entries), ports, static)
        return Network(name, {"forward": forward}, self.PROVIDES)


@cache
def _network(config: PatchTransformer, time: TimeEmbedding, entries: tuple[Entry, ...]) -> BlockBody:
    mixer, feed_forward, norm, condition = config.block.parts()
    assert isinstance(config.positions, Positions)
    positions = config.positions
    block = condition.block(mixer, feed_forward, norm, config.weights)

    @module_class("DiT", x="B channels size size")
    def forward(
        b: Builder,
        x: Var,
        t: Var,
        *conditions: Var,
        size: int,
        patch: int,
        channels: int,
        width: int,
        depth: int,
        out_channels: int,
        **static: Any,
    ) -> Var:
        """Predicts from noisy x at time t under the conditions."""
        batch = x.shape[0]
        grid = size // patch
        tokens = Named(grid**2, "T")
        embedded = [time.vector(b, "t_embedder", t, width)]
        for entry, operands in with_operands(entries, conditions):
            if entry.form == "vector":
                embedded.append(entry.vector(b, f"{entry.ports[0].name}_embedder", operands, width, static))
            else:
                x = b.concat(x, entry.map(b, operands, static, size), axis=1, out="x")
        kernel = b.param("x_embedder.weight", f32(width, x.shape[1], patch, patch), "xavier_uniform", of="matrix")
        shift = b.param("x_embedder.bias", f32(width), "zeros")
        x = b.conv(x, kernel, shift, stride=patch, out="x")
        x = b.transpose(b.reshape(x, shape=(batch, width, tokens)), perm=(0, 2, 1), out="x")
        x = positions.add(b, x, width, grid)
        rotary = positions.rotary(b, width // static.get("heads", 1), grid, 0)  # not every mixer has heads
        c = reduce(lambda total, vector: b.op("add", total, vector, out="c"), embedded)
        sizes = config.block.own(width, static)
        for name in items("blocks", depth):
            x = b.sub(name, block, x, c, *rotary, dim=width, **sizes)
        return b.sub(
            "final_layer",
            _final_layer(config, norm),
            x,
            c,
            dim=width,
            grid=grid,
            patch=patch,
            out_channels=out_channels,
        )

    return forward


@cache
def _final_layer(config: PatchTransformer, norm: Norm) -> BlockBody:
    @module_class("FinalLayer")
    def forward(b: Builder, x: Var, c: Var, *, dim: int, grid: int, patch: int, out_channels: int) -> Var:
        """Normalises, modulates and projects the tokens, then lays the patches out as an image."""
        batch = x.shape[0]
        modulation = dense(b, "adaLN", b.silu(c), 2 * dim, True, "zeros", out="modulation")
        modulation = b.reshape(modulation, shape=(batch, 1, 2 * dim), out="modulation")
        shift, scale = b.split(modulation, axis=2, sizes=(dim, dim), out="shift scale")
        x = norm.apply(b, "norm_final", x) * (scale + 1.0) + shift
        x = dense(b, "linear", x, patch * patch * out_channels, True, "zeros", out="x")
        x = b.reshape(x, shape=(batch, grid, grid, patch, patch, out_channels))
        x = b.transpose(x, perm=(0, 5, 1, 3, 2, 4))
        x = b.reshape(x, shape=(batch, out_channels, grid * patch, grid * patch))
        if config.unused_channels:
            x = b.slice(x, axis=1, start=0, stop=out_channels - config.unused_channels)
        return x

    return forward
