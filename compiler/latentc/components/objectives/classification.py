"""Classification of data as it is, and what objectives that add to it share.

Symbols: B batch, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Network, Update
from latentc.components.kit import Conditions, Operands, call
from latentc.components.objective import Objective
from latentc.components.objectives._common import publish
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, ModuleBuilder, Var, f32, i64
from latentc.ir.types import B


@dataclass(frozen=True)
class Classified:
    """A batch under the network that is trained: samples x, conditions, labels i64[B], logits f32[B, K] and the
    cross-entropy f32[B].
    """

    x: Var
    conditions: Operands
    y: Var
    logits: Var
    loss: Var


class Classification(Objective):
    """Cross-entropy of the label, for a classifier without a time input.

    Of mixed images (`views` of the data) it is that of both labels, by their shares.
    """

    kind: Literal["classification"]
    smoothing: float = Field(0.0, ge=0, lt=1, description="label smoothing: probability spread evenly over all classes")
    NEEDS = "classify"
    LOSS: ClassVar[str] = "The cross-entropy of the label and whether it is right, one value per sample each."
    """Docstring of the emitted loss."""
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "classification"}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if "y" not in spec.data.fields:
            yield Problem((), "a classifier needs labels, but the data has none", "add `data.classes`")
        network = spec.networks.get("main")
        if network is not None and network.TIME:
            message = f"a {network.kind} takes a time, so it classifies noisy samples"
            yield Problem((), message, "use `{kind: noisy_classification}`")

    def completed(self, b: Builder, networks: Mapping[str, Network], seen: Classified) -> tuple[Var, dict[str, Var]]:
        """The loss f32[B], and further metrics f32[B] by name; by default the cross-entropy alone."""
        return seen.loss, {}

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        network, conditions = networks["main"], Conditions(spec, networks)
        b = mb.function("loss.terms")
        field = "x" if spec.data.tokens is None else "tokens"
        x = b.input(field, network.methods["forward"].input("state").type)
        given = conditions.inputs(b, by_field=True)
        y = given["y"] if "y" in given else b.input("y", i64(B))
        cond = conditions.dropped(b, conditions.operands(b, given))
        logits = call(b, network, "forward", cond, state=x, out="logits")
        loss = b.cross_entropy(logits, y, out="loss")
        mixed = [name for name in ("y_other", "y_share") if name in spec.data.drawn_fields]
        if mixed:
            other, share = b.input("y_other", i64(B)), b.input("y_share", f32(B))
            of_other = b.cross_entropy(logits, other, out="of_other")
            loss = b.op("add", loss * share, of_other * (1.0 - share), out="loss")
        if self.smoothing:
            every = b.mean(b.log_softmax(logits, axis=-1), axes=(1,), keepdims=False, out="every")
            loss = b.op("sub", loss * (1.0 - self.smoothing), every * self.smoothing, out="loss")
        right = b.cast(b.equal(b.argmax(logits, axis=1), y), to="f32", out="accuracy")
        loss, further = self.completed(b, networks, Classified(x, cond, y, logits, loss))
        b.output(loss, right, *further.values())
        b.finish(self.LOSS)
        fields = dict.fromkeys((field, *conditions.fields, "y", *mixed))
        return publish(mb, ("loss", "accuracy", *further), tuple(fields), conditions.draws())
