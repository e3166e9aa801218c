"""OGEN's objective.

Symbols: B batch, D features, N neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Draw, Network, Update
from latentc.components.kit import call
from latentc.components.objective import Objective
from latentc.components.objectives._common import publish, step_of
from latentc.components.parts import Problem, Spec
from latentc.components.sums import weighted_sum
from latentc.ir.builder import Builder, ModuleBuilder, Var

PARTS = "logits same_logits around_logits beyond_logits near new same around beyond features"
"""Names of the outputs of `reconstruct`."""


class Ogen(Objective):
    """Generated features of known classes match real ones; real and generated features are classified.

    The loss is the squared distance of the feature generated for a sample's class from the sample's, plus that of the
    features generated for the neighbours of its class from theirs. After `warmup` steps the cross-entropy is added: of
    the sample, of the feature of its class and of those of its neighbours with weight 1/4 each, and of those of new
    classes with weight 1/2; the last two are divided by the number of neighbours (Zang et al. 2024, arXiv:2401.15914,
    by the authors' code).
    """

    kind: Literal["ogen"]
    warmup: int = Field(0, ge=0, le=1_000_000_000, description="first steps, without the cross-entropy")
    generated: float = Field(
        1.0, ge=0, description="weight of all terms with generated features; 0: cross-entropy of known classes alone"
    )
    NEEDS = "extrapolate_classes"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "ogen", "warmup": 1}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if "y" not in spec.data.fields:
            yield Problem((), "a classifier needs labels, but the data has none", "add `data.classes`")

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        network, b = networks["main"], mb.function("loss.terms")
        method = network.methods["reconstruct"]
        x, y, u = (b.input(port.name, port.type) for port in method.inputs)
        out = call(b, network, "reconstruct", {}, state=x, token=y, noise=u, out=PARTS)
        logits, of_same, of_around, of_beyond, near, new, same, around, _, features = out
        count = int(near.shape[1])
        length = b.sqrt(b.sum(x * x, axes=(1,), keepdims=True), out="length")
        difference = _distance(b, same, b.div(x, length, out="real"), "difference")
        others = b.mean(_distance(b, around, features, "others"), axes=(1,), keepdims=False, out="others")
        match = b.add(difference, others, out="match")
        entropy = b.cross_entropy(logits, y, out="entropy")
        of_made = b.cross_entropy(of_same, y) * 0.25 + _of_several(b, of_around, near) * (0.25 / count)
        of_made = b.add(of_made, _of_several(b, of_beyond, new) * (0.5 / count), out="of_made")
        classes = weighted_sum(b, "classes", (0.25, entropy), (self.generated, of_made))
        if self.warmup:
            begun = b.cast(b.less_equal(self.warmup, step_of(b)), to="f32", out="begun")
            classes = b.mul(classes, begun, out="classes")
        right = b.cast(b.equal(b.argmax(logits, axis=1), y), to="f32", out="accuracy")
        b.output(weighted_sum(b, "loss", (self.generated, match), (1.0, classes)), right, match)
        b.finish(
            "The loss, whether the label is right among known classes, and how far generated features are, per sample."
        )
        return publish(mb, ("loss", "accuracy", "match"), ("x", "y"), (Draw("u", "uniform"),))


def _distance(b: Builder, made: Var, real: Var, out: str) -> Var:
    """Squared distance over the last axis."""
    apart = b.op("sub", made, b.stop_gradient(real), out="apart")
    return b.sum(apart * apart, axes=(made.type.rank - 1,), keepdims=False, out=out)


def _of_several(b: Builder, logits: Var, labels: Var) -> Var:
    """f32[B]: the mean cross-entropy of labels i64[B, N] under logits f32[B, N, classes]."""
    batch, count = labels.shape
    rows = batch * count
    losses = b.cross_entropy(b.reshape(logits, shape=(rows, logits.shape[2])), b.reshape(labels, shape=(rows,)))
    return b.mean(b.reshape(losses, shape=(batch, count)), axes=(1,), keepdims=False)
