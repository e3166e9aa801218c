"""Classifier guidance: the gradient of a classifier's log-probability is added to the score.

Symbols: B batch, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import Field

from latentc.components import Closed
from latentc.components.contract import Network
from latentc.components.parts import Problem
from latentc.ir.builder import Builder, ModuleBuilder, Var, f32, i64
from latentc.ir.types import B

if TYPE_CHECKING:
    from latentc.spec.schema import Spec

SETTING = "classifier_guidance"


class ClassifierGuidance(Closed):
    """score + scale * gradient by x of log p(class | x, t) (Dhariwal and Nichol 2021, arXiv:2105.05233).

    The classifier is a network trained on samples of the same process, told the same time.
    """

    network: str = Field("classifier", description="one of `networks`, which provides `classify`")
    scale: float = Field(1.0, ge=0, description="default scale; 0 is no guidance. An input of the engine")

    def problems(self, spec: Spec) -> Iterator[Problem]:
        """What is missing; relative to the guidance."""
        label = spec.conditions.get("class")
        if label is None or getattr(label, "encoding", None) != "index":
            message = "classifier guidance is towards a class, and requests have none"
            mend = "add `conditioning.class: {kind: label}`, and `conditions: []` to a backbone that is not told it"
            yield Problem((), message, mend)


@dataclass(frozen=True)
class Slope:
    """The gradient of log p(y | x, t) by x, of a classifier: the function of that probability in the module."""

    function: str

    def at(self, b: Builder, x: Var, time: Var, y: Var, scale: Var) -> Var:
        """scale [B] times the gradient at x [B, ...]."""
        _, slope = b.gradient(self.function, "", [x, time, y], out="log_probability slope")
        column = b.reshape(scale, shape=(scale.shape[0], *(1,) * (x.type.rank - 1)), out="scale")
        return b.mul(slope, column, out="slope")


def slope_of(mb: ModuleBuilder, network: Network) -> Slope:
    """Adds the log-probability of a class by a network that classifies to the module."""
    forward = network.methods["forward"]
    b = mb.function(f"{network.name}.log_probability")
    x, time, y = b.input("x", forward.input("state").type), b.input("t", f32(B)), b.input("y", i64(B))
    logits = b.call(forward.function, network.name, x, time, out="logits")
    b.output(b.neg(b.cross_entropy(logits, y), out="log_probability"))
    return Slope(b.finish("log p(y | x, t) of the classifier, one value per sample."))


__all__ = ["SETTING", "ClassifierGuidance", "Slope", "slope_of"]
