"""U-Nets whose levels end in linear attention.

A file beside unet.py, whose levels have their own channels throughout: here a level works with the channels of the one
above, and the convolution that leaves it changes their number; only blocks leave skips, and every level attends once,
by any mixer of tokens. Symbols: B batch, C channels, E size of the embedding of time and conditions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Component, Level, OneOf
from latentc.components.blocks.mixers.attention import Attention
from latentc.components.blocks.norms.rms_norm import RmsNorm
from latentc.components.blocks.unet.layers import SHAPES, conv, doubling_conv, linear
from latentc.components.blocks.unet.residual import ResidualBlock
from latentc.components.condition import Entry, TimeFeatures, with_operands
from latentc.components.decoding import Given
from latentc.components.networks._levels import LevelsDenoiser
from latentc.components.parts import Mixer, Problem, Spec, TokenNorm
from latentc.ir.builder import BlockBody, Builder, Var, items, module_class
from latentc.ir.types import Named, product
from latentc.systems.interpolants.efficient_attention import EfficientAttention

NORM = RmsNorm(kind="rms_norm", eps=1e-12)


class LinearAttentionUnet(LevelsDenoiser):
    """The U-Net of denoising-diffusion-pytorch (Phil Wang), as used by stochastic interpolants with couplings.

    Albergo et al. 2023, arXiv:2310.03725. Takes x f32[B, C, ...] with one to three spatial axes, t f32[B] and its
    conditions; returns f32[B, C_out, ...]. Each level has `blocks` residual blocks and a mixer in each direction; the
    time and each vector are embedded by two layers of their own, and blocks take their concatenation.
    """

    kind: Literal["linear_attention_unet"]
    blocks: int = Field(2, gt=0, le=64, description="residual blocks per level in each direction")
    attention: tuple[Level, ...] = Field(
        (),
        max_length=64,
        description="levels whose mixer is that of the middle, counted from 0; the others use `mixer`",
    )
    embedding: int = Field(4, gt=0, le=1_024, description="size of each embedding as a multiple of `width`")
    block: ResidualBlock = Field(ResidualBlock(order="conv_first", groups=8), description="the residual block")
    mixer: Annotated[Component, OneOf("blocks/mixers")] = Field(
        EfficientAttention(kind="efficient_attention", heads=4, head_width=32, norm=NORM),
        description="mixer over the positions of a level",
    )
    middle: Annotated[Component, OneOf("blocks/mixers")] = Field(
        Attention(kind="attention", heads=4, head_width=32, qkv_bias=False),
        description="mixer over the positions of the lowest feature map",
    )
    norm: Annotated[Component, OneOf("blocks/norms", base=TokenNorm)] = Field(
        NORM, description="norm before mixers, over the channels"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "linear_attention_unet",
        "width": 8,
        "multipliers": [1, 2],
        "blocks": 1,
        "block": {"order": "conv_first", "groups": 4},
        "mixer": {"kind": "efficient_attention", "heads": 2, "head_width": 4, "norm": {"kind": "rms_norm"}},
        "middle": {"kind": "attention", "heads": 2, "head_width": 4},
    }

    def before(self, width: Any, level: int) -> Any:
        """Channels that a level works with: those of the level above."""
        return self.features(width, level - 1) if level else width

    def heads_of_level(self, channels: int) -> int:
        return 1  # see `_problems_of_mixers`

    def groups_that_do_not_fit(self, channels: int) -> int | None:
        return self.block.groups_that_do_not_fit(channels)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        found = list(super().problems(spec))
        yield from found
        if found:
            return
        if self.block.transformer is not None:
            yield Problem(("block", "transformer"), "levels attend by `mixer`, not by a transformer", "leave it out")
        for level in range(len(self.multipliers)):
            before, after = int(self.before(self.width, level)), int(self.features(self.width, level))
            taken = (before,) if self.block.order == "conv_first" else (before, before + after, 2 * self.width)
            misfits = [(channels, self.groups_that_do_not_fit(channels)) for channels in taken]
            for channels, groups in misfits:
                if groups is not None:
                    message = f"{groups} groups do not divide the {channels} channels of level {level}"
                    yield Problem(("block", "groups"), message, "choose another `width`, or fewer groups")
                    return
        yield from self._problems_of_mixers(spec)

    def _problems_of_mixers(self, spec: Spec) -> Iterator[Problem]:
        levels = range(len(self.multipliers))
        for name, mixer, used in (
            ("mixer", self.mixer, [level for level in levels if not self.attends(level)]),
            ("middle", self.middle, [*(level for level in levels if self.attends(level)), len(self.multipliers)]),
        ):
            assert isinstance(mixer, Mixer)
            if mixer.spatial or mixer.ordered:
                message = f"`{mixer.kind}` needs a square or an order, which positions here do not have"
                yield Problem((name,), message, "use `{kind: attention}` or `{kind: efficient_attention}`")
            widths = [self.before(self.width, level) for level in used]
            widths += [self.features(self.width, level) for level in used if level in levels]
            for width in map(int, widths):
                if mixer.head_size(width) == width // mixer.head_count and width % mixer.head_count:
                    yield Problem(
                        (name,), f"{mixer.head_count} heads do not divide {width} channels", "set `head_width`"
                    )
                    break

    def static(self, spec: Spec) -> dict[str, Any]:
        """Without the number of blocks, the last of which has a class of its own."""
        return {name: value for name, value in super().static(spec).items() if name != "blocks"}

    def body(self, time: TimeFeatures, entries: tuple[Entry, ...], axes: int) -> BlockBody:
        return _network(self, time, entries, axes)


@cache
def _network(config: LinearAttentionUnet, time: TimeFeatures, entries: tuple[Entry, ...], axes: int) -> BlockBody:
    last, weights = len(config.multipliers) - 1, config.block.weights

    @module_class("LinearAttentionUNet", x=SHAPES[axes])
    def forward(
        b: Builder,
        x: Var,
        t: Var,
        *conditions: Var,
        channels: int,
        width: int,
        out_channels: int,
        **static: Any,
    ) -> Var:
        """Predicts from noisy x at time t, given the conditions."""
        cond = tuple(with_operands(entries, conditions))
        for entry, operands in cond:
            if entry.form == "map":
                x = b.concat(x, entry.map(b, operands, static, x.shape[-1]), axis=1, out="x")
        c = _embedded(b, config, time, t, [pair for pair in cond if pair[0].form == "vector"], width, static)

        def block(name: str, x: Var, features: Any, mixer: Mixer | None = None) -> Var:
            if mixer is None:
                return config.block.apply(b, name, x, c, features)
            return _mixed(b, config, mixer, name, x, c, features)

        # The last block of a level attends.
        attending = {level: [None] * (config.blocks - 1) + [_mixer(config, level)] for level in range(last + 1)}
        x = first = conv(b, "in_conv", x, width, 7, weights, out="first")
        skips: list[Var] = []
        for level in range(last + 1):
            for name, mixer in zip(items(f"enc.{level}", config.blocks), attending[level], strict=True):
                x = block(name, x, config.before(width, level), mixer)
                skips.append(x)
            features = config.features(width, level)
            if level < last:
                x = conv(b, f"down.{level}", x, features, 4, weights, stride=2, out="x")
            else:
                x = conv(b, f"down.{level}", x, features, 3, weights, out="x")
        x = block("mid_0", x, x.shape[1], _mixer(config, last + 1))
        x = block("mid_1", x, x.shape[1])
        for level in range(last, -1, -1):
            for name, mixer in zip(items(f"dec.{level}", config.blocks), attending[level], strict=True):
                x = b.concat(x, skips.pop(), axis=1, out="x")
                x = block(name, x, config.features(width, level), mixer)
            before = config.before(width, level)
            if level:
                x = doubling_conv(b, f"up.{level}", x, before, weights, out="x")
            else:
                x = conv(b, f"up.{level}", x, before, 3, weights, out="x")
        x = block("out_block", b.concat(x, first, axis=1, out="x"), width)
        return conv(b, "out_conv", x, out_channels, 1, weights, out="out")

    return forward


def _embedded(
    b: Builder,
    config: LinearAttentionUnet,
    time: TimeFeatures,
    t: Var,
    cond: list[tuple[Entry, tuple[Var, ...]]],
    width: Any,
    static: Mapping[str, Any],
) -> Var:
    """SiLU of the embeddings of the time and of each vector, side by side: f32[B, E]."""
    vectors = [operand for _, operands in cond for operand in operands]
    body = _embedder(config.block.weights, time, tuple(entry for entry, _ in cond))
    sizes = {"width": width, "embedding": config.embedding * width}
    return b.sub("embedder", body, t, *vectors, out="c", **sizes, **static)


@cache
def _embedder(weights: Any, time: TimeFeatures, entries: tuple[Entry, ...]) -> BlockBody:
    @module_class("Embedder")
    def embedder(b: Builder, t: Var, *operands: Var, width: int, embedding: int, **static: Any) -> Var:
        """Embeds time and conditions."""

        def layers(prefix: str, h: Var, size: Any) -> Var:
            h = b.gelu(linear(b, f"{prefix}fc1", h, embedding, weights, size=size), approximate="none", out="h")
            return linear(b, f"{prefix}fc2", h, embedding, weights, out="h")

        x = time.features(b, t, **{k: static[k] for k in time.static()})
        embedded = [layers("", x, time.count(static["frequencies"]))]
        for entry, own in with_operands(entries, operands):
            name = entry.ports[0].name
            embedded.append(layers(f"{name}_", entry.vector(b, f"{name}_embedder", own, width, static), width))
        return b.silu(b.concat(*embedded, axis=1) if len(embedded) > 1 else embedded[0], out="c")

    return embedder


def _mixer(config: LinearAttentionUnet, level: int) -> Mixer:
    """How a level attends; the middle is one more."""
    mixer = config.middle if config.attends(level) or level == len(config.multipliers) else config.mixer
    assert isinstance(mixer, Mixer)
    return mixer


def _mixed(b: Builder, config: LinearAttentionUnet, mixer: Mixer, name: str, x: Var, c: Var, features: Any) -> Var:
    """A residual block, and a mixer of the positions of its result."""
    kind = "Middle" if name.startswith("mid") else "" if int(x.shape[1]) == int(features) else "Projected"
    sizes = {"channels": x.shape[1], "features": features, "embedding": c.shape[1], **mixer.static(int(features))}
    return b.sub(name, _mixing(config, mixer, kind, x.type.rank - 2), x, c, out="x", **sizes)


@cache
def _mixing(config: LinearAttentionUnet, mixer: Mixer, kind: str, axes: int) -> BlockBody:
    @module_class(f"{kind}MixingBlock", x=SHAPES[axes], c="B embedding")
    def forward(b: Builder, x: Var, c: Var, *, channels: int, features: int, embedding: int, **static: Any) -> Var:
        """A residual block of x [B, channels, ...], then a mixer over its positions with a shortcut."""
        assert isinstance(config.norm, TokenNorm)
        x = config.block.apply(b, "block", x, c, features)
        batch, _, *space = x.shape
        positions = Named(int(product(space)), "T", "positions of x")  # type: ignore[arg-type]
        h = b.transpose(b.reshape(x, shape=(batch, features, positions)), perm=(0, 2, 1), out="h")
        h = config.norm.apply(b, "norm", h)
        h = mixer.apply(b, "mixer", h, "linear_default", Given(), dim=features, **static)[0]
        h = b.reshape(b.transpose(h, perm=(0, 2, 1)), shape=x.shape, out="h")
        return b.add(x, h, out="x")

    return forward
