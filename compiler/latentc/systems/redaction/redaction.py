"""Redaction: the conditioning of some classes is distilled into that of another.

Symbols: B batch, D width, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import not_taken
from latentc.components.contract import Draw, Need, Network, Update
from latentc.components.kit import Conditions, Operands, call, per_sample_mean
from latentc.components.objectives._common import publish
from latentc.components.objectives._distillation import TEACHER, Distillation
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import ModuleBuilder, i64
from latentc.ir.types import B


class Redaction(Distillation):
    """Makes a trained network forget classes by distilling its conditioning network (Kong and Chaudhuri 2023,
    arXiv:2305.11351). The embedding of a redacted class is trained towards the teacher's embedding of the class
    `instead`, and those of all other classes towards the teacher's own. No other weight gets a gradient and no data
    is needed. Afterwards no sampler can draw the class, because the network never receives it.
    """

    kind: Literal["redaction"]
    classes: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = Field(
        min_length=1, max_length=65_536, description="the classes to redact, from 0"
    )
    instead: int | None = Field(None, ge=0, lt=2**31, description="class drawn instead; null: the null class")
    weight: float = Field(1.0, gt=0, description="weight of the error of redacted classes")
    DISTILS: ClassVar[bool] = False  # samplers guide as before
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "redaction", "classes": [1]}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        embeds = (Need(name, "embed_conditions") for name in ("main", TEACHER))
        return *super().needs(spec), *embeds

    def trained(self, spec: Spec) -> tuple[str, ...]:
        return ("main",)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        count, label = spec.data.classes or 0, spec.conditions.get("class")
        if label is None or not count:
            yield Problem(
                (), "the network takes no class, so there is none to redact", "add `conditioning.class: {kind: label}`"
            )
            return
        for network in ("main", TEACHER):
            yield from not_taken(spec, network, ("class",), "redaction")
        for i, number in enumerate(self.classes):
            if not 0 <= number < count:
                yield Problem(("classes", i), f"class {number} is out of range: the classes are 0 to {count - 1}")
        if self.instead is not None and (self.instead >= count or self.instead in self.classes):
            message = f"class {self.instead} is redacted or out of range, so it cannot replace the redacted classes"
            yield Problem(("instead",), message, f"choose a class from 0 to {count - 1} that is not redacted")
        if self.instead is None and not label.nullable:
            message = (
                "without `instead`, the null class replaces redacted classes, but the class is "
                "never dropped in training"
            )
            yield Problem(
                ("instead",),
                message,
                "set `instead` to a class, or set `dropout` to the value that the teacher was trained with",
            )

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        label, count = spec.conditions["class"], spec.data.classes or 0
        others = tuple(name for name, _ in Conditions(spec, networks).items() if name != "class")
        conditions = Conditions(spec, networks, others)
        b = mb.function("loss.terms")
        cond = conditions.operands(b, conditions.inputs(b, by_field=True))
        y = b.input("labels", i64(B))
        instead = b.scalar(count if self.instead is None else self.instead, y)
        taught, factor = y, b.constant(1.0, out="one")
        for number in self.classes:
            redacted = b.equal(y, number)
            taught = b.where(redacted, instead, taught, out="taught")
            factor = b.where(redacted, b.constant(self.weight), factor, out="factor")
        (port,) = label.ports("class", spec)

        def embedded(network: str, number: Any, out: str) -> Any:
            given = label.read(b, number, port.type)
            if port.type.is_float and label.nullable:  # one-hot, of which the null class may only be zeros
                none = b.reshape(b.equal(number, count), shape=(number.shape[0], 1))
                given = b.where(none, label.null_operands(b, "class", (given,), spec)[0], given, out=port.name)
            operands: Operands = {**cond, port.name: given}
            return call(b, networks[network], "embed", operands, out=out)

        error = b.op("sub", embedded("main", y, "student"), b.stop_gradient(embedded(TEACHER, taught, "wanted")))
        loss = per_sample_mean(b, error * error, out="mse")
        b.output(b.op("mul", factor, loss, out="loss"), loss)
        b.finish("The weighted squared error of the embedded class, and the mean squared error, one value per sample.")
        # This includes the null class, which must not change.
        draw = Draw("labels", "integers", {"high": count + label.nullable})
        (update,) = publish(mb, ("loss", "mse"), conditions.fields, (draw, *conditions.drawn()), self.trained(spec))
        return (replace(update, partial=True),)
