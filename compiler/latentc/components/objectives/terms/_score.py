"""Terms of the score alone: what data and samples cost the discriminator, and samples the generator."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from latentc.components.objectives.terms._term import Round, Term, mean
from latentc.ir.builder import Builder, Var


class ScoreTerm(Term):
    """Costs of a score f32[B, 1]; the discriminator's is high for data."""

    THRESHOLD: ClassVar[float | None] = 0.0
    """The score above which the discriminator takes an image for data; None: its scale means nothing."""

    @abstractmethod
    def of_real(self, b: Builder, score: Var) -> Var:
        """Discriminator loss of the score of data."""

    @abstractmethod
    def of_fake(self, b: Builder, score: Var) -> Var:
        """Discriminator loss of the score of a sample."""

    @abstractmethod
    def of_made(self, b: Builder, score: Var) -> Var:
        """Generator loss of the score of a sample."""

    def costs(self, round: Round) -> tuple[Var, Var]:
        """Discriminator losses of the scores of data and samples, one value per score."""
        assert round.real is not None
        b, real, fake = round.b, round.real.outputs["score"], round.fake.outputs["score"]
        return self.of_real(b, real), self.of_fake(b, fake)

    def of_discriminator(self, round: Round) -> Var | None:
        b = round.b
        of_real, of_fake = self.costs(round)
        return b.add(mean(b, of_real), mean(b, of_fake), out=self.kind)

    def of_generator(self, round: Round) -> Var | None:
        return mean(round.b, self.of_made(round.b, round.fake.outputs["score"]), self.kind)

    def metrics(self, round: Round) -> dict[str, Var]:
        assert round.real is not None
        if self.THRESHOLD is None:
            return {}
        b, real, fake = round.b, round.real.outputs["score"], round.fake.outputs["score"]
        right = {"real": b.greater(real, self.THRESHOLD), "fake": b.less(fake, self.THRESHOLD)}
        return {f"accuracy_{name}": mean(b, b.cast(x, to="f32"), f"accuracy_{name}") for name, x in right.items()}
