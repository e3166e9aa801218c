"""A masked autoencoder over continuous tokens: the trunk of MAR.

Symbols: B batch, T tokens of a sample, C channels of a token, D width, R buffer tokens that hold the condition, K most
known tokens of a sample in training.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, reduce
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone, add_method
from latentc.components.blocks.block import Block
from latentc.components.blocks.conditions.in_context import InContext
from latentc.components.blocks.norms.layer_norm import LayerNorm
from latentc.components.condition import Entry, Form, ports_of, with_operands
from latentc.components.contract import Capability, Network, Port
from latentc.components.kit.tokens import rows
from latentc.components.objective import Objective
from latentc.components.parts import Problem, Weights, dense
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, items, module_class
from latentc.ir.types import B, Named

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class MaskedAutoencoder(Backbone):
    """Encodes the known tokens and decodes features of all of them (MAR, Li et al. 2024, arXiv:2406.11838).

    `forward`: x f32[B, T, C], mask f32[B, T] (1 where a token is hidden), the conditions -> f32[B, T, D]. The
    encoder's attention leaves hidden tokens out, so that any number of them may be known. `forward_known` returns the
    same if at most K tokens of each sample are known, and encodes only R + K tokens. Training calls it.
    """

    kind: Literal["masked_autoencoder"]
    width: int = Field(gt=0, le=65_536, description="channels of a token inside (D)")
    depth: int = Field(gt=0, le=512, description="blocks of the encoder, and of the decoder")
    patch: int = Field(1, gt=0, le=1_024, description="side of the patch of the data that is one token")
    buffer: int = Field(64, gt=0, le=65_536, description="tokens before the sequence that hold the condition (R)")
    block: Block = Field(description="the block of encoder and decoder")
    weights: Weights = Field("xavier", description="how linear layers start")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "masked_autoencoder",
        "width": 16,
        "depth": 1,
        "buffer": 2,
        "block": {
            "mixer": {"kind": "attention", "heads": 2},
            "feed_forward": {"kind": "gelu_mlp", "approximate": "none"},
            "norm": {"kind": "layer_norm", "affine": True},
            "condition": {"kind": "in_context"},
        },
    }

    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"masked_features"})
    TAKES: ClassVar[tuple[Form, ...]] = ("vector",)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if spec.data.shape is None or len(spec.data.shape) != 3:
            message = f"a masked_autoencoder takes arrays [C, H, W], but the data has {spec.data.words}"
            yield Problem((), message, "use a masked_transformer for tokens")
        else:
            _, height, width = spec.data.shape
            if height % self.patch or width % self.patch:
                yield Problem(("patch",), f"patches of {self.patch} do not tile {height} by {width}")
        yield from self.block.problems_of_width(self.width)
        if not isinstance(self.block.condition, InContext):
            message = "a masked_autoencoder has its condition in the buffer tokens"
            yield Problem(("block", "condition"), message, "use `{kind: in_context}`")
        if not self.told(spec):
            yield Problem((), "a masked_autoencoder needs a condition", "add `conditioning.class: {kind: label}`")
        yield from self.problems_of_conditions(spec)

    def tokens(self, spec: Spec) -> tuple[int, int]:
        """(T, C)."""
        assert spec.data.shape is not None
        channels, height, width = spec.data.shape
        return (height // self.patch) * (width // self.patch), channels * self.patch**2

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        length, channels = self.tokens(spec)
        most = spec.objective.most_known(length) if isinstance(spec.objective, Objective) else length
        shortens = most < length
        static: dict[str, Any] = {
            "tokens": length,
            **({"known": most} if shortens else {}),
            "channels": channels,
            "width": self.width,
            "depth": self.depth,
            "buffer": self.buffer,
            **self.block.static(self.width),
            **self.condition_sizes(spec),
        }
        entries, tokens = self.entries(spec), Named(length, "T")
        ports = (
            Port("x", f32(B, tokens, channels), "state"),
            Port("mask", f32(B, tokens), "mask"),
            *ports_of(entries),
        )
        forward, forward_known = _methods(self, entries)
        methods = {"forward": add_method(mb, name, "forward", forward, ports, static)}
        if shortens:
            methods["forward_known"] = add_method(mb, name, "forward_known", forward_known, ports, static)
        return Network(name, methods, self.PROVIDES)


@cache
def _methods(config: MaskedAutoencoder, entries: tuple[Entry, ...]) -> tuple[BlockBody, BlockBody]:
    """`forward` and `forward_known`."""
    mixer, feed_forward, norm, condition = config.block.parts()
    assert isinstance(condition, InContext)
    encoder_block = condition.masked_block(mixer, feed_forward, norm, config.weights)
    decoder_block = condition.block(mixer, feed_forward, norm, config.weights)
    input_norm = LayerNorm(kind="layer_norm", eps=1e-6, affine=True)

    def features(
        b: Builder,
        x: Var,
        mask: Var,
        *conditions: Var,
        tokens: int,
        channels: int,
        width: int,
        depth: int,
        buffer: int,
        known: int | None = None,
        **static: Any,
    ) -> Var:
        batch, total = x.shape[0], buffer + tokens
        length = total if known is None else buffer + known
        sizes = config.block.own(width, static)
        embedded = [
            entry.vector(b, f"{entry.ports[0].name}_embedder", operands, width, static)
            for entry, operands in with_operands(entries, conditions)
        ]
        c = reduce(lambda sum_, vector: b.op("add", sum_, vector, out="c"), embedded)
        c = b.broadcast_to(b.reshape(c, shape=(batch, 1, width)), x, shape=(batch, buffer, width), out="c")
        x = b.concat(c, dense(b, "z_proj", x, width, True, config.weights), axis=1, out="x")
        x = x + b.param("encoder_pos", f32(1, total, width), "normal", std=0.02)
        front = b.full(mask, shape=(buffer,), value=0.0, dtype="f32", out="front")
        hidden = b.concat(front, mask, axis=1, out="hidden")
        seen = visible = b.less(hidden, 0.5, out="seen")
        if known is not None:
            order = b.argsort(hidden, out="order")  # those that are seen first, each kind in its own order
            kept = b.slice(order, axis=1, start=0, stop=length, out="kept")
            visible = b.take_along(seen, kept, axis=1, out="visible")
            x = rows(b, x, kept, "x")
        x = input_norm.apply(b, "z_proj_ln", x)
        visible = b.reshape(visible, shape=(batch, 1, 1, length), out="visible")
        for name in items("encoder_blocks", depth):
            x = b.sub(name, encoder_block, x, visible, dim=width, **sizes)
        x = dense(b, "decoder_embed", norm.apply(b, "encoder_norm", x), width, True, config.weights, out="x")
        if known is not None:
            place = b.minimum(b.argsort(order), length - 1, out="place")  # where each token went
            x = rows(b, x, place, "x")
        mask_token = b.param("mask_token", f32(1, 1, width), "normal", std=0.02)
        x = b.where(b.reshape(seen, shape=(batch, total, 1)), x, mask_token, out="x")
        x = x + b.param("decoder_pos", f32(1, total, width), "normal", std=0.02)
        for name in items("decoder_blocks", depth):
            x = b.sub(name, decoder_block, x, dim=width, **sizes)
        x = b.slice(norm.apply(b, "decoder_norm", x), axis=1, start=buffer, stop=total, out="x")
        return x + b.param("diffusion_pos", f32(1, tokens, width), "normal", std=0.02)

    shapes = {"x": "B T=tokens channels", "mask": "B T=tokens"}

    @module_class("MaskedAutoencoder", **shapes)
    def forward(b: Builder, x: Var, mask: Var, *conditions: Var, known: int | None = None, **static: Any) -> Var:
        """Features of every token from those that are not hidden."""
        return features(b, x, mask, *conditions, **static)

    @module_class("MaskedAutoencoder", "forward_known", **shapes)
    def forward_known(b: Builder, x: Var, mask: Var, *conditions: Var, **static: Any) -> Var:
        """The same features if at most `known` tokens of a sample are not hidden: the encoder takes no more of them."""
        return features(b, x, mask, *conditions, **static)

    return forward, forward_known
