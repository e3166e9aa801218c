"""Classifier guidance: the gradient of a classifier's log-probability is added to the score.

Symbols: B batch, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Need, Network
from latentc.components.guidance.guidance import Array, GuidanceTerm, Scheduled
from latentc.components.parts import Fraction, Problem
from latentc.ir.builder import Builder, ModuleBuilder, Var, f32, i64
from latentc.ir.types import B

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class ClassifierGuidance(Scheduled, GuidanceTerm):
    """score + scale * gradient by x of log p(class | x, t) (Dhariwal and Nichol 2021, arXiv:2105.05233).

    The classifier is a network trained on samples of the same process, told the same time.
    """

    SETTING: ClassVar[str] = "classifier_guidance"
    INPUT: ClassVar[str] = "classifier_scale"
    OF_SCORE: ClassVar[bool] = True

    kind: Literal["classifier"]
    network: str = Field("classifier", description="one of `networks`, which provides `classify`")
    scale: float = Field(1.0, ge=0, description="default scale; 0 is no guidance. An input of the engine")
    interval: tuple[Fraction, Fraction] = Field(
        (0.0, 1.0), description="part of the way from noise (0) to data (1) where it acts"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "classifier", "scale": 2.0}

    def needs(self) -> tuple[Need, ...]:
        return (Need(self.network, "classify", place=("network",)),)

    @property
    def runs(self) -> int:
        return 3

    def reads(self) -> tuple[str, ...]:
        return ("class",)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        label = spec.conditions.get("class")
        if label is None or getattr(label, "encoding", None) != "index":
            message = "classifier guidance is towards a class, and requests have none"
            mend = "add `conditioning.class: {kind: label}`, and `conditions: []` to a backbone that is not told it"
            yield Problem((), message, mend)
        if self.interval[0] > self.interval[1]:
            yield Problem(("interval",), "the interval ends before it starts", "from noise (0) to data (1)")

    def weights(self, progress: Sequence[float]) -> Array:
        low, high = self.interval
        return self.grown(progress) * [low <= p <= high for p in progress]

    def direction(self, mb: ModuleBuilder, networks: Mapping[str, Network]) -> ClassGradient:
        """The gradient; adds the log-probability of a class by the classifier to the module."""
        network = networks[self.network]
        forward = network.methods["forward"]
        b = mb.function(f"{network.name}.log_probability")
        x, time, y = b.input("x", forward.input("state").type), b.input("t", f32(B)), b.input("y", i64(B))
        logits = b.call(forward.function, network.name, x, time, out="logits")
        b.output(b.neg(b.cross_entropy(logits, y), out="log_probability"))
        return ClassGradient(b.finish("log p(y | x, t) of the classifier, one value per sample."))


@dataclass(frozen=True)
class ClassGradient:
    """A `Slope`: the gradient by x of log p(y | x, t), which a function of the module computes."""

    log_probability: str

    def __call__(self, b: Builder, x: Var, time: Var, operands: Mapping[str, Var], scale: Var) -> Var:
        _, slope = b.gradient(self.log_probability, "", [x, time, operands["y"]], out="log_probability slope")
        column = b.reshape(scale, shape=(scale.shape[0], *(1,) * (x.type.rank - 1)), out="scale")
        return b.mul(slope, column, out="slope")  # type: ignore[no-any-return]
