"""The condition as scale, shift and gate of every block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Closed, Component, OneOf
from latentc.components.blocks.cross_attention import context_attention
from latentc.components.blocks.mixing import Mix, chunk_mix, masked_mix
from latentc.components.blocks.stochastic_depth import dropped
from latentc.components.parts import CachedCondition, CachedMixer, FeedForward, Mixer, Norm, Problem, TokenNorm, dense
from latentc.ir.builder import BlockBody, Builder, Var, module_class

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class TextBranch(Closed):
    """A branch between the mixer and the feed-forward: tokens attend to those of conditions, not modulated (PixelFlow).

    Queries turn by their place as the mixer's do; keys do not.
    """

    norm: Annotated[Component, OneOf("blocks/norms", base=TokenNorm)] = Field(description="norm before each branch")
    qk_norm: Annotated[Component | None, OneOf("blocks/norms", base=TokenNorm)] = Field(
        None, description="norm of queries and keys, over all heads at once; null: none"
    )
    bias: bool = Field(True, description="biases of the projections")

    def applied(self, b: Builder, x: Var, told: Sequence[Var], rotary: Sequence[Var], init: str, **sizes: Any) -> Var:
        """What tokens x find in the condition's, `told` with their mask: f32[B, T, D]."""
        assert isinstance(self.norm, Norm)
        qk_norm = self.qk_norm if isinstance(self.qk_norm, Norm) else None
        body = context_attention(init, self.bias, self.bias, qk_norm, len(told) > 1)
        h = self.norm.apply(b, "cross_norm", x)
        return b.sub("cross_attn", body, h, *told, *rotary, context_dim=told[0].shape[2], out="h", **sizes)  # type: ignore[no-any-return]


class AdalnZero(CachedCondition):
    """Norms are scaled and shifted and branches gated by a zero-initialised linear map of the condition (DiT)."""

    kind: Literal["adaln_zero"]
    feed_forward_eps: float | None = Field(
        None, gt=0, description="eps of the norm before the feed-forward; null: that of `norm`"
    )
    feed_forward_norm: Annotated[Component | None, OneOf("blocks/norms", base=TokenNorm)] = Field(
        None, description="norm before the feed-forward (PixelFlow); null: as `norm`"
    )
    gates: Literal["zero", "one"] = Field(
        "zero", description="initial gates: blocks start as the identity (DiT), or as without the condition (FlashDiT)"
    )
    shift: bool = Field(True, description="norms are shifted as well as scaled")
    text: TextBranch | None = Field(
        None, description="condition tokens enter through a separate attention branch; null: they cannot enter"
    )
    norm_after: bool = Field(
        False,
        description="norms follow the branches in place of preceding them, and scale and shift what these add, without "
        "gates (`post_norm` of efficientvit's DiT)",
    )
    gate_branches: bool = Field(False, description="separate gate per branch of a mixer that has several")
    TELLS_MIXER: ClassVar[bool] = True
    TELLS_FEED_FORWARD: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "adaln_zero"}

    @property
    def takes_tokens(self) -> bool:
        return self.text is not None

    @property
    def takes_any_width(self) -> bool:
        return True

    def problems(self, spec: Spec) -> Iterator[Problem]:
        for name in ("gates", "gate_branches") if self.norm_after else ():
            if getattr(self, name) != type(self).model_fields[name].default:
                yield Problem((name,), "blocks whose norms follow the branches have no gates", "leave out one of them")

    def block(self, mixer: Mixer, feed_forward: FeedForward, norm: Norm, init: str) -> BlockBody:
        return _block(self, mixer, feed_forward, norm, self._second(norm), init)

    def masked_block(self, mixer: CachedMixer, feed_forward: FeedForward, norm: Norm, init: str) -> BlockBody:
        return _masked_block(self, mixer, feed_forward, norm, self._second(norm), init)

    def extend_block(
        self, mixer: CachedMixer, feed_forward: FeedForward, norm: Norm, init: str, masked: bool = False
    ) -> BlockBody:
        return _extend_block(self, mixer, feed_forward, norm, self._second(norm), init, masked)

    def begin_block(
        self, mixer: CachedMixer, feed_forward: FeedForward, norm: Norm, init: str, masked: bool = False
    ) -> BlockBody:
        return _begin_block(self, mixer, feed_forward, norm, self._second(norm), init, masked)

    def _second(self, norm: Norm) -> Norm:
        """The norm before the feed-forward layer."""
        second = self.feed_forward_norm if isinstance(self.feed_forward_norm, Norm) else norm
        return second if self.feed_forward_eps is None else second.model_copy(update={"eps": self.feed_forward_eps})

    def names(self, mixer: Mixer) -> tuple[str, ...]:
        """What the linear map returns, in order."""
        extra = mixer.branches - 1 if self.gate_branches else 0
        first, second = (("shift_msa",), ("shift_mlp",)) if self.shift else ((), ())
        if self.norm_after:
            return (*first, "scale_msa", *second, "scale_mlp")
        names = (*first, "scale_msa", "gate_msa", *second, "scale_mlp", "gate_mlp")
        return (*names, *("gate_branch" if extra == 1 else f"gate_branch_{i}" for i in range(extra)))


