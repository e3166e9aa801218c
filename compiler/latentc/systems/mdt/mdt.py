"""MDTv2's network: blocks with long skips over the patches, and an interpolator of those that training hides.

Symbols: B batch, C channels, T patches, K patches that the encoder takes at most, P patch side, D width, E size of the
condition.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import add_method, asks
from latentc.components.blocks.block import Block
from latentc.components.capabilities import Capability
from latentc.components.condition import Entry, Form, TimeEmbedding, embedded_sum, ports_of
from latentc.components.contract import Network, Port
from latentc.components.decoding import FORWARD, Given
from latentc.components.kit.patches import embedded_patches, image, problems_of_square
from latentc.components.kit.tokens import rows
from latentc.components.networks._patch_blocks import PatchBlocks
from latentc.components.networks.patch_transformer import modulated
from latentc.components.parts import BlockParts, Problem, Spec, dense
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, items, module_class
from latentc.ir.types import B, Named
from latentc.systems.mdt.relative_attention import RelativeAttention


class Mdt(PatchBlocks):
    """Masked diffusion transformer, second version (Gao et al. 2023, arXiv:2303.14389).

    Takes x f32[B, C, H, W], t f32[B] and its conditions; returns f32[B, C_out, H, W]. Blocks of the second half of the
    encoder also take what their counterpart in the first half returned; those of the decoder take the embedded
    patches. `masked_forward` also takes f32[B] and f32[B, T] uniform in [0, 1): the encoder sees only some patches, and
    a further block fills in the others.
    """

    kind: Literal["mdt"]
    decoder_depth: int = Field(gt=0, le=512, description="number of blocks after the encoder, of the `depth` blocks")
    mask_ratio: float = Field(
        0.3, ge=0, lt=1, description="smallest fraction of patches hidden from the encoder in masked training"
    )
    mask_spread: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="each sample hides a fraction drawn uniformly from `mask_ratio` to `mask_ratio` + `mask_spread`",
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "mdt",
        "width": 16,
        "depth": 3,
        "decoder_depth": 1,
        "patch": 2,
        "block": {
            **Block.EXAMPLE,
            "mixer": {"kind": "relative_attention", "heads": 2},
            "norm": {"kind": "layer_norm"},
            "condition": {"kind": "adaln_zero"},
        },
    }
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"denoise", "denoise_masked"})
    TAKES: ClassVar[tuple[Form, ...]] = ("vector",)
    TIME: ClassVar[bool] = True

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from problems_of_square(self.kind, spec.data, self.patch)
        if self.width % 4:
            yield Problem(("width",), f"positions need a width divisible by 4, not {self.width}")
        rest = self.depth - self.decoder_depth
        if rest < 0 or rest % 2:
            message = f"the encoder has {rest} of the {self.depth} blocks, but needs an even number"
            yield Problem(("decoder_depth",), message, "its first and second half have as many blocks")
        if self.mask_ratio + self.mask_spread >= 1:
            message = "the largest fraction of hidden patches, `mask_ratio` + `mask_spread`, must be below 1"
            yield Problem(("mask_spread",), message)
        if not isinstance(self.block.mixer, RelativeAttention):
            message = "patches that are left when others are hidden need attention that knows their places"
            yield Problem(("block", "mixer"), message, "use `{kind: relative_attention}`")
        grid = None if spec.data.shape is None or len(spec.data.shape) != 3 else spec.data.shape[1] // self.patch
        yield from self.block.problems_of_width(self.width, grid)
        yield from self.problems_of_conditions(spec)
        yield from self.block.problems_of_condition(self.kind, "a vector")

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert isinstance(spec.time, TimeEmbedding) and spec.data.shape is not None
        entries = self.entries(spec)
        static = self.static_of_square(spec, out_channels)
        half = (static.pop("depth") - self.decoder_depth) // 2
        static |= {"half": half, "decoder_depth": self.decoder_depth}
        ports = [Port("x", f32(B, *spec.data.shape), "state"), Port("t", f32(B), "time"), *ports_of(entries)]
        methods = {"forward": add_method(mb, name, "forward", _network(self, spec.time, entries), ports, static)}
        if asks(spec, name, "denoise_masked"):
            tokens = Named((spec.data.shape[1] // self.patch) ** 2, "T")
            drawn = (("mask_ratio", f32(B)), ("mask_scores", f32(B, tokens)))
            ports += [Port(key, type, "noise", distribution="uniform") for key, type in drawn]
            static |= {"kept": int(int(tokens) * (1 - self.mask_ratio))}
            body = _network(self, spec.time, entries, "masked_forward")
            methods["masked_forward"] = add_method(mb, name, "masked_forward", body, ports, static)
        return Network(name, methods, self.provides(spec))


@cache
def _network(config: Mdt, time: TimeEmbedding, entries: tuple[Entry, ...], method: str = "forward") -> BlockBody:
    """`forward`, or `masked_forward`, which hides patches from the encoder."""
    masked, count = method != "forward", len(ports_of(entries))
    mixer, feed_forward, norm, condition = config.block.parts()
    block = condition.block(mixer, feed_forward, norm, "xavier")
    inner = _kept(config) if masked else block

    @module_class("MDT", method, x="B channels size size")
    def network(
        b: Builder,
        x: Var,
        t: Var,
        *others: Var,
        size: int,
        patch: int,
        channels: int,
        width: int,
        half: int,
        decoder_depth: int,
        out_channels: int,
        kept: int = 0,
        **static: Any,
    ) -> Var:
        """Predicts from noisy x at time t, given the conditions."""
        grid = size // patch
        tokens = Named(grid**2, "T")
        c = time.vector(b, "t_embedder", t, width)
        if entries:
            c = b.add(c, embedded_sum(b, entries, others[:count], width, static), out="c")
        sizes = {"dim": width, **config.block.own(width, {**static, "grid": grid})}
        place: dict[str, Any] = {"width": width, "grid": grid}
        h = embedded_patches(b, "x_embedder", x, width, patch, "xavier_matrix", tokens)
        h = b.param("pos_embed", f32(1, tokens, width), "sincos_2d", **place) + h
        embedded, shared = h, condition.shared(b, c, width)
        seen: Seen | None = None
        if masked:
            ratio, scores = others[count:]
            seen = Seen(b, config, ratio, scores, kept)
            h = rows(b, h, seen.kept, "x")
        operands, skips = () if seen is None else (seen.kept, seen.mask), []
        for name in items("en_inblocks", half):
            h = b.sub(name, inner, h, shared, *operands, out="x", **sizes)
            skips.append(h)
        for name in items("en_outblocks", half):
            h = b.sub(name, _with_skip(inner), h, skips.pop(), shared, *operands, out="x", **sizes)
        positions = b.param("decoder_pos_embed", f32(1, tokens, width), "sincos_2d", **place)
        if seen is None:
            h = b.op("add", h, positions, out="x")
        else:
            token = b.param("mask_token", f32(1, 1, width), "normal", std=0.02)
            h = b.op("add", b.where(seen.hidden, token, seen.restored(b, h)), positions, out="x")
            guess = b.sub("sideblocks.0", block, h, shared, out="guess", **sizes)
            h = b.where(seen.hidden, guess, h, out="x")
        for name in items("de_blocks", decoder_depth):
            h = b.sub(name, _with_skip(block), h, embedded, shared, out="x", **sizes)
        ends: dict[str, Any] = {"dim": width, "out_channels": out_channels, "grid": grid, "patch": patch}
        return b.sub("final_layer", _final_layer(config), h, c, **ends)  # type: ignore[no-any-return]

    if masked:
        network.body.__doc__ = "The same from some of the patches; those of the highest scores are hidden."
    return network


class Seen:
    """The patches that the encoder takes, from `ratio` f32[B] and `scores` f32[B, T], both uniform in [0, 1).

    It takes K patches, of which those that a sample's fraction hides are no keys and are replaced afterwards, so that
    every sample has as many.
    """

    def __init__(self, b: Builder, config: Mdt, ratio: Var, scores: Var, count: Any) -> None:
        batch, tokens = scores.shape
        share = b.op("add", ratio * config.mask_spread, config.mask_ratio, out="share")
        left = b.floor((1.0 - share) * tokens, out="left")
        left = b.cast(b.reshape(left, shape=(batch, 1)), to="i64", out="left")
        order = b.argsort(scores, out="order")
        self.kept = b.slice(order, axis=1, start=0, stop=count, out="kept")
        """i64[B, K]"""
        seen = b.less(b.reshape(b.arange(count), shape=(1, count)), left)
        self.mask = b.reshape(seen, shape=(batch, 1, 1, count), out="seen")
        """bool[B, 1, 1, K]"""
        self._place, self._count = b.argsort(order, out="place"), count
        hidden = b.op("greater", self._place, left - 1)
        self.hidden = b.reshape(hidden, shape=(batch, tokens, 1), out="hidden")
        """bool[B, T, 1]"""

    def restored(self, b: Builder, x: Var) -> Var:
        """f32[B, T, D]: tokens x [B, K, D] at their places, with any others in those of the hidden ones."""
        return rows(b, x, b.minimum(self._place, self._count - 1), "restored")


@cache
def _kept(config: Mdt) -> BlockBody:
    """The block among patches `kept` i64[B, K] that may not be a square, seen where `seen` bool[B, 1, 1, K] is true."""
    mixer, feed_forward, norm, condition = config.block.parts()
    parts, cls = BlockParts(mixer, feed_forward, norm, "xavier"), condition.names(mixer, False)[0]

    @module_class(cls, "forward_kept")
    def forward_kept(b: Builder, x: Var, c: Var, kept: Var, seen: Var, *, dim: int, **static: Any) -> Var:
        """The block of tokens x [B, K, D] whose places in the square are `kept`; they see those that `seen` marks."""
        given = Given(FORWARD, {"x": x, "c": c, "kept": kept, "seen": seen}, (), c)

        def mix(h: Var) -> Var:
            return mixer.apply(b, "attn", h, "xavier", given, dim=dim, **mixer.own(dim, static))[0]

        return condition.branches(b, x, given, mix, parts, dim, static)

    return forward_kept


@cache
def _with_skip(block: BlockBody) -> BlockBody:
    """The same method of a block that takes tokens to join with x after x."""

    @module_class(f"Skip{block.cls}", block.method)
    def forward(b: Builder, x: Var, skip: Var, *operands: Var, dim: int, **static: Any) -> Any:
        """The block of x joined with earlier tokens."""
        x = dense(b, "skip_linear", b.concat(x, skip, axis=2, out="x"), dim, True, "xavier", out="x")
        return block.body(b, x, *operands, dim=dim, **static)

    return forward


@cache
def _final_layer(config: Mdt) -> BlockBody:
    @module_class("FinalLayer")
    def final(b: Builder, x: Var, c: Var, *, dim: int, out_channels: int, grid: int, patch: int) -> Var:
        """Normalises, modulates and projects the tokens, then lays the patches out as an image."""
        _, _, norm, condition = config.block.parts()
        x = dense(b, "linear", modulated(b, condition, norm, x, c, dim), patch * patch * out_channels, True, "zeros")
        return image(b, x, out_channels, grid, patch)

    return final
