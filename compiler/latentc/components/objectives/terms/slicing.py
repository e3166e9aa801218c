"""SAN's term of the last layer's direction."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from latentc.components.objectives.terms._term import Round, Term, mean
from latentc.ir.builder import Var


class Slicing(Term):
    """The Wasserstein loss of the output `sliced`, which trains only the direction of the discriminator's last layer.

    Beside a term on the score, which trains everything else: a slicing adversarial network (SAN, Takida et al. 2024,
    arXiv:2301.12811).
    """

    kind: Literal["slicing"]
    READS: ClassVar[tuple[str, ...]] = ("sliced",)
    REACHES_GENERATOR: ClassVar[bool] = False
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "slicing"}

    def of_discriminator(self, round: Round) -> Var | None:
        assert round.real is not None
        b, real, fake = round.b, round.real.outputs["sliced"], round.fake.outputs["sliced"]
        return b.op("sub", mean(b, fake, "of_samples"), mean(b, real, "of_data"), out=self.kind)
