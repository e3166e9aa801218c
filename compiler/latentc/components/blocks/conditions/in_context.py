"""The condition as tokens of the sequence: blocks know nothing of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Component, OneOf
from latentc.components.blocks.mixing import Mix, apart, chunk_mix, masked_mix
from latentc.components.blocks.stochastic_depth import dropped
from latentc.components.decoding import DecodeState
from latentc.components.parts import CachedCondition, CachedMixer, FeedForward, Mixer, Norm, Problem, TokenNorm, Told
from latentc.ir.builder import BlockBody, Builder, Var, f32, module_class

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class InContext(CachedCondition):
    """Residual blocks, pre-norm by default; the condition is a token of the sequence (GPT, LLaMA, LlamaGen)."""

    kind: Literal["in_context"]
    norm_after: bool = Field(
        False, description="post-norm, as in BERT: norms follow the residual sums instead of preceding the branches"
    )
    gated: bool = Field(False, description="branches are scaled by learned vectors, initially zero")
    front: Literal["shared", "own"] = Field(
        "shared",
        description="weights for tokens in front of the sample's, such as captions: shared, or separate in every "
        "linear layer and norm, so that only attention mixes both (MM-DiT, Esser et al. 2024, arXiv:2403.03206)",
    )
    branch_norm: Annotated[Component | None, OneOf("blocks/norms", base=TokenNorm)] = Field(
        None,
        description="norm of each branch's output before it is added, in addition to the pre-norm (STARFlow's "
        "`use_post_norm`)",
    )
    TAKES: ClassVar[Told] = None
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "in_context"}

    def block(self, mixer: Mixer, feed_forward: FeedForward, norm: Norm, init: str) -> BlockBody:
        return _block(self, mixer, feed_forward, norm, init)

    @property
    def separates(self) -> bool:
        return self.front == "own"

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if self.norm_after and self.gated:
            message = "`gated` scales the branches of pre-norm blocks, but `norm_after` makes the blocks post-norm"
            yield Problem(("gated",), message, "leave out one of them")

    def masked_block(self, mixer: CachedMixer, feed_forward: FeedForward, norm: Norm, init: str) -> BlockBody:
        return _masked_block(self, mixer, feed_forward, norm, init)

    def extend_block(
        self,
        mixer: CachedMixer,
        feed_forward: FeedForward,
        norm: Norm,
        init: str,
        masked: bool = False,
        plain: bool = False,
    ) -> BlockBody:
        """`plain`: of the block without a mask in its other methods."""
        return _extend_block(self, mixer, feed_forward, norm, init, masked, plain)

    def begin_block(
        self,
        mixer: CachedMixer,
        feed_forward: FeedForward,
        norm: Norm,
        init: str,
        masked: bool = False,
        plain: bool = False,
    ) -> BlockBody:
        return _begin_block(self, mixer, feed_forward, norm, init, masked, plain)

    def decode_block(
        self,
        mixer: CachedMixer,
        feed_forward: FeedForward,
        norm: Norm,
        init: str,
        tempered: bool = False,
        plain: bool = True,
    ) -> BlockBody:
        """The same block for one token against a cache: returns (x, key cache, value cache).

        A `tempered` one takes the temperature of its attention behind the caches. `plain`: of the block without a mask
        in its other methods.
        """
        return _decode_block(self, mixer, feed_forward, norm, init, tempered, plain)


def _body(
    config: InContext,
    b: Builder,
    x: Var,
    mix: Mix,
    feed_forward: FeedForward,
    norm: Norm,
    init: str,
    dim: int,
    static: Mapping[str, Any],
    normalised: bool = True,
) -> Var:
    """Both branches of x; norms before them, or after the sums. `normalised`: what is mixed is."""
    feeding, after, front = {k: static[k] for k in feed_forward.static(dim)}, config.norm_after, static.get("front", 0)
    feeding |= {"lead": static["lead"]} if feed_forward.parted else {}

    def gated(name: str, h: Var) -> Var:
        if isinstance(config.branch_norm, Norm):
            h = normed(f"{name}_norm", h, config.branch_norm)
        if config.gated:
            h = apart(b, h, front, lambda part, own: part * b.param(f"{own}{name}_scale", f32(dim), "zeros"))
        return dropped(b, h, static)

    def normed(name: str, x: Var, norm: Norm = norm) -> Var:
        return apart(b, x, front, lambda part, own: norm.apply(b, f"{own}{name}", part))

    def fed(x: Var) -> Var:
        return apart(b, x, front, lambda t, own: feed_forward.apply(b, f"{own}mlp", t, init, dim=dim, **feeding))

    (h,) = mix(x if after or not normalised else normed("norm1", x))
    x = x + gated("attn", h)
    x = normed("norm1", x) if after and normalised else x
    x = x + gated("mlp", fed(x if after else normed("norm2", x)))
    return normed("norm2", x) if after else x


@cache
def _block(config: InContext, mixer: Mixer, feed_forward: FeedForward, norm: Norm, init: str) -> BlockBody:
    @module_class("TransformerBlock")
    def block(b: Builder, x: Var, *rotary: Var, dim: int, **static: Any) -> Var:
        """A transformer block."""
        mixing = mixer.own(dim, static)

        def mix(h: Var) -> tuple[Var, ...]:
            return (mixer.apply(b, "attn", h, rotary, init, dim=dim, **mixing),)

        return _body(config, b, x, mix, feed_forward, norm, init, dim, static, mixer.normalised)

    scaled = " whose branches are scaled by channel" if config.gated else ""
    block.body.__doc__ = f"A {'post' if config.norm_after else 'pre'}-norm transformer block{scaled}."
    return block


@cache
def _masked_block(config: InContext, mixer: CachedMixer, feed_forward: FeedForward, norm: Norm, init: str) -> BlockBody:
    @module_class("MaskedBlock")
    def block(b: Builder, x: Var, mask: Var, *rotary: Var, dim: int, **static: Any) -> Var:
        """A pre-norm transformer block that sees the tokens where `mask` is true."""
        mix = masked_mix(b, mixer, mask, rotary, init, dim, static)
        return _body(config, b, x, mix, feed_forward, norm, init, dim, static)

    return block


@cache
def _extend_block(
    config: InContext, mixer: CachedMixer, feed_forward: FeedForward, norm: Norm, init: str, masked: bool, plain: bool
) -> BlockBody:
    @module_class("TransformerBlock" if plain else "MaskedBlock", "extend")
    def extend(b: Builder, x: Var, keys: Var, values: Var, *others: Var, dim: int, **static: Any) -> tuple[Var, ...]:
        """The block for the next tokens, against the keys and values of those before; returns them grown, too."""
        mix, grown = chunk_mix(b, mixer, (keys, values), others, masked, init, dim, static, plain)
        return _body(config, b, x, mix, feed_forward, norm, init, dim, static), *grown

    return extend


@cache
def _begin_block(
    config: InContext, mixer: CachedMixer, feed_forward: FeedForward, norm: Norm, init: str, masked: bool, plain: bool
) -> BlockBody:
    @module_class("TransformerBlock" if plain else "MaskedBlock", "begin")
    def begin(b: Builder, x: Var, *others: Var, dim: int, **static: Any) -> tuple[Var, ...]:
        """The block for the first tokens; returns their keys and values, too."""
        mix, grown = chunk_mix(b, mixer, (), others, masked, init, dim, static, plain)
        return _body(config, b, x, mix, feed_forward, norm, init, dim, static), *grown

    return begin


@cache
def _decode_block(
    config: InContext, mixer: CachedMixer, feed_forward: FeedForward, norm: Norm, init: str, tempered: bool, plain: bool
) -> BlockBody:
    @module_class("TransformerBlock" if plain else "MaskedBlock", "decode")
    def decode(
        b: Builder, x: Var, position: Var, mask: Var, keys: Var, values: Var, *others: Var, dim: int, **static: Any
    ) -> tuple[Var, Var, Var]:
        """The block for one token against the cached keys and values."""
        mixing = mixer.own(dim, static)
        temperature, rotary = (others[0], others[1:]) if tempered else (None, others)
        state = DecodeState(position, mask, keys, values, temperature, plain)
        grown: list[Var] = []

        def mix(h: Var) -> tuple[Var, ...]:
            h, *grown[:] = mixer.decode(b, "attn", h, state, rotary, init, dim=dim, **mixing)
            return (h,)

        x = _body(config, b, x, mix, feed_forward, norm, init, dim, static)
        keys, values = grown
        return x, keys, values

    return decode
