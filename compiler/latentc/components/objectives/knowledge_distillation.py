"""Knowledge distillation: a classifier learns from another's class probabilities, its features, and the labels.

Symbols: B batch, K classes, F features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone
from latentc.components.contract import Need, Network, Update
from latentc.components.kit import call
from latentc.components.objectives._distillation import TEACHER, teacher_problems
from latentc.components.objectives.classification import Classification, Classified
from latentc.components.parts import Problem, Spec
from latentc.components.sums import weighted_sum
from latentc.ir.builder import Builder, ModuleBuilder, Var


class KnowledgeDistillation(Classification):
    """`main` learns from the frozen `teacher` and from labels (Hinton et al. 2015, arXiv:1503.02531).

    The loss is the weighted sum of three terms: the cross-entropy of the label; the KL divergence of the teacher's
    class probabilities from `main`'s, both at `temperature` T, times T²; and the mean squared difference of their
    features, averaged over positions.
    """

    kind: Literal["knowledge_distillation"]  # type: ignore[assignment]
    temperature: float = Field(4.0, gt=0, description="temperature of both networks' logits")
    labels: float = Field(0.1, ge=0, description="weight of the cross-entropy of the label")
    logits: float = Field(0.9, ge=0, description="weight of the divergence from the teacher's class probabilities")
    features: float = Field(
        0.0, ge=0, description="weight of the mean squared difference from the teacher's features; 0: they are not read"
    )
    LOSS: ClassVar[str] = "The loss, whether the label is right, and the terms by the teacher, one value per sample."
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "knowledge_distillation", "features": 0.1}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        """`main` classifies; the teacher does if `logits` has a weight; both have features if `features` has one."""
        found = [Need("main", "classify")]
        found += [Need(TEACHER, "classify")] if self.logits else []
        return tuple(found + ([Need("main", "see"), Need(TEACHER, "see")] if self.features else []))

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        yield from teacher_problems(spec)
        teacher, main = spec.networks.get(TEACHER), spec.networks.get("main")
        if teacher is not None and teacher.TIME:
            message = f"the teacher, a {teacher.kind}, takes a time, so it classifies noisy samples"
            yield Problem((), message, "use a teacher without a time input")
        if not (self.logits or self.features):
            message = "nothing is learned from the teacher: `logits` and `features` are both 0"
            yield Problem(("logits",), message, "give one of them a weight, or use `{kind: classification}`")
        if self.features and isinstance(main, Backbone) and isinstance(teacher, Backbone):
            own, taught = main.features_seen(spec), teacher.features_seen(spec)
            if own != taught and None not in (own, taught):
                message = f"`main` has {own} features, but `{TEACHER}` has {taught}"
                yield Problem(("features",), message, "give both networks the same number, or leave `features` at 0")

    def completed(self, b: Builder, networks: Mapping[str, Network], seen: Classified) -> tuple[Var, dict[str, Var]]:
        teacher = networks[TEACHER]
        terms = [(self.labels, seen.loss)] if self.labels else []
        found: dict[str, Var] = {}
        if self.logits:
            taught = call(b, teacher, "forward", seen.conditions, state=seen.x, out="taught")
            found["divergence"] = self._divergence(b, seen.logits, b.stop_gradient(taught, out="taught"))
            terms.append((self.logits, found["divergence"]))
        if self.features:
            own = _pooled(b, call(b, networks["main"], "see", {}, state=seen.x, out="own"), "own")
            wanted = _pooled(b, call(b, teacher, "see", {}, state=seen.x, out="wanted"), "wanted")
            apart = b.op("sub", own, b.stop_gradient(wanted, out="wanted"), out="apart")
            found["difference"] = b.mean(apart * apart, axes=(1,), keepdims=False, out="difference")
            terms.append((self.features, found["difference"]))
        return weighted_sum(b, "loss", *terms), found

    def _divergence(self, b: Builder, logits: Var, taught: Var) -> Var:
        """T² KL(taught || logits) at temperature T: f32[B]."""
        wanted = b.log_softmax(taught * (1 / self.temperature), axis=-1, out="wanted")
        given = b.log_softmax(logits * (1 / self.temperature), axis=-1, out="given")
        product = b.mul(b.exp(wanted), wanted - given, out="product")
        return b.mul(b.sum(product, axes=(1,), keepdims=False), self.temperature**2, out="divergence")

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        updates = super().build(mb, networks, spec)
        # The last layer gets no gradient from features.
        return updates if self.labels or self.logits else tuple(replace(one, partial=True) for one in updates)


def _pooled(b: Builder, features: Var, name: str) -> Var:
    """Features f32[B, F] of those at positions [B, F, ...], averaged."""
    axes = tuple(range(2, features.type.rank))
    return b.mean(features, axes=axes, keepdims=False, out=name) if axes else features
