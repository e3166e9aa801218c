"""R3GAN's adversarial loss: samples are compared with data."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from latentc.components.objectives.terms._term import Round, Term, mean
from latentc.ir.builder import Var


class RelativisticPairing(Term):
    """softplus of the score of a sample minus that of data of the same conditions, and for the generator the reverse.

    Jolicoeur-Martineau 2018, arXiv:1807.00734 (RpGAN); with `zero_centred_penalties` it converges locally (R3GAN, Huang
    et al. 2024, arXiv:2501.05441).
    """

    kind: Literal["relativistic_pairing"]
    PAIRS: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "relativistic_pairing"}

    def of_discriminator(self, round: Round) -> Var | None:
        return mean(round.b, round.b.softplus(round.b.neg(self._margin(round))), self.kind)

    def of_generator(self, round: Round) -> Var | None:
        return mean(round.b, round.b.softplus(self._margin(round)), self.kind)

    def metrics(self, round: Round) -> dict[str, Var]:
        b = round.b
        right = b.cast(b.greater(self._margin(round), 0.0), to="f32")
        return {"accuracy_of_pairs": mean(b, right, "accuracy_of_pairs")}

    def _margin(self, round: Round) -> Var:
        """f32[B, 1]: by how much the score of data is above that of a sample."""
        assert round.real is not None
        return round.b.op("sub", round.real.outputs["score"], round.fake.outputs["score"], out="margin")
