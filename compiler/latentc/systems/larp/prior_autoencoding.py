"""Training of a tokenizer beside a prior over its codes: LARP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Draw, Need, Network, Update
from latentc.components.kit import call
from latentc.components.kit.tokens import draw
from latentc.components.networks.query_autoencoder import QueryAutoencoder
from latentc.components.objectives._against_discriminator import (
    DISCRIMINATOR,
    AgainstDiscriminator,
    given_samples,
    seen_parts,
)
from latentc.components.objectives._common import risen
from latentc.components.parts import Fraction, Problem, Spec
from latentc.components.sums import summed
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.types import B, f32
from latentc.systems.larp.vector_transformer import VectorTransformer


class PriorAutoencoding(AgainstDiscriminator):
    """Reconstruction, a penalty on the codes, and the cross-entropy of each code given the previous ones, from `prior`.

    The last term's gradient also reaches the codes, which makes them easy to predict (LARP, Wang et al. 2024,
    arXiv:2410.21264, section 3.3). In every round but the first, the prior sees its own predictions of the previous
    round in a random share of the places (scheduled sampling). Networks `discriminator` and `perceptual`, if present,
    add an adversarial term and a perceptual distance.
    """

    kind: Literal["prior_autoencoding"]
    adversarial: float = Field(0.3, ge=0, description="weight of the adversarial term")
    penalty: float = Field(0.1, ge=0, description="weight of the penalty of the bottleneck")
    weight: float = Field(0.06, ge=0, description="weight of the prior's cross-entropy")
    rounds: int = Field(2, gt=0, le=16, description="number of evaluations of the prior")
    every_round: bool = Field(
        True,
        description="average the cross-entropy over the rounds; false: only that of the last round, which alone has "
        "gradients",
    )
    share: Fraction = Field(0.5, description="fraction of codes replaced by predicted ones")
    share_warmup: int = Field(
        0, ge=0, le=1_000_000_000, description="training steps over which that fraction rises linearly from 0"
    )
    temperature: float = Field(1.0, gt=0, le=1_024, description="temperature of the products of predictions and codes")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "prior_autoencoding"}

    def trained(self, spec: Spec) -> tuple[str, ...]:
        return ("main", "prior", *((DISCRIMINATOR,) if DISCRIMINATOR in spec.networks else ()))

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        opposed = (self.opposes(),) if DISCRIMINATOR in spec.networks else ()
        return (Need("main", "code_sequence"), Need("prior", "next_vector"), *opposed, *self.compares(spec))

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        main, prior = spec.networks.get("main"), spec.networks.get("prior")
        if not isinstance(main, QueryAutoencoder) or not isinstance(prior, VectorTransformer):
            return
        tokens, latent = main.token_count(spec), main.bottleneck.channels
        if prior.length != tokens:
            message = f"the prior models {prior.length} vectors, but a sample has {tokens} tokens"
            yield Problem((), message, f"set `networks.prior.length: {tokens}`")
        if prior.channels != latent:
            message = f"the prior models vectors of {prior.channels} channels, but latents have {latent}"
            yield Problem((), message, f"set `networks.prior.channels: {latent}`")

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        main, prior = networks["main"], networks["prior"]
        opposed = DISCRIMINATOR in networks
        reconstruction = self.error(mb, networks)
        score = self.score(mb, networks[DISCRIMINATOR]) if opposed else ""
        name = "autoencoder" if opposed else ""
        b = mb.function("loss.autoencoder" if opposed else "loss")
        x, noise, draws = given_samples(b, main, "regularized_codes")
        names = "reconstruction penalty z tokens"
        made, penalty, z, tokens = call(b, main, "regularized_codes", {}, state=x, noise=noise, out=names)
        error = b.call(reconstruction, "", made, x, out="error")
        penalty = b.mean(penalty, axes=(0,), keepdims=False, out="penalty")
        predicted = self._predicted(b, main, prior, z, tokens)
        total = b.add(b.add(error, penalty * self.penalty), predicted * self.weight, out="loss")
        shown = {"loss": total, "reconstruction": error, "penalty": penalty, "prior": predicted}
        if opposed:
            drawn, of_parts = seen_parts(b, networks[DISCRIMINATOR], "made")
            draws += of_parts
            shown["adversarial"] = fooled = b.call(score, "", made, *drawn, out="fooled")
            shown["loss"] = b.add(total, fooled * self.started(b, self.adversarial), out="loss")
        b.output(*shown.values())
        loss = b.finish("The loss, the error, the penalty on the codes, the prior's cross-entropy.")
        mb.entries[loss] = loss
        more = [Draw("replaced", "uniform")] if self.rounds > 1 else []
        more += [Draw(f"drawn_{i}", "uniform") for i in range(self.rounds - 1)]
        metrics = tuple(f"{name}/{key}" if name else key for key in shown)
        update = Update(loss, ("main", "prior"), ("x",), (*draws, *more), metrics, name)
        return (update, self.discriminator_update(mb, networks)) if opposed else (update,)

    def _share(self, b: Builder) -> float | Var:
        """The share of codes that are replaced, now."""
        if not self.share_warmup:
            return self.share
        return b.mul(risen(b, self.share_warmup), self.share, out="share")

    def _predicted(self, b: Builder, main: Network, prior: Network, z: Var, tokens: Var) -> Var:
        """The mean cross-entropy f32[] of the tokens i64[B, N] given the vectors z f32[B, N, Z] before each."""
        count = int(z.shape[1]) - 1
        target = b.slice(tokens, axis=1, start=1, stop=count + 1, out="target")
        given = own = b.slice(z, axis=1, start=0, stop=count, out="given")
        samples = self.rounds > 1 and count > 1
        replaced = b.less(b.input("replaced", f32(B, count)), self._share(b), out="which") if self.rounds > 1 else None
        terms: list[Var] = []
        for i in range(self.rounds):
            vectors = call(b, prior, "forward", {}, state=given, out="predicted")
            logits = call(b, main, "likeness", {}, features=vectors, out="logits")
            if self.temperature != 1.0:
                logits = b.op("mul", logits, 1 / self.temperature, out="logits")
            flat = b.reshape(logits, shape=(B * count, logits.shape[2]))
            losses = b.cross_entropy(flat, b.reshape(target, shape=(B * count,)))
            terms.append(b.mean(losses, axes=(0,), keepdims=False, out="term"))
            if replaced is None or i == self.rounds - 1:
                continue
            drawn = draw(b, b.stop_gradient(logits), b.input(f"drawn_{i}", f32(B, count)), out="drawn")
            made = call(b, main, "vectors", {}, token=drawn, out="made")
            if samples:  # all but the first, which is given
                first, rest = b.split(own, axis=1, sizes=(1, count - 1), out="first rest")
                made, _ = b.split(made, axis=1, sizes=(count - 1, 1), out="made last")
                which, _ = b.split(replaced, axis=1, sizes=(count - 1, 1), out="which last")
                which = b.reshape(which, shape=(B, count - 1, 1), out="which")
                given = b.concat(first, b.where(which, made, rest), axis=1, out="given")
        terms = terms if self.every_round else terms[-1:]
        return b.mul(summed(b, "prior", terms), 1 / len(terms), out="prior")
