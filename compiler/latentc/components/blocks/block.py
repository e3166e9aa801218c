"""A transformer block as a spec writes it: named parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from latentc.components import Closed, Component, OneOf
from latentc.components.parts import (
    BlockCondition,
    BlockInput,
    FeedForward,
    Mixer,
    Norm,
    Positions,
    Problem,
    Refusal,
    TokenNorm,
    under,
)

_USUAL: dict[BlockInput, str] = {"a vector": "adaln_zero", None: "in_context"}


class Block(Closed):
    """One transformer block, by its parts."""

    mixer: Annotated[Component, OneOf("blocks/mixers")] = Field(description="how tokens exchange information")
    feed_forward: Annotated[Component, OneOf("blocks/feed_forwards")] = Field(
        description="applied to each token on its own"
    )
    norm: Annotated[Component, OneOf("blocks/norms")] = Field(description="norm before the mixer and the feed-forward")
    condition: Annotated[Component, OneOf("blocks/conditions")] = Field(description="how the condition enters")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "mixer": {"kind": "attention", "heads": 2},
        "feed_forward": {"kind": "gelu_mlp"},
        "norm": {"kind": "layer_norm", "affine": True},
        "condition": {"kind": "in_context"},
    }

    def parts(self) -> tuple[Mixer, FeedForward, Norm, BlockCondition]:
        """The parts by the type that their folder promises."""
        mixer, feed_forward, norm, condition = self.mixer, self.feed_forward, self.norm, self.condition
        assert isinstance(mixer, Mixer) and isinstance(feed_forward, FeedForward)
        assert isinstance(norm, Norm) and isinstance(condition, BlockCondition)
        return mixer, feed_forward, norm, condition

    def static(self, width: int) -> dict[str, int]:
        """The sizes that emitted blocks are constructed with, beside the width."""
        mixer, feed_forward, _, _ = self.parts()
        return {**mixer.static(width), **feed_forward.static(width)}

    def own(self, width: int, sizes: Mapping[str, Any]) -> dict[str, Any]:
        """Those of a network's static arguments that its blocks take; `grid` is the side of a square of tokens."""
        return {name: sizes[name] for name in (*self.static(int(width)), *(("grid",) if self.spatial else ()))}

    def heads(self, sizes: Mapping[str, Any]) -> Any:
        """The query heads among a network's sizes. Refusal: the mixer has none."""
        if "heads" not in sizes:
            message = f"this network needs attention heads, but `{self.mixer.kind}` has none"
            raise Refusal(message, "use `{kind: attention}`", part=self.mixer)
        return sizes["heads"]

    @property
    def parted(self) -> bool:
        """Whether leading tokens have attributes of their own, which choose their experts."""
        mixer, feed_forward, _, _ = self.parts()
        return "lead" in mixer.needs or feed_forward.parted

    @property
    def spatial(self) -> bool:
        """Whether tokens must be a square."""
        return any(self._spatial().values())

    def _spatial(self) -> dict[str, bool]:
        """Whether each part needs a square of tokens."""
        mixer, feed_forward, norm, condition = self.parts()
        return {
            "mixer": mixer.spatial,
            "feed_forward": feed_forward.spatial,
            "norm": norm.spatial,
            "condition": condition.spatial,
        }

    def problems_of_width(self, width: int, grid: int | None = None, any_heads: bool = False) -> Iterator[Problem]:
        """Problems of blocks in a network of this width, whose tokens have a `grid` of so many columns; None: none.

        `any_heads`: the network supports heads whose size is not width / heads.
        """
        mixer = self.parts()[0]
        if grid is None and self.spatial:
            where = ("block", next(name for name, needs in self._spatial().items() if needs))
            message = f"`{getattr(self, where[1]).kind}` needs a square of tokens, but this network has a sequence"
            yield Problem(where, message, "use another, such as `{kind: attention}`" if mixer.spatial else None)
        heads, size = mixer.head_count, mixer.head_size(width)
        if size != width // heads and not any_heads:
            message = "heads of this network always have width / `heads` channels"
            yield Problem(("block", "mixer", "head_width"), message, f"set it to {max(width // heads, 1)}")
        elif size == width // heads and width % heads:
            below = width - width % heads
            near = " or ".join(str(w) for w in (below, below + heads) if w > 0)
            yield Problem(("width",), f"{heads} heads do not divide the width of {width}", f"a width of {near} does")

    def problems_of_condition(
        self, network: str, *inputs: BlockInput, tokens: bool = False, fronts: bool = False
    ) -> Iterator[Problem]:
        """Problems of blocks in a network of that kind, which passes them one of `inputs`, `tokens` of conditions, and
        `fronts`, the number of leading tokens.
        """
        condition = self.parts()[3]
        if condition.separates and not fronts:
            message = f"a {network} has no leading tokens that could have separate weights"
            yield Problem(("block", "condition", "front"), message, "leave it out, or use a `masked_autoencoder`")
        if self.parted and condition.separates:
            message = "leading tokens have attributes of their own, and so no weights of their own"
            yield Problem(("block", "condition", "front"), message, "leave out either")
        if condition.TAKES in inputs and (tokens or not condition.takes_tokens):
            return
        taken = (condition.TAKES or "nothing") + (" and tokens of conditions" if condition.takes_tokens else "")
        words = " or ".join(each or "nothing" for each in inputs)
        message = f"blocks of a {network} are conditioned on {words}, but `{condition.kind}` takes {taken}"
        use = " or ".join(f"`{{kind: {_USUAL[each]}}}`" for each in inputs if each in _USUAL)
        yield Problem(("block", "condition"), message, f"use {use}")

    def problems_of_decoding(self, why: str) -> Iterator[Problem]:
        """Problems of a network that takes tokens one by one, which `why` explains."""
        mixer, _, norm, _ = self.parts()
        yield from self._problems_of_norm(norm, why)
        if not mixer.ordered:
            yield Problem(("block", "mixer"), f"{why}, so its mixer must be causal", "set `causal: true`")

    def problems_of_rotary(self, width: int, **positions: Component | None) -> Iterator[Problem]:
        """Problems of rotary positions, by their field, in a network of this width."""
        mixer = self.parts()[0]
        for field, given in positions.items():
            if isinstance(given, Positions):
                yield from under(field, problems=given.problems_of_head(mixer.head_size(width)))

    def problems_of_chunks(self, network: str) -> Iterator[Problem]:
        """Problems of a network of that kind, which takes tokens in chunks."""
        yield from self._problems_of_norm(self.parts()[2], f"a {network} takes tokens in chunks")

    @staticmethod
    def _problems_of_norm(norm: Norm, why: str) -> Iterator[Problem]:
        """Problems of a norm in a network that takes parts of a sequence."""
        if not isinstance(norm, TokenNorm):
            message = f"{why}, but `{norm.kind}` does not normalise each token alone"
            yield Problem(("block", "norm"), message, "use `{kind: layer_norm}` or `{kind: rms_norm}`")
