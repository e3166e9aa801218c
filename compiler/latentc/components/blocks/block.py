"""A transformer block as a spec writes it: named parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field

from latentc.components import Closed, Component, OneOf
from latentc.components.parts import (
    BlockCondition,
    CachedCondition,
    CachedMixer,
    FeedForward,
    Mixer,
    Norm,
    Positions,
    Problem,
    Refusal,
    TokenNorm,
    Told,
    under,
)

_WORDS: dict[Told, str] = {"vector": "a vector", "time": "the time", None: "nothing"}
_USUAL: dict[Told, str] = {"vector": "adaln_zero", "time": "time_norm", None: "in_context"}


class Block(Closed):
    """One transformer block, by its parts."""

    mixer: Annotated[Component, OneOf("blocks/mixers")] = Field(description="how tokens exchange information")
    feed_forward: Annotated[Component, OneOf("blocks/feed_forwards")] = Field(
        description="applied to each token on its own"
    )
    norm: Annotated[Component, OneOf("blocks/norms")] = Field(description="norm before the mixer and the feed-forward")
    condition: Annotated[Component, OneOf("blocks/conditions")] = Field(description="how the condition enters")

    def parts(self) -> tuple[Mixer, FeedForward, Norm, BlockCondition]:
        """The parts by the type that their folder promises."""
        mixer, feed_forward, norm, condition = self.mixer, self.feed_forward, self.norm, self.condition
        assert isinstance(mixer, Mixer) and isinstance(feed_forward, FeedForward)
        assert isinstance(norm, Norm) and isinstance(condition, BlockCondition)
        return mixer, feed_forward, norm, condition

    def cached_parts(self) -> tuple[CachedMixer, FeedForward, Norm, CachedCondition]:
        """The parts of a block that masks tokens or has a cache. Refusal: of parts that cannot."""
        mixer, feed_forward, norm, condition = self.parts()
        if not isinstance(mixer, CachedMixer):
            message = f"this network masks tokens or keeps a cache, but `{mixer.kind}` cannot"
            help = "use `{kind: attention}`, or derive it from `CachedMixer`"
            raise Refusal(message, help, ("block", "mixer"))
        if not isinstance(condition, CachedCondition):
            message = f"this network masks tokens or keeps a cache, but `{condition.kind}` cannot"
            raise Refusal(message, f"use `{{kind: {_USUAL[condition.TAKES]}}}`", ("block", "condition"))
        return mixer, feed_forward, norm, condition

    def static(self, width: int) -> dict[str, int]:
        """The sizes that emitted blocks are constructed with, beside the width."""
        mixer, feed_forward, _, _ = self.parts()
        return {**mixer.static(width), **feed_forward.static(width)}

    def own(self, width: int, sizes: Mapping[str, Any]) -> dict[str, Any]:
        """Those of a network's static arguments that its blocks take; `grid` is the side of a square of tokens."""
        return {name: sizes[name] for name in (*self.static(int(width)), *(("grid",) if self.spatial else ()))}

    @property
    def parted(self) -> bool:
        """Whether tokens in front are a part of their own, for which experts are chosen by themselves."""
        mixer, feed_forward, _, _ = self.parts()
        return mixer.parted or feed_forward.parted

    @property
    def spatial(self) -> bool:
        """Whether tokens must be a square."""
        mixer, _, norm, condition = self.parts()
        return mixer.spatial or norm.spatial or condition.spatial

    @property
    def rectangular(self) -> bool:
        """Whether tokens may have more or fewer columns than rows."""
        mixer, _, norm, condition = self.parts()
        return mixer.rectangular and not (norm.spatial or condition.spatial)

    def problems_of_width(self, width: int, grid: int | None = None, any_heads: bool = False) -> Iterator[Problem]:
        """What is wrong with a network of this width, whose tokens are a square of side `grid`; None: a sequence.

        `any_heads`: the network does not mind heads of a width of their own.
        """
        mixer, feed_forward, norm, condition = self.parts()
        if grid is not None:
            yield from under("block", "mixer", problems=mixer.problems_of_grid(grid))
        elif self.spatial:
            where = ("block", "mixer" if mixer.spatial else "norm" if norm.spatial else "condition")
            message = f"`{getattr(self, where[1]).kind}` needs a square of tokens, but this network has a sequence"
            yield Problem(where, message, "use another, such as `{kind: attention}`" if mixer.spatial else None)
        if mixer.generates and not condition.TELLS_MIXER:
            message = (
                f"weights of the mixer depend on the condition, but `{condition.kind}` does not pass it to the mixer"
            )
            yield Problem(("block", "condition"), message, "use `{kind: adaln_zero}`")
        if condition.THROUGH_MIXER and not mixer.takes_vector:
            message = f"`{condition.kind}` adds the condition inside the mixer, but a `{mixer.kind}` takes none"
            yield Problem(("block", "condition"), message, "use `{kind: adaln_zero}`, or the mixer `attention`")
        if feed_forward.takes_vector and not condition.TELLS_FEED_FORWARD:
            message = f"`{feed_forward.kind}` depends on the condition, but `{condition.kind}` does not pass it on"
            yield Problem(("block", "feed_forward"), message, "use the condition `{kind: adaln_zero}`")
        if norm.TIMED and condition.TAKES != "time":
            message = f"`{norm.kind}` depends on the time, but `{condition.kind}` does not pass it to norms"
            yield Problem(("block", "norm"), message, "use `{kind: layer_norm}`, or the condition `{kind: time_norm}`")
        if norm.spatial and condition.TAKES != "time":
            message = f"`{norm.kind}` takes a square of tokens, but `{condition.kind}` does not pass one to norms"
            yield Problem(("block", "norm"), message, "use the condition `{kind: time_norm}`")
        heads, size = mixer.head_count, mixer.head_size(width)
        if mixer.own_head_size and not any_heads:
            message = "heads of this network always have width / `heads` channels"
            yield Problem(("block", "mixer", "head_width"), message, "leave it out")
        elif width % heads and not mixer.own_head_size:
            below = width - width % heads
            near = " or ".join(str(w) for w in (below, below + heads) if w > 0)
            yield Problem(("width",), f"{heads} heads do not divide the width of {width}", f"a width of {near} does")

        elif size % mixer.head_multiple:
            message = f"{heads} heads have {size} channels each, but `{mixer.kind}` needs a multiple of "
            yield Problem(("width",), f"{message}{mixer.head_multiple} with these options", "use fewer heads")

    def problems_of_condition(
        self, network: str, *told: Told, tokens: bool = False, fronts: bool = False
    ) -> Iterator[Problem]:
        """What is wrong if a network of that kind tells its blocks one of `told`; `tokens`: and those of conditions;
        `fronts`: how many tokens are in front of the sample's.
        """
        mixer, _, _, condition = self.parts()
        if condition.separates and not fronts:
            message = f"a {network} has no leading tokens that could have separate weights"
            yield Problem(("block", "condition", "front"), message, "leave it out, or use a `masked_autoencoder`")
        elif condition.separates and not mixer.separates:
            message = f"this `{mixer.kind}` has the same weights for all tokens"
            yield Problem(("block", "condition", "front"), message, "use `{kind: attention}` without other options")
        if self.parted and condition.separates:
            message = "leading tokens have attributes of their own, and so no weights of their own"
            yield Problem(("block", "condition", "front"), message, "leave out either")
        if condition.TAKES in told and (tokens or not condition.takes_tokens):
            return
        taken = _WORDS[condition.TAKES] + (" and tokens of conditions" if condition.takes_tokens else "")
        words = " or ".join(_WORDS[each] for each in told)
        message = f"blocks of a {network} are conditioned on {words}, but `{condition.kind}` takes {taken}"
        use = " or ".join(f"`{{kind: {_USUAL[each]}}}`" for each in told)
        yield Problem(("block", "condition"), message, f"use {use}")

    def problems_of_decoding(self, why: str, prefix: int = 0) -> Iterator[Problem]:
        """What keeps the mixer from taking tokens one by one; `why` says what of the network needs that.

        `prefix`: how many tokens it takes at once before them.
        """
        mixer, _, norm, _ = self.parts()
        yield from self._problems_of_norm(norm, why)
        if not mixer.ordered:
            yield Problem(("block", "mixer"), f"{why}, so its mixer must be causal", "set `causal: true`")
        elif not isinstance(mixer, CachedMixer):
            message = f"{why}, but `{mixer.kind}` cannot decode step by step"
            yield Problem(
                ("block", "mixer"), message, "use `{kind: attention, causal: true}`, or derive it from `CachedMixer`"
            )
        elif mixer.whole_only:
            message = f"{why}, but projections of experts that attributes choose take whole sequences"
            yield Problem(("block", "mixer"), message, "leave out `routed`")
        elif mixer.first_seen > prefix:
            message = f"all tokens see the first {mixer.first_seen}, but only {prefix} are known from the start"
            yield Problem(("block", "mixer", "unmasked"), message, f"use at most {prefix}")

    def problems_of_rotary(self, width: int, **positions: Component | None) -> Iterator[Problem]:
        """Rotary positions, by their field, that do not fit the heads of a network of this width."""
        mixer = self.parts()[0]
        for field, given in positions.items():
            if isinstance(given, Positions):
                yield from under(field, problems=given.problems_of_head(mixer.head_size(width)))

    def problems_of_masks(self, network: str) -> Iterator[Problem]:
        """What keeps the mixer from leaving out the tokens that a network of that kind hides."""
        mixer = self.parts()[0]
        if not isinstance(mixer, CachedMixer):
            message = f"a {network} hides tokens, but `{mixer.kind}` cannot mask them"
            yield Problem(("block", "mixer"), message, "use `{kind: attention}`, or derive it from `CachedMixer`")

    def problems_of_chunks(self, network: str) -> Iterator[Problem]:
        """What keeps blocks from masking tokens and from taking them in chunks, as a network of that kind does."""
        mixer, _, norm, condition = self.parts()
        why = f"a {network} takes tokens in chunks"
        yield from self._problems_of_norm(norm, why)
        if not isinstance(mixer, CachedMixer):
            message = f"{why}, but `{mixer.kind}` cannot"
            yield Problem(("block", "mixer"), message, "use `{kind: attention}`, or derive it from `CachedMixer`")
        elif mixer.ordered:
            yield Problem(("block", "mixer"), f"{why} in an order given by its own mask", "set `causal: false`")
        elif mixer.whole_only:
            message = f"{why}, but projections of experts that attributes choose take whole sequences"
            yield Problem(("block", "mixer"), message, "leave out `routed`")
        elif mixer.generates and condition.TELLS_MIXER:
            message = f"{why}, so its blocks cannot pass the mixer the condition that its weights depend on"
            yield Problem(("block", "mixer"), message, "leave out what generates them")
        if not isinstance(condition, CachedCondition):
            message = f"{why}, but `{condition.kind}` cannot"
            yield Problem(("block", "condition"), message, "use `{kind: adaln_zero}`")

    @staticmethod
    def _problems_of_norm(norm: Norm, why: str) -> Iterator[Problem]:
        """A norm that needs the whole sequence, in a network that takes parts of it."""
        if not isinstance(norm, TokenNorm):
            message = f"{why}, but `{norm.kind}` does not normalise each token alone"
            yield Problem(("block", "norm"), message, "use `{kind: layer_norm}` or `{kind: rms_norm}`")
