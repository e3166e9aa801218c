"""Sharpness-aware minimisation of the loss of rare classes.

Symbols: B batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import OneOf
from latentc.components.contract import Need, Network, Update
from latentc.components.objective import GrowingGrids, Objective
from latentc.components.objectives._common import publish
from latentc.components.optimizer import Optimizer
from latentc.components.parts import Problem, Refusal, Spec
from latentc.ir.builder import Builder, ModuleBuilder, Var, i64
from latentc.ir.types import B

if TYPE_CHECKING:
    from latentc.components.processes.process import Parameterization

LABEL = "y"


class ImbalancedSharpness(Objective):
    """The loss of another objective, in which `sam` of the optimiser acts on the samples of `tail` classes alone.

    Weights climb by the gradient of the tail's part of the loss. The step takes the tail's gradient there, and the
    gradient of the other classes at the weights themselves (ImbSAM, Zhou et al. 2023, arXiv:2308.07815).
    """

    kind: Literal["imbsam"]
    of: Annotated[Objective, OneOf("objectives")] = Field(description="objective whose loss it is")
    tail: tuple[Annotated[int, Field(ge=0, lt=16_777_216)], ...] = Field(
        min_length=1, max_length=65_536, description="rare classes, as label numbers"
    )
    weight: float = Field(
        1.0,
        gt=0,
        description="factor of the loss of samples of the tail (2 in the authors' code, which the paper lacks)",
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "imbsam", "of": {"kind": "classification"}, "tail": [0]}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return tuple(replace(need, place=("of", *need.place)) for need in self.of.needs(spec))

    def trained(self, spec: Spec) -> tuple[str, ...]:
        return self.of.trained(spec)

    def parameterization(self) -> Parameterization | None:
        return self.of.parameterization()

    def out_channels(self, channels: int) -> int:
        return self.of.out_channels(channels)

    def growing(self, spec: Spec) -> GrowingGrids | None:
        return self.of.growing(spec)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if not spec.data.classes:
            yield Problem(("tail",), "rare classes need labels, but the data has none", "add `data.classes`")
        for i, label in enumerate(self.tail):
            if spec.data.classes and label >= spec.data.classes:
                message = f"class {label} is out of range: the data has classes 0 to {spec.data.classes - 1}"
                yield Problem(("tail", i), message)
        if self.of.DISTILS:
            message = f"`{self.of.kind}` learns from a teacher, not from labelled data"
            yield Problem(("of",), message, "use it without `imbsam`")
        for name in self.trained(spec):
            own = "optimizer" if name not in spec.train.optimizers else f"optimizers.{name}"
            optimizer = spec.train.optimizers.get(name, spec.train.optimizer)
            if isinstance(optimizer, Optimizer) and optimizer.sam is None:
                message = f"the optimiser of `{name}` has no radius to climb by"
                yield Problem((), message, f"set `train.{own}.sam: 0.05`")

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        updates = self.of.build(mb, networks, spec)
        if len(updates) != 1 or "loss.terms" not in mb.entries or updates[0].rollout is not None:
            message = f"`{self.of.kind}` has no single loss with one value per sample, which could be split by class"
            raise Refusal(message, "use it without `imbsam`", path=("of",))
        (update,) = updates
        terms = mb.functions[mb.entries["loss.terms"]]
        del mb.functions[mb.entries["loss"]]  # the means of the terms, to which the tail's is added
        b = mb.function("loss.with_tail")
        operands = [b.input(v.name, v.type) for v in terms.inputs]
        y = b.given(LABEL) or b.input(LABEL, i64(B))
        values = b.call(terms.name, "", *operands, out=" ".join(update.metrics))
        loss, *others = values if isinstance(values, tuple) else (values,)
        tail = b.mul(loss, self._of_tail(b, y), out="tail_loss")
        if self.weight != 1:
            whole = b.add(loss, tail * (self.weight - 1), out="loss")
            loss, tail = whole, b.mul(tail, self.weight, out="tail_loss")
        b.output(loss, *others, tail)
        b.finish("The loss of each sample, its other terms, then the part of it that samples of the tail have.")
        names = (*update.metrics, "tail_loss")
        (made,) = publish(mb, names, (*update.batch, LABEL), update.draws, update.networks)
        batch, metrics = made.batch, made.metrics
        return (replace(update, loss=made.loss, batch=batch, metrics=metrics, climbs=len(names) - 1),)

    def _of_tail(self, b: Builder, y: Var) -> Var:
        """f32[B]: 1 for labels y i64[B] of the tail, else 0."""
        classes = b.constant(sorted({*self.tail}), "i64", out="tail")
        same = b.equal(b.reshape(y, shape=(y.shape[0], 1)), b.reshape(classes, shape=(1, classes.shape[0])))
        return b.sum(b.cast(same, to="f32"), axes=(1,), keepdims=False, out="of_tail")
