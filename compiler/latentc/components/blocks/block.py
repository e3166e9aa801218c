"""A transformer block as a spec writes it: named parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field

from latentc.components import Closed, Component, OneOf
from latentc.components.parts import BlockCondition, FeedForward, Mixer, Norm, Problem


class Block(Closed):
    """One transformer block, by its parts."""

    mixer: Annotated[Component, OneOf("blocks/mixers")] = Field(description="how tokens see each other")
    feed_forward: Annotated[Component, OneOf("blocks/feed_forwards")] = Field(description="what each token does alone")
    norm: Annotated[Component, OneOf("blocks/norms")] = Field(description="before both")
    condition: Annotated[Component, OneOf("blocks/conditions")] = Field(description="how the condition enters")

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
        """Those of a network's static arguments that its blocks take."""
        return {name: sizes[name] for name in self.static(int(width))}

    def problems_of_width(self, width: int) -> Iterator[Problem]:
        """What is wrong with a network of this width."""
        heads = self.parts()[0].head_count
        if width % heads:
            below = width - width % heads
            near = " or ".join(str(w) for w in (below, below + heads) if w > 0)
            yield Problem(("width",), f"{heads} heads do not divide the width of {width}", f"a width of {near} does")

    def problems_of_decoding(self, why: str) -> Iterator[Problem]:
        """What keeps the mixer from taking tokens one by one; `why` says what of the network needs that."""
        mixer = self.parts()[0]
        if not getattr(mixer, "causal", False):
            yield Problem(("block", "mixer"), f"{why}, so its mixer must be causal", "set `causal: true`")
        elif type(mixer).decode is Mixer.decode:
            message = f"{why}, and `{mixer.kind}` has no decoding step"
            yield Problem(("block", "mixer"), message, "use `{kind: attention, causal: true}`, or define its `decode`")
