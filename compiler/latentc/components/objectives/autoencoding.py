"""Training of autoencoders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Need, Network, Update
from latentc.components.kit import call
from latentc.components.objectives._common import noise_inputs, step_operand
from latentc.components.objectives._reconstruction import Reconstruction
from latentc.components.parts import Spec
from latentc.ir.builder import Builder, ModuleBuilder, Var


class Autoencoding(Reconstruction):
    """Reconstruction error plus a penalty on the codes: KL divergence, or codebook and commitment losses.

    A network `perceptual`, if there is one, compares reconstruction and image. Adversarial terms:
    `adversarial_autoencoding`.
    """

    kind: Literal["autoencoding"]
    reconstruction: Literal["l1", "l2", "huber", "binary_cross_entropy"] = Field(
        "l1",
        description="absolute, squared or Huber error (absolute, but squared near 0), or cross-entropy of logits "
        "against values from 0 to 1",
    )
    reduction: Literal["mean", "sum"] = Field("mean", description="reduction of the error over the values of a sample")
    weight: float = Field(1.0, ge=0, description="weight of the bottleneck's penalty")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "autoencoding"}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return (Need("main", "autoencode"), *self.compares(spec))

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        network = networks["main"]
        method = network.methods["regularized"]
        b = mb.function("loss")
        x = b.input("x", method.input("state").type)
        noise, draws = noise_inputs(b, method)
        step = step_operand(b, method)
        made, penalty = call(b, network, "regularized", {}, state=x, noise=noise, **step, out="reconstruction penalty")
        error = self.error(b, made, x)
        means = [b.mean(term, axes=(0,), keepdims=False, out=f"mean_{n}") for n, term in (("e", error), ("p", penalty))]
        means[0] = self.whole(b, networks, means[0], made, x)
        b.output(b.add(means[0], means[1] * self.weight, out="loss"), *means)
        mb.entries["loss"] = b.finish("The loss, the reconstruction error and the penalty on the codes.")
        return (Update("loss", ("main",), ("x",), draws, ("loss", "reconstruction", "penalty")),)

    def error(self, b: Builder, made: Var, x: Var) -> Var:
        """f32[B]: the error of the reconstruction `made` of x."""
        logits = self.reconstruction == "binary_cross_entropy"
        error = b.softplus(made, out="softplus") - made * x if logits else self.of_pixels(b, made - x)
        return self.reduced(b, error)

    def reduced(self, b: Builder, error: Var) -> Var:
        """f32[B]: the mean or sum of an error [B, ...]."""
        mean_or_sum = b.mean if self.reduction == "mean" else b.sum
        return mean_or_sum(error, axes=tuple(range(1, error.type.rank)), keepdims=False, out="error")
