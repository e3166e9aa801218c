"""The loss of D-JEPA that predicts features of hidden tokens.

Symbols: B batch, T tokens of a sample, C channels of a token, D channels of its features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import Field

from latentc.components import Closed
from latentc.components.contract import Need, Network
from latentc.components.kit import call
from latentc.components.objectives._hidden_tokens import Hidden, HiddenTokens
from latentc.components.objectives.denoising import Terms
from latentc.components.parts import Problem, Spec
from latentc.components.sums import weighted_sum
from latentc.ir.builder import Builder


class FeaturePrediction(Closed):
    """A smooth L1 loss of predicted features of hidden tokens against those of an averaged encoder of the whole sample
    (D-JEPA, Chen et al. 2024, arXiv:2410.03755). The encoder takes all conditions, none dropped."""

    target: str = Field("target", description="the average of `main` whose features are predicted")
    weight: float = Field(1.0, gt=0, description="weight of the term")
    beta: float = Field(2.0, gt=0, description="difference below which the loss is quadratic, above which it is linear")


class PredictedTokens(HiddenTokens):
    """The loss of network `head` on the hidden tokens, and that of their predicted features."""

    prediction: FeaturePrediction | None = Field(
        None, description="also predicts features of an averaged encoder; null: none"
    )

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        needs = super().needs(spec)
        if self.prediction is None:
            return needs
        target = Need(self.prediction.target, "predicted_features", place=("prediction", "target"))
        return (*needs, Need("main", "predicted_features", place=("prediction",)), target)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        target = "" if self.prediction is None else self.prediction.target
        network = spec.networks.get(target)
        if network is not None and network.average_of != "main":
            message = f"network `{target}` must be an average of `main`, whose features it predicts"
            yield Problem(("prediction", "target"), message, f"set `networks.{target}: {{kind: average}}`")

    def with_others(self, b: Builder, networks: Mapping[str, Network], terms: Terms, of: Hidden) -> Terms:
        own = self.prediction
        if own is None:
            return terms
        wanted = call(b, networks[own.target], "targets", of.conditions, state=of.tokens, out="wanted")
        guess = call(b, networks["main"], "predict", {}, features=of.features, out="guess")
        error = b.abs(b.op("sub", guess, b.stop_gradient(wanted), out="error"), out="error")
        below = b.minimum(error, own.beta, out="below")
        cost = b.mul(b.mul(below, error - 0.5 * below), 1 / own.beta, out="cost")
        cost = b.mean(cost, axes=(2,), keepdims=False, out="cost")
        guessed = b.sum(cost * of.weight, axes=(1,), keepdims=False, out="prediction")
        total = weighted_sum(b, "total", (1.0, terms["loss"]), (own.weight, guessed))
        return {"loss": total, "base": terms.pop("loss"), **terms, "prediction": guessed}

    def says(self) -> str:
        more = "" if self.prediction is None else ", and that of their features"
        return f"The loss of the hidden tokens{more}, one value per sample each."
