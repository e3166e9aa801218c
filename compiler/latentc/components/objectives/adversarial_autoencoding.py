"""Training of autoencoders against a discriminator: VQGAN.

Not `autoencoding`: two players, and a weight of the adversarial term that gradients decide. Symbols: B batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Need, Network, Update
from latentc.components.kit import call
from latentc.components.objectives._against_discriminator import (
    DISCRIMINATOR,
    AgainstDiscriminator,
    given_samples,
    seen_parts,
)
from latentc.components.objectives._common import step_of, step_operand
from latentc.components.parts import Refusal, Spec
from latentc.ir.builder import Builder, ModuleBuilder, Var

EPS, MOST = 1e-4, 1e4
"""Added to the gradient norm that the weight is divided by; the largest weight."""


class AdversarialAutoencoding(AgainstDiscriminator):
    """Reconstruction and perceptual error, the penalty on codes, and a discriminator (VQGAN, arXiv:2012.09841).

    Trains `main` against `discriminator`. An `adaptive` adversarial term is weighted by the ratio of both errors'
    gradients with respect to the decoder's last convolution. The network `perceptual`, if there is one, compares
    reconstruction and image.
    """

    kind: Literal["adversarial_autoencoding"]
    penalty: float = Field(1.0, ge=0, description="weight of the bottleneck's penalty")
    adaptive: bool = Field(
        True,
        description="the adversarial term is also weighted by the ratio of gradients; false: only by `adversarial`",
    )
    entropy_boost: float = Field(
        0.0, ge=0, description="initially the bottleneck's entropy loss is weighted by 1 + this, decaying linearly"
    )
    entropy_steps: int = Field(2_000, gt=0, le=1_000_000_000, description="steps until the decay ends")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "adversarial_autoencoding"}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        asks = {"features": True} if self.adaptive else {}
        asks |= {"entropy_factor": True} if self.entropy_boost else {}
        return (Need("main", "autoencode", asks=asks), self.opposes(), *self.compares(spec))

    def trained(self, spec: Spec) -> tuple[str, ...]:
        return "main", DISCRIMINATOR

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        of_autoencoder = self._of_autoencoder(mb, networks)
        mb.entries[of_autoencoder.loss] = of_autoencoder.loss
        return of_autoencoder, self.discriminator_update(mb, networks)

    def _of_autoencoder(self, mb: ModuleBuilder, networks: Mapping[str, Network]) -> Update:
        main, discriminator = networks["main"], networks[DISCRIMINATOR]
        if self.adaptive and "regularized_features" not in main.methods:
            message = "`adaptive` weighs the adversarial term by gradients at the last convolution, which `main` lacks"
            raise Refusal(message, "set `adaptive: false`, or use the network `autoencoder`")
        if self.entropy_boost and not main.methods["regularized"].inputs_of("scale"):
            message = "`entropy_boost` scales the entropy terms of the bottleneck, but that of `main` has none"
            mend = "use the network `autoencoder` and set `bottleneck.entropy`"
            raise Refusal(message, mend, ("entropy_boost",))
        error, score = self.error(mb, networks), self.score(mb, discriminator)
        b = mb.function("loss.autoencoder")
        x, noise, draws = given_samples(b, main, "regularized")
        drawn, of_parts = seen_parts(b, discriminator, "made")
        factor = step_operand(b, main.methods["regularized"])
        if self.entropy_boost:
            left = 1.0 - b.cast(step_of(b), to="f32") * (1 / self.entropy_steps)
            factor |= {"scale": b.add(1.0, b.relu(left) * self.entropy_boost, out="factor")}
        if self.adaptive:
            names, method = "made features penalty", "regularized_features"
            made, features, penalty = call(b, main, method, {}, state=x, noise=noise, **factor, out=names)
            nll, to_nll = b.gradient(error, "", [made, x], out="error to_error")
            fooled, to_score = b.gradient(score, "", [made, *drawn], out="fooled to_score")
            ratio = b.div(_gradient_norm(b, to_nll, features), _gradient_norm(b, to_score, features) + EPS)
            weight = b.clamp(ratio, low=0.0, high=MOST) * self.adversarial
            weight = b.stop_gradient(self.started(b, weight), out="weight")
        else:
            made, penalty = call(b, main, "regularized", {}, state=x, noise=noise, **factor, out="made penalty")
            nll, fooled = b.call(error, "", made, x, out="error"), b.call(score, "", made, *drawn, out="fooled")
            weight = self.started(b, self.adversarial)
        of_codes = b.mean(penalty, axes=(0,), keepdims=False, out="of_codes")
        loss = b.add(nll + fooled * weight, of_codes * self.penalty, out="loss")
        shown = {"loss": loss, "error": nll, "penalty": of_codes, "adversarial": fooled}
        shown |= {"weight": weight} if isinstance(weight, Var) else {}
        b.output(*shown.values())
        b.finish("The loss of the autoencoder: the error, the penalty and the weighted adversarial term.")
        metrics = tuple(f"autoencoder/{name}" for name in shown)
        return Update("loss.autoencoder", ("main",), ("x",), (*draws, *of_parts), metrics, "autoencoder")


def _gradient_norm(b: Builder, to: Var, features: Var) -> Var:
    """f32[]: the length of the gradient by a convolution's 3 x 3 weight, given that by its output to [B, C, H, W].

    Element (o, i, k, l) of it is the sum over pixels of output o times input i that is (k - 1, l - 1) pixels away.
    """
    batch, channels, rows, columns = to.shape
    width = features.shape[1]
    padded = features
    for axis in (2, 3):
        padded = b.pad(padded, axis=axis, before=1, after=1, value=0.0, out="padded")
    outer = b.reshape(to, shape=(batch, channels, rows * columns), out="outer")
    squares: Var | None = None
    for k in range(3):
        for i in range(3):
            part = b.slice(b.slice(padded, axis=2, start=k, stop=rows + k), axis=3, start=i, stop=columns + i)
            part = b.transpose(b.reshape(part, shape=(batch, width, rows * columns)), perm=(0, 2, 1), out="part")
            slope = b.sum(b.matmul(outer, part), axes=(0,), keepdims=False, out="slope")
            square = b.sum(slope * slope, axes=(0, 1), keepdims=False)
            squares = square if squares is None else b.add(squares, square, out="squares")
    assert squares is not None
    return b.sqrt(squares, out="norm")
