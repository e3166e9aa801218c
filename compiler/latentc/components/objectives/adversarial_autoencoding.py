"""Training of autoencoders against a discriminator: VQGAN.

Not `autoencoding`: two players, and a weight of the adversarial term that gradients decide. Symbols: B batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Draw, Need, Network, Update
from latentc.components.kit import call
from latentc.components.objective import Objective
from latentc.components.objectives._common import noise_inputs
from latentc.components.parts import Problem
from latentc.ir.builder import Builder, ModuleBuilder, Var

if TYPE_CHECKING:
    from latentc.spec.schema import Spec

DISCRIMINATOR, PERCEPTUAL = "discriminator", "perceptual"
EPS, MOST = 1e-4, 1e4
"""What is added to the gradient that the weight is divided by, and the largest weight."""


class AdversarialAutoencoding(Objective):
    """Reconstruction and perceptual error, the penalty on codes, and a discriminator (VQGAN, arXiv:2012.09841).

    `main` against `discriminator`. The adversarial term is weighted by the ratio of the gradients of both errors with
    respect to the decoder's last convolution. The network `perceptual`, if there is one, compares reconstruction and
    image.
    """

    kind: Literal["adversarial_autoencoding"]
    reconstruction: Literal["l1", "l2"] = Field("l1", description="absolute or squared error, averaged over pixels")
    perceptual: float = Field(1.0, ge=0, description="weight of the perceptual distance")
    penalty: float = Field(1.0, ge=0, description="weight of the bottleneck's penalty")
    adversarial: float = Field(0.8, ge=0, description="weight of the adversarial term, beside the ratio of gradients")
    loss: Literal["hinge", "logistic"] = Field("hinge", description="loss of the discriminator")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "adversarial_autoencoding"}

    @property
    def reads_features(self) -> bool:
        return True

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        compares = (Need(PERCEPTUAL, "compare"),) if PERCEPTUAL in spec.networks else ()
        return (Need("main", "autoencode"), Need(DISCRIMINATOR, "discriminate"), *compares)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        network = spec.networks.get("main")
        if network is not None and getattr(network, "output_kernel", None) is None:
            message = f"a `{network.kind}` does not say what its last convolution maps to images"
            yield Problem((), message, "use the network `autoencoder`, or the objective `autoencoding`")

    def trained(self, spec: Spec) -> tuple[str, ...]:
        return "main", DISCRIMINATOR

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        updates = self._of_autoencoder(mb, networks), self._of_discriminator(mb, networks)
        mb.entries |= {update.loss: update.loss for update in updates}
        return updates

    def _inputs(self, b: Builder, main: Network) -> tuple[Var, list[Var], tuple[Draw, ...]]:
        method = main.methods["regularized"]
        x = b.input("x", method.input("state").type)
        return x, *noise_inputs(b, method)

    def _of_autoencoder(self, mb: ModuleBuilder, networks: Mapping[str, Network]) -> Update:
        main, discriminator = networks["main"], networks[DISCRIMINATOR]
        error, score = self._error(mb, networks), self._score(mb, discriminator)
        b = mb.function("loss.autoencoder")
        x, noise, draws = self._inputs(b, main)
        names = "made features penalty"
        made, features, penalty = call(b, main, "regularized_features", {}, state=x, noise=noise, out=names)
        nll, to_nll = b.gradient(error, "", [made, x], out="error to_error")
        fooled, to_score = b.gradient(score, "", [made], out="fooled to_score")
        ratio = b.div(_gradient_norm(b, to_nll, features), _gradient_norm(b, to_score, features) + EPS)
        weight = b.stop_gradient(b.clamp(ratio, low=0.0, high=MOST) * self.adversarial, out="weight")
        of_codes = b.mean(penalty, axes=(0,), keepdims=False, out="of_codes")
        loss = b.add(nll + weight * fooled, of_codes * self.penalty, out="loss")
        b.output(loss, nll, of_codes, fooled, weight)
        b.finish("What the autoencoder minimises: the error, the penalty and the weighted adversarial term.")
        metrics = tuple(f"autoencoder/{n}" for n in ("loss", "error", "penalty", "adversarial", "weight"))
        return Update("loss.autoencoder", ("main",), ("x",), draws, metrics, "autoencoder")

    def _of_discriminator(self, mb: ModuleBuilder, networks: Mapping[str, Network]) -> Update:
        main, discriminator = networks["main"], networks[DISCRIMINATOR]
        b = mb.function("loss.discriminator")
        x, noise, draws = self._inputs(b, main)
        made, _ = call(b, main, "regularized", {}, state=x, noise=noise, out="made penalty")
        real = call(b, discriminator, "forward", {}, state=x, out="real")
        fake = call(b, discriminator, "forward", {}, state=b.stop_gradient(made, out="made"), out="fake")
        if self.loss == "hinge":
            terms = b.relu(1.0 - real), b.relu(fake + 1.0)
        else:
            terms = b.softplus(b.neg(real)), b.softplus(fake)
        both = [_mean(b, term, name) for term, name in zip(terms, ("of_real", "of_fake"), strict=True)]
        b.output(b.mul(both[0] + both[1], 0.5, out="loss"))
        b.finish(f"The {self.loss} loss of the discriminator.")
        return Update("loss.discriminator", (DISCRIMINATOR,), ("x",), draws, ("discriminator/loss",), DISCRIMINATOR)

    def _error(self, mb: ModuleBuilder, networks: Mapping[str, Network]) -> str:
        """A function (made, x) -> the mean error of reconstruction, f32[]."""
        b = mb.function("reconstruction_error")
        of = networks["main"].methods["regularized"].input("state").type
        made, x = b.input("made", of), b.input("x", of)
        difference = b.op("sub", made, x, out="difference")
        error = b.abs(difference) if self.reconstruction == "l1" else difference * difference
        total = _mean(b, error, "error")
        if PERCEPTUAL in networks and self.perceptual:
            distance = call(b, networks[PERCEPTUAL], "forward", {}, state=[made, x], out="distance")
            total = b.add(total, _mean(b, distance, "distance") * self.perceptual, out="error")
        b.output(total)
        return b.finish("The error of reconstruction, and the perceptual distance.")

    def _score(self, mb: ModuleBuilder, discriminator: Network) -> str:
        """A function made -> how far the discriminator is from taking it for data, f32[]."""
        b = mb.function("adversarial_error")
        made = b.input("made", discriminator.methods["forward"].input("state").type)
        score = call(b, discriminator, "forward", {}, state=made, out="score")
        b.output(b.neg(_mean(b, score, "mean"), out="fooled"))
        return b.finish("The adversarial error of what the autoencoder made.")


def _mean(b: Builder, x: Var, out: str) -> Var:
    return b.mean(x, axes=tuple(range(x.type.rank)), keepdims=False, out=out)  # type: ignore[no-any-return]


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
    return b.sqrt(squares, out="norm")  # type: ignore[no-any-return]


__all__ = ["AdversarialAutoencoding"]
