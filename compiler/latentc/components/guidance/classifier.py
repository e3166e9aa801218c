"""Classifier guidance: the gradient of a classifier's log-probability is added to the score.

Symbols: B batch, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Need, Network
from latentc.components.guidance.guidance import ScoreTerm, Slope, Values
from latentc.components.kit import call
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, ModuleBuilder, Var, f32, i64
from latentc.ir.types import B


class ClassifierGuidance(ScoreTerm):
    """Adds scale times the gradient of log p(class | x, t) with respect to x to the score (Dhariwal and Nichol 2021,
    arXiv:2105.05233). The classifier is trained on samples of the same process and takes the same time. Predictions
    at pure noise (alpha 0), such as the first of a flow, are not guided.
    """

    SETTING: ClassVar[str] = "classifier_guidance"
    INPUT: ClassVar[str] = "classifier_scale"

    kind: Literal["classifier"]
    network: str = Field("classifier", description="one of `networks`, which provides `classify`")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "classifier", "scale": 2.0}

    def needs(self) -> tuple[Need, ...]:
        return (Need(self.network, "classify", place=("network",)),)

    def reads(self) -> tuple[str, ...]:
        return ("class",)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        label = spec.conditions.get("class")
        if label is None or [port.type for port in label.ports("class", spec)] != [i64(B)]:
            message = "classifier guidance needs a class, but requests do not have one"
            mend = (
                "add `conditioning.class: {kind: label}`, and set `conditions: []` in a backbone that does not take it"
            )
            yield Problem((), message, mend)
        yield from super().problems(spec)

    def direction(self, mb: ModuleBuilder, networks: Mapping[str, Network]) -> ClassGradient:
        return class_gradient(mb, networks[self.network])


def class_gradient(mb: ModuleBuilder, network: Network) -> ClassGradient:
    """The gradient; adds the log-probability of a class by the classifier to the module."""
    forward = network.methods["forward"]
    b = mb.function(f"{network.name}.log_probability")
    x, time, y = b.input("x", forward.input("state").type), b.input("t", f32(B)), b.input("y", i64(B))
    logits = call(b, network, "forward", {}, state=x, time=time, out="logits")
    b.output(b.neg(b.cross_entropy(logits, y), out="log_probability"))
    return ClassGradient(b.finish("log p(y | x, t) of the classifier, one value per sample."))


@dataclass(frozen=True)
class ClassGradient(Slope):
    """The gradient by x of log p(y | x, t), which a function of the module computes."""

    OUT: ClassVar[str] = "log_probability"
    function: str

    def arguments(self, b: Builder, x: Var, time: Var, operands: Values, coefficients: Values) -> list[Var]:
        return [x, time, operands["y"]]