def _body(
    config: AdalnZero,
    b: Builder,
    x: Var,
    c: Var,
    mix: Mix,
    mixer: Mixer,
    feed_forward: FeedForward,
    norms: tuple[Norm, Norm],
    init: str,
    dim: int,
    static: Mapping[str, Any],
    cross: Callable[[Var], Var] | None = None,
    chooses: Var | None = None,
) -> Var:
    """Both branches of x; what `chooses` experts of the feed-forward is c, or another vector."""
    chooses = c if chooses is None else chooses
    names = config.names(mixer)
    feeding = {k: static[k] for k in feed_forward.static(dim)} | ({"c": chooses} if feed_forward.takes_vector else {})
    count = len(names)
    modulation = dense(b, "adaLN", b.silu(c), count * dim, True, "zeros", out="modulation")
    modulation = b.reshape(modulation, shape=(c.shape[0], 1, count * dim), out="modulation")
    parts = b.split(modulation, axis=2, sizes=(dim,) * count, out=" ".join(names))
    values = dict(zip(names, parts, strict=True))

    def modulated(x: Var, of: str) -> Var:
        scaled = x * (values[f"scale_{of}"] + 1.0)
        return scaled + values[f"shift_{of}"] if config.shift else scaled

    def gated(name: str, branch: Var) -> Var:
        gate = values[name]
        return dropped(b, (gate + 1.0 if config.gates == "one" else gate) * branch, static)

    def added(x: Var, branch: Var, norm: int, of: str) -> Var:
        h = norms[norm - 1].apply(b, f"norm{norm}", branch) * values[f"scale_{of}"]
        return x + dropped(b, h + values[f"shift_{of}"] if config.shift else h, static)

    if config.norm_after:
        (branch,) = mix(x)
        x = added(x, branch, 1, "msa")
        x = x if cross is None else x + dropped(b, cross(x), static)
        return added(x, feed_forward.apply(b, "mlp", x, init, dim=dim, **feeding), 2, "mlp")
    h = modulated(norms[0].apply(b, "norm1", x) if mixer.normalised else x, "msa")
    gates, branches = ("gate_msa", *names[names.index("gate_mlp") + 1 :]), mix(h)
    # A window that covers all tokens has no convolution beside it, whose gate then is not used.
    assert len(branches) in (1, len(gates)), f"{len(branches)} branches for the gates {gates}"
    for name, branch in zip(gates, branches, strict=False):
        x = x + gated(name, branch)
    x = x if cross is None else x + dropped(b, cross(x), static)
    h = modulated(norms[1].apply(b, "norm2", x), "mlp")
    return x + gated("gate_mlp", feed_forward.apply(b, "mlp", h, init, dim=dim, **feeding))


@cache
def _block(config: AdalnZero, mixer: Mixer, feed_forward: FeedForward, norm: Norm, norm2: Norm, init: str) -> BlockBody:
    @module_class("DiTBlock")
    def block(
        b: Builder, x: Var, c: Var, *others: Var, dim: int, context: int = 0, router: int = 0, **static: Any
    ) -> Var:
        """A transformer block conditioned by adaLN-Zero: c [B, D] scales, shifts and gates both branches."""
        chooses, others = others[0] if router else c, others[router:]
        told, rotary = others[:context], others[context:]
        mixing = mixer.own(dim, static) | ({"told": chooses if mixer.routes else c} if mixer.generates else {})

        def cross(x: Var) -> Var:
            assert config.text is not None
            return config.text.applied(b, x, told, rotary, init, dim=dim, heads=static.get("heads", 1))

        def mix(h: Var) -> tuple[Var, ...]:
            if config.gate_branches:
                return mixer.apply_branches(b, "attn", h, rotary, init, dim=dim, **mixing)
            return (mixer.apply(b, "attn", h, rotary, init, dim=dim, **mixing),)

        crossing = cross if told else None
        return _body(config, b, x, c, mix, mixer, feed_forward, (norm, norm2), init, dim, static, crossing, chooses)

    return block


@cache
def _masked_block(
    config: AdalnZero, mixer: CachedMixer, feed_forward: FeedForward, norm: Norm, norm2: Norm, init: str
) -> BlockBody:
    @module_class("MaskedDiTBlock")
    def block(b: Builder, x: Var, c: Var, mask: Var, *rotary: Var, dim: int, **static: Any) -> Var:
        """A transformer block whose tokens see those where `mask` is true; c [B, D] scales, shifts and gates."""
        mix = masked_mix(b, mixer, mask, rotary, init, dim, static)
        return _body(config, b, x, c, mix, mixer, feed_forward, (norm, norm2), init, dim, static)

    return block


@cache
def _extend_block(
    config: AdalnZero, mixer: CachedMixer, feed_forward: FeedForward, norm: Norm, norm2: Norm, init: str, masked: bool
) -> BlockBody:
    @module_class("MaskedDiTBlock", "extend")
    def extend(
        b: Builder, x: Var, c: Var, keys: Var, values: Var, *others: Var, dim: int, **static: Any
    ) -> tuple[Var, ...]:
        """The block for the next tokens, against the keys and values of those before; returns them grown, too."""
        mix, grown = chunk_mix(b, mixer, (keys, values), others, masked, init, dim, static)
        return _body(config, b, x, c, mix, mixer, feed_forward, (norm, norm2), init, dim, static), *grown

    return extend


@cache
def _begin_block(
    config: AdalnZero, mixer: CachedMixer, feed_forward: FeedForward, norm: Norm, norm2: Norm, init: str, masked: bool
) -> BlockBody:
    @module_class("MaskedDiTBlock", "begin")
    def begin(b: Builder, x: Var, c: Var, *others: Var, dim: int, **static: Any) -> tuple[Var, ...]:
        """The block for the first tokens; returns their keys and values, too."""
        mix, grown = chunk_mix(b, mixer, (), others, masked, init, dim, static)
        return _body(config, b, x, c, mix, mixer, feed_forward, (norm, norm2), init, dim, static), *grown

    return begin
