"""How `tune` searches."""

from __future__ import annotations

from dataclasses import dataclass

from latentc.evaluate.bounds import Bound


@dataclass(frozen=True)
class Options:
    """How to search.

    `bounds`: the budget. `counts`: network evaluations to try, or steps of masked tokens. `samples`: how many judge a
    compiled candidate; the search of denoising samplers uses a quarter as many, 16 to 64 (fewer for large data).
    `batch`: samples timed at once. `seconds`: when to begin nothing more; the search gets half of them. `metrics`:
    names of figures, and FILE.py:FUNCTION of the user. `features` and `reference`: extractors of these figures, and
    what they compare with.
    """

    bounds: tuple[Bound, ...] = ()
    counts: tuple[int, ...] = ()
    samples: int = 256
    batch: int = 1
    seed: int = 0
    seconds: float | None = None
    metrics: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    reference: str | None = None
    device: str = "cpu"

    def most(self, own: int) -> float:
        """Most evaluations to try, of a sampler that has `own`, unless `counts` names others."""
        limits = [bound.value for bound in self.bounds if bound.name == "evaluations" and not bound.relative]
        return min([float(own), *limits])
