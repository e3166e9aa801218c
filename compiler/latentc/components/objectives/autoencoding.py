"""Training of autoencoders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import reduce
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Need, Network, Update
from latentc.components.kit import call
from latentc.components.objectives._common import noise_inputs, told_step
from latentc.components.objectives._reconstruction import Reconstruction
from latentc.components.parts import Problem
from latentc.ir.builder import Builder, ModuleBuilder, Var

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class Autoencoding(Reconstruction):
    """Reconstruction error plus a penalty on the codes: KL divergence, or codebook and commitment losses.

    A network `perceptual`, if there is one, compares reconstruction and image. Adversarial terms:
    `adversarial_autoencoding`.
    """

    kind: Literal["autoencoding"]
    reconstruction: Literal["l1", "l2", "huber", "binary_cross_entropy", "cross_entropy"] = Field(
        "l1",
        description="absolute, squared or Huber error (absolute, but squared near 0), or cross-entropy of logits "
        "against values from 0 to 1, or against `labels`, summed over the labels",
    )
    labels: tuple[Annotated[int, Field(gt=1, le=65_536)], ...] | None = Field(
        None,
        min_length=1,
        max_length=64,
        description="classes of each label of a pixel; the channels are their one-hot encodings, label after label; "
        "null: a single one",
    )
    unlabelled: bool = Field(False, description="ignore pixels whose label is the first class")
    reduction: Literal["mean", "sum"] = Field("mean", description="reduction of the error over the values of a sample")
    weight: float = Field(1.0, ge=0, description="weight of the bottleneck's penalty")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "autoencoding"}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return (Need("main", "autoencode"), *self.compares(spec))

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if self.reconstruction != "cross_entropy":
            for name in ("labels", "unlabelled"):
                if getattr(self, name):
                    message = f"`{name}` needs `reconstruction: cross_entropy`, but it is `{self.reconstruction}`"
                    yield Problem((name,), message, "leave it out, or change `reconstruction`")
        elif self.labels is not None and spec.data.shape is not None and sum(self.labels) != spec.data.shape[0]:
            message = (
                f"{' + '.join(map(str, self.labels))} label classes do not add up to the "
                f"{spec.data.shape[0]} channels of the data"
            )
            yield Problem(("labels",), message, "change `labels` or `data.shape`")

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        network = networks["main"]
        method = network.methods["regularized"]
        b = mb.function("loss")
        x = b.input("x", method.input("state").type)
        noise, draws = noise_inputs(b, method)
        step = told_step(b, method)
        made, penalty = call(b, network, "regularized", {}, state=x, noise=noise, **step, out="reconstruction penalty")
        if self.reconstruction == "cross_entropy":
            error = self._of_labels(b, made, x)
        else:
            logits = self.reconstruction == "binary_cross_entropy"
            error = b.softplus(made, out="softplus") - made * x if logits else self.of_pixels(b, made - x)
            mean_or_sum = b.mean if self.reduction == "mean" else b.sum
            error = mean_or_sum(error, axes=tuple(range(1, x.type.rank)), keepdims=False, out="error")
        means = [b.mean(term, axes=(0,), keepdims=False, out=f"mean_{n}") for n, term in (("e", error), ("p", penalty))]
        means[0] = self.whole(b, networks, means[0], made, x)
        b.output(b.add(means[0], means[1] * self.weight, out="loss"), *means)
        mb.entries["loss"] = b.finish("The loss, the reconstruction error and the penalty on the codes.")
        return (Update("loss", ("main",), ("x",), draws, ("loss", "reconstruction", "penalty")),)

    def _of_labels(self, b: Builder, made: Var, x: Var) -> Var:
        """f32[B]: the sum over labels of the mean, or sum, over the pixels that count."""
        axes, start, errors = tuple(range(1, x.type.rank - 1)), 0, []
        for classes in self.labels or (int(x.shape[1]),):
            logits, label = (b.slice(v, axis=1, start=start, stop=start + classes) for v in (made, x))
            own = b.sum(label * b.log_softmax(logits, axis=1), axes=(1,), keepdims=False, out="likelihood")
            own, start = b.neg(own, out="error"), start + classes
            if self.unlabelled:
                first = b.slice(label, axis=1, start=0, stop=1, out="first")
                counts = b.op("sub", 1.0, b.reshape(first, shape=own.shape), out="counts")
                own = b.sum(own * counts, axes=axes, keepdims=False, out="error")
                if self.reduction == "mean":
                    count = b.maximum(b.sum(counts, axes=axes, keepdims=False), 1e-6, out="count")
                    own = b.div(own, count, out="error")
            else:
                own = (b.mean if self.reduction == "mean" else b.sum)(own, axes=axes, keepdims=False, out="error")
            errors.append(own)
        return reduce(lambda total, error: b.add(total, error, out="error"), errors)
