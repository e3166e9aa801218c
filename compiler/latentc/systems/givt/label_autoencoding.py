"""Training of autoencoders of labels per pixel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components.objectives.autoencoding import Autoencoding
from latentc.components.parts import Problem, Spec
from latentc.components.sums import summed
from latentc.ir.builder import Builder, Var


class LabelAutoencoding(Autoencoding):
    """`autoencoding` of labels per pixel, by the cross-entropy of the reconstruction as logits (GIVT's autoencoders for
    dense prediction, Tschannen et al. 2023, arXiv:2312.02116)."""

    kind: Literal["label_autoencoding"]  # type: ignore[assignment]
    reconstruction: Literal["cross_entropy"] = Field(  # type: ignore[assignment]
        "cross_entropy", description="cross-entropy of logits against `labels`, summed over the labels"
    )
    labels: tuple[Annotated[int, Field(gt=1, le=65_536)], ...] | None = Field(
        None,
        min_length=1,
        max_length=64,
        description="classes of each label of a pixel; the channels are their one-hot encodings, label after label; "
        "null: a single one",
    )
    unlabelled: bool = Field(False, description="ignore pixels whose label is the first class")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "label_autoencoding"}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if self.labels is not None and spec.data.shape is not None and sum(self.labels) != spec.data.shape[0]:
            message = (
                f"{' + '.join(map(str, self.labels))} label classes do not add up to the "
                f"{spec.data.shape[0]} channels of the data"
            )
            yield Problem(("labels",), message, "change `labels` or `data.shape`")

    def error(self, b: Builder, made: Var, x: Var) -> Var:
        start, errors = 0, []
        for classes in self.labels or (int(x.shape[1]),):  # type: ignore[arg-type]
            logits, label = (b.slice(v, axis=1, start=start, stop=start + classes) for v in (made, x))
            own = b.sum(label * b.log_softmax(logits, axis=1), axes=(1,), keepdims=False, out="likelihood")
            own, start = b.neg(own, out="error"), start + classes
            errors.append(self._labelled(b, own, label) if self.unlabelled else self.reduced(b, own))
        return summed(b, "error", errors)

    def _labelled(self, b: Builder, error: Var, label: Var) -> Var:
        """f32[B]: the mean or sum of an error [B, ...] over the pixels whose label is not the first class."""
        axes = tuple(range(1, error.type.rank))
        first = b.slice(label, axis=1, start=0, stop=1, out="first")
        counts = b.op("sub", 1.0, b.reshape(first, shape=error.shape), out="counts")
        total = b.sum(error * counts, axes=axes, keepdims=False, out="error")
        if self.reduction == "sum":
            return total
        count = b.maximum(b.sum(counts, axes=axes, keepdims=False), 1e-6, out="count")
        return b.div(total, count, out="error")
