"""A discriminator that is a transformer over the patches of an image or a whole video: LARP's.

Not `patch_discriminator`, whose convolutions see one frame. Symbols: B batch, T patches, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import add_method
from latentc.components.blocks.norms.layer_norm import LayerNorm
from latentc.components.capabilities import Capability
from latentc.components.contract import Network, Port
from latentc.components.networks._gan import with_averages
from latentc.components.networks._patch_blocks import TokenBlocks
from latentc.components.networks._query_parts import Grid, embedded, patches_of, waves
from latentc.components.parts import Problem, Spec, Weights, a_divisor, dense
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, items, module_class
from latentc.ir.types import B

INIT: Weights = "xavier"


class TransformerDiscriminator(TokenBlocks):
    """Scores a sample by its class token (LARP, Wang et al. 2024, arXiv:2410.21264).

    Takes x f32[B, C, F, H, W] or f32[B, C, H, W]; returns `score` f32[B, 1], linear in the output of the class token in
    front of the patches.
    """

    kind: Literal["transformer_discriminator"]
    depth: int = Field(gt=0, le=512, description="blocks")
    patch: int = Field(gt=0, le=1_024, description="side of a patch, in pixels")
    frames: int = Field(1, gt=0, le=1_024, description="frames per patch")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"discriminate"})
    TRAINING_ONLY: ClassVar[bool] = True
    OUTPUTS = ("score",)
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "transformer_discriminator",
        "width": 16,
        "depth": 1,
        "patch": 4,
        "block": {
            "mixer": {"kind": "attention", "heads": 2, "qkv_bias": False},
            "feed_forward": {"kind": "gelu_mlp", "approximate": "none"},
            "norm": {"kind": "layer_norm", "eps": 1e-5, "affine": True},
            "condition": {"kind": "in_context"},
        },
    }

    def problems(self, spec: Spec) -> Iterator[Problem]:
        shape = spec.data.shape
        if shape is None or len(shape) not in (3, 4) or shape[-1] != shape[-2]:
            message = f"a {self.kind} takes square images [C, H, W], or video [C, F, H, W] of square frames, "
            yield Problem((), f"{message}but the data has {spec.data.words}")
            return
        if shape[-1] % self.patch:
            yield Problem(
                ("patch",), f"patches of {self.patch} do not tile a side of {shape[-1]}", a_divisor(shape[-1])
            )
        frames = shape[1] if len(shape) == 4 else 1
        if frames % self.frames:
            yield Problem(("frames",), f"patches of {self.frames} frames do not tile {frames}", a_divisor(frames))
        if self.width % 4:
            message = f"2D sinusoidal positions need a width divisible by 4, not {self.width}"
            yield Problem(("width",), message)
        yield from self.block.problems_of_width(self.width)
        yield from self.block.problems_of_condition(self.kind, None)
        yield from self.problems_of_conditions(spec)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        x = Port("x", f32(B, *spec.data.shape), "state")
        static = {
            "channels": spec.data.shape[0],
            **self.block_sizes(),
        }
        body = _forward(self, patches_of(spec.data.shape, self.frames, self.patch), len(spec.data.shape) == 4)
        forward = add_method(mb, name, "forward", body, [x], static)
        methods = with_averages(mb, name, spec, "TransformerDiscriminator", forward, static)
        return Network(name, methods, self.PROVIDES)


@cache
def _forward(config: TransformerDiscriminator, grid: Grid, video: bool) -> BlockBody:
    mixer, feed_forward, norm, condition = config.block.parts()
    block = condition.block(mixer, feed_forward, norm, INIT)

    @module_class("TransformerDiscriminator", x="B channels F H W" if video else "B channels H W")
    def forward(b: Builder, x: Var, *, width: int, depth: int, **static: Any) -> Var:
        """The score [B, 1] of each sample."""
        batch, frames, side = x.shape[0], grid[0], grid[1]
        x = embedded(b, x, (config.frames, config.patch, config.patch), width, frames * side**2)
        x = b.add(x, waves(b, "patches", frames, side, width), out="x")
        first = b.broadcast_to(b.param("cls_token", f32(1, 1, width), "xavier_uniform"), x, shape=(batch, 1, width))
        x = b.concat(first, x, axis=1, out="x")
        for item in items("blocks", depth):
            x = b.sub(item, block, x, dim=width, **config.block.own(width, static))
        first = b.reshape(b.slice(x, axis=1, start=0, stop=1), shape=(batch, width), out="first")
        first = LayerNorm(kind="layer_norm", eps=1e-6, affine=True).apply(b, "norm", first)
        return dense(b, "score", first, 1, True, INIT, out="score")

    return forward
