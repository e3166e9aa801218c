"""Steps that reuse keys and values of tokens that they leave as they are (ReCAP, arXiv:2505.19089)."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from latentc.components import Closed


class Reuse(Closed):
    """A step over all tokens begins a set of tokens and draws the first of them. The steps after it evaluate the
    tokens of the set alone, which attend to the keys and values that step computed of the others.
    """

    after: int = Field(0, ge=0, le=100_000, description="steps over all tokens before the first set")
    steps: int = Field(1, gt=0, le=64, description="steps per set that reuse the results of its first step")

    def sets(self, left: Sequence[int], most: int) -> list[tuple[int, int]]:
        """[start, stop) of each set; a set has at most `most` tokens, or one step.

        `left`: hidden tokens before the first step, and after each.
        """
        found, first, count = list[tuple[int, int]](), 0, len(left) - 1
        while first < count:
            stop = min(first + 1 + (self.steps if first >= self.after else 0), count)
            while stop > first + 1 and left[first] - left[stop] > most:
                stop -= 1
            found.append((first, stop))
            first = stop
        return found

    def most(self, left: Sequence[int], tokens: int) -> int:
        """Tokens of the largest set of several steps; 0: there is none."""
        return max((left[i] - left[stop] for i, stop in self.sets(left, tokens) if stop > i + 1), default=0)
