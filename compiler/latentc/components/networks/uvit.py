"""U-ViT: a transformer over patches, time and conditions as tokens, with long skip connections.

Symbols: B batch, C channels, T tokens (patches), P patch side, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone, add_method
from latentc.components.blocks.block import Block
from latentc.components.blocks.unet.layers import conv
from latentc.components.condition import Entry, Form, TimeFeatures, ports_of, with_operands
from latentc.components.contract import Capability, Network, Port
from latentc.components.kit.patches import embedded_patches, image
from latentc.components.networks._stages import long_skips
from latentc.components.parts import Problem, dense
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, module_class
from latentc.ir.types import B, Named

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class Uvit(Backbone):
    """U-ViT (Bao et al. 2022, arXiv:2209.12152).

    Takes x f32[B, C, H, W], t f32[B] and its conditions as tokens; returns f32[B, C_out, H, W].
    """

    kind: Literal["uvit"]
    width: int = Field(gt=0, le=65_536, multiple_of=2, description="channels of a token (D)")
    half: int = Field(gt=0, le=256, description="blocks before the middle one, and as many after it")
    patch: int = Field(gt=0, le=1_024, description="side of a patch (P)")
    block: Block = Field(description="the block that is repeated")
    time_mlp: bool = Field(False, description="the features of the time pass through two linear layers")
    output_conv: bool = Field(True, description="ends with a 3 x 3 convolution")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"denoise"})
    TAKES: ClassVar[tuple[Form, ...]] = ("tokens",)
    TIME: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "uvit",
        "width": 16,
        "half": 1,
        "patch": 2,
        "time_mlp": True,
        "block": {
            "mixer": {"kind": "attention", "heads": 2, "qkv_bias": False},
            "feed_forward": {"kind": "gelu_mlp", "approximate": "none"},
            "norm": {"kind": "layer_norm", "affine": True, "eps": 1e-5},
            "condition": {"kind": "in_context"},
        },
    }

    def problems(self, spec: Spec) -> Iterator[Problem]:
        shape = spec.data.shape
        if shape is None or len(shape) != 3:
            yield Problem((), f"a uvit takes arrays [C, H, W], but the data has {spec.data.words}")
            return
        _, height, width = shape
        if height != width or height % self.patch:
            yield Problem(("patch",), f"patches of {self.patch} do not tile {height} by {width}")
        yield from self.block.problems_of_width(self.width)
        yield from self.block.problems_of_condition(self.kind, None)
        yield from self.problems_of_conditions(spec)
        yield from self.problems_of_time(spec)
        size = spec.time.static()["frequencies"] if isinstance(spec.time, TimeFeatures) else self.width
        if not self.time_mlp and size != self.width:
            message = f"the time has {size} features, but a token has {self.width} channels"
            yield Problem(
                ("width",), message, f"set `conditioning.time.frequencies: {self.width}`, or `time_mlp: true`"
            )

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None and isinstance(spec.time, TimeFeatures)
        channels, size, _ = spec.data.shape
        static = {
            "size": size,
            "patch": self.patch,
            "channels": channels,
            "width": self.width,
            "half": self.half,
            **self.block.static(self.width),
            **spec.time.static(),
            **self.condition_sizes(spec),
            "out_channels": out_channels,
        }
        entries = self.entries(spec)
        ports = (Port("x", f32(B, channels, size, size), "state"), Port("t", f32(B), "time"), *ports_of(entries))
        forward = add_method(mb, name, "forward", _network(self, spec.time, entries), ports, static)
        return Network(name, {"forward": forward}, self.PROVIDES)


@cache
def _network(config: Uvit, time: TimeFeatures, entries: tuple[Entry, ...]) -> BlockBody:
    mixer, feed_forward, norm, condition = config.block.parts()
    block = condition.block(mixer, feed_forward, norm, "normal")

    @module_class("UViT", x="B channels size size")
    def forward(
        b: Builder,
        x: Var,
        t: Var,
        *conditions: Var,
        size: int,
        patch: int,
        channels: int,
        width: int,
        half: int,
        out_channels: int,
        **static: Any,
    ) -> Var:
        """Predicts from noisy x at time t under the conditions."""
        batch, grid = x.shape[0], size // patch
        patches = Named(int(grid * grid), "T", "grid ** 2")
        x = embedded_patches(b, "x_embedder", x, width, patch, "linear_default", patches)
        c = _time_token(b, config, time, t, width, static)
        tokens = [b.reshape(c, shape=(batch, 1, width), out="time")]
        for entry, operands in with_operands(entries, conditions):
            embedded, _ = entry.tokens(b, f"{entry.ports[0].name}_embedder", operands, width, static)
            tokens.insert(len(tokens) - 1, embedded)
        extras = sum(token.shape[1] for token in tokens)
        x = b.concat(*tokens, x, axis=1, out="x")
        x = x + b.param("positions", f32(1, patches + extras, width), "normal", std=0.02)
        x = long_skips(b, block, x, (), half, width, config.block.own(width, static))[-1]
        x = dense(b, "decoder", norm.apply(b, "norm", x), patch * patch * out_channels, True, "normal", out="x")
        x = b.slice(x, axis=1, start=extras, stop=patches + extras, out="x")
        x = image(b, x, out_channels, grid, patch, size, out="x")
        return conv(b, "output", x, out_channels, 3, "torch") if config.output_conv else x

    return forward


def _time_token(b: Builder, config: Uvit, time: TimeFeatures, t: Var, width: Any, static: dict[str, Any]) -> Var:
    c = time.features(b, t, **{k: static[k] for k in time.static()})
    if not config.time_mlp:
        return c
    c = b.silu(dense(b, "t_embedder.fc1", c, 4 * width, True, "normal"), out="c")
    return dense(b, "t_embedder.fc2", c, width, True, "normal", out="c")


__all__ = ["Uvit"]
