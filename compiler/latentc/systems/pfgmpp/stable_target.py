"""Diffusion with targets averaged over a batch: stable target fields.

Symbols: B batch; x0 the data, x_t the state at time t.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.condition import Condition, GivenInput
from latentc.components.contract import Network, Update
from latentc.components.kit import Conditions, Operands
from latentc.components.objectives.denoising import Noised
from latentc.components.objectives.denoising_terms._term import Denoised
from latentc.components.objectives.diffusion import Diffusion
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, ModuleBuilder, Var, f32
from latentc.ir.types import B, TensorType


class StableTarget(Diffusion):
    """The target is the mean of all data of the batch that may have led to x_t, weighted by likelihood, instead of the
    sample itself (stable target fields, Xu et al. 2023, arXiv:2302.00670). Larger batches reduce its variance."""

    kind: Literal["stable_target"]  # type: ignore[assignment]
    pool: Literal["batch", "class"] = Field(
        "batch",
        description="samples that are averaged: the whole batch, as in the authors' code even for conditional "
        "networks, so that the mean ignores the condition; or those of the sample's class, and the whole batch for "
        "samples whose class is dropped",
    )
    reference: int = Field(
        1,
        gt=0,
        le=1_024,
        description="batch size per trained sample; the network is trained on the first samples, and the others are "
        "only averaged",
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "stable_target", "process": {"kind": "edm"}}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if self.reference > 1:
            yield from self._problems_of_reference(spec)
        if self.learns_variance:
            message = (
                "the variational bound of a learned variance is defined for single samples, not for means over a batch"
            )
            yield Problem(("variance",), message, "choose another `variance`")
        if self.pool == "class":
            yield from self._problems_of_classes(spec)

    def _problems_of_classes(self, spec: Spec) -> Iterator[Problem]:
        """No means of classes, no class, or conditions besides."""
        labels = [name for name, condition in spec.conditions.items() if _is_class(condition, name, spec)]
        others = [*(name for name in spec.conditions if name not in labels), *labels[1:]]
        if others:
            message = f"targets are averaged over samples of one class, but there is also condition `{others[0]}`"
            yield Problem(("pool",), message, "keep the class as the only condition, or use `pool: batch`")
        if not labels:
            yield Problem(("pool",), "`pool: class` needs a class, but the network takes none", "use `pool: batch`")

    def _problems_of_reference(self, spec: Spec) -> Iterator[Problem]:
        """Samples that no mean reads, a batch that does not divide, terms of all samples."""
        batch, parts = spec.train.batch_size, spec.train.accumulate
        if batch % (parts * self.reference):
            each = "" if parts == 1 else f" in each of {parts} parts (`train.accumulate`)"
            message = (
                f"`reference` needs a batch that is a multiple of {self.reference} samples{each}, "
                f"but the batch has {batch}"
            )
            help = f"choose a `train.batch_size` that is a multiple of {parts * self.reference}"
            yield Problem(("reference",), message, help)
        for name in ("further", "sample_weight", "self_conditioning"):
            if getattr(self, name):
                yield Problem(
                    (name,),
                    "it needs fields of every sample, but reference samples are not trained on",
                    "leave it out, or leave out `reference`",
                )

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        b, conditions, times = mb.function("loss.terms"), Conditions(spec, networks), self.reference
        state = networks["main"].methods["forward"].input("state").type
        x = b.input("x", f32(times * B, *state.shape[1:]))
        for name, kept in conditions.stored.items() if times > 1 else ():
            if b.given(name) is None:
                b.input(name, TensorType(kept.dtype, (times * B, *kept.shape[1:])))
        fields = conditions.inputs(b, by_field=True)
        given = self._trained_on(b, x), {name: self._trained_on(b, v) for name, v in fields.items()}
        denoised = self.denoised(b, networks, spec, given)
        denoised = replace(denoised, at=self._averaged(denoised, x, fields))
        updates = self.published(mb, denoised, self.loss(denoised.at, denoised.prediction), spec)
        return tuple(replace(update, reference=times) for update in updates)

    def _trained_on(self, b: Builder, v: Var) -> Var:
        """The first of `reference` equal parts of v; all of v if it was drawn for these alone."""
        if v.shape[0] == B:
            return v
        sizes = (B, (self.reference - 1) * B)
        return b.split(v, axis=0, sizes=sizes, out=f"{v.value.name} others")[0]

    def _averaged(self, denoised: Denoised, x: Var, fields: Operands) -> Noised:
        """The trained samples with means of x as their data; x and the fields are of the whole batch."""
        b, at = denoised.b, denoised.at
        alpha, sigma = at.point.alpha, at.point.sigma
        still = isinstance(alpha, float) and alpha == 1.0
        kernel = at.target.process.kernel([int(size) for size in x.shape[1:]])
        level = b.reshape(sigma if still else sigma / alpha, shape=(at.x_t.shape[0],), out="level")
        read = fields.values() if self.pool == "class" else ()
        labels = [b.argmax(y, axis=1, out="label") if y.type.is_float else y for y in read]  # of one-hot ones
        operands = (at.x_t if still else at.x_t / alpha, x, level)
        extra = {} if kernel is None else {"extra": kernel.extra}
        mean = b.posterior_mean(*operands, *labels, **extra, out="mean")
        for gone in denoised.dropped if labels else ():
            column = b.reshape(gone, shape=(gone.shape[0], *(1 for _ in x.shape[1:])))
            mean = b.where(column, b.posterior_mean(*operands, **extra, out="mean_of_all"), mean, out="mean")
        noise = b.div(at.x_t - (mean if still else alpha * mean), sigma, out="noise")
        return replace(at, x0=mean, noise=noise)


def _is_class(condition: Condition, name: str, spec: Spec) -> bool:
    """Whether a condition is one of the data's labels."""
    inputs = condition.inputs(name, spec)
    fields = [spec.data.fields.get(given.field) for given in inputs if isinstance(given, GivenInput)]
    return len(fields) == len(inputs) and all(
        field is not None and bool(field.classes) and not field.shape for field in fields
    )
