"""The variational bound of a diffusion that masks and replaces tokens, with contrastive terms: VQ-Diffusion and CDCD.

Symbols: B batch, T tokens of a sample, V categories, K negative samples, S steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Closed
from latentc.components.contract import Draw, Need, Network, Update
from latentc.components.kit import Conditions, call
from latentc.components.objective import Objective
from latentc.components.objectives._common import publish
from latentc.components.parts import Fraction, Problem, Spec
from latentc.components.sums import weighted_sum
from latentc.ir.builder import Builder, ModuleBuilder, Var, f32, i64
from latentc.ir.types import B, Named
from latentc.systems.cdcd.mask_and_replace_parts import MaskAndReplace


class Contrast(Closed):
    """A term that drives the prediction away from negative samples (CDCD, Zhu et al. 2022, arXiv:2206.07771)."""

    weight: float = Field(5e-5, ge=0, le=1e6, description="weight of the term")
    negatives: int = Field(10, gt=0, le=64, description="negative samples per sample (K)")
    source: Literal["shuffled", "data"] = Field(
        "shuffled",
        description="shuffled: the sample itself with its `chunks` permuted (intra); data: other samples, from the "
        "field `negatives` [K, T] (inter)",
    )
    chunks: int = Field(8, gt=1, le=4_096, description="shuffled: number of chunks that are permuted")
    mode: Literal["step", "sample"] = Field(
        "step", description="what is contrasted: the steps to the negative sample, or the predicted sample with it"
    )


class MaskAndReplaceLoss(Objective):
    """The variational bound's term at a random step, an auxiliary loss on the predicted sample (VQ-Diffusion, Gu et al.
    2022, arXiv:2111.14822) and contrastive terms, in nats per token.
    """

    kind: Literal["mask_and_replace"]
    steps: int = Field(100, gt=1, le=100_000, description="steps of the process (S)")
    kept: tuple[Fraction, Fraction] = Field(
        (0.99999, 0.000009),
        description="probability that a token is unchanged after the first step and after all steps",
    )
    masked: tuple[Fraction, Fraction] = Field(
        (0.000009, 0.99999), description="probability that it is masked after the first step and after all steps"
    )
    auxiliary: float = Field(5e-4, ge=0, le=1e6, description="weight of the auxiliary loss")
    adaptive: bool = Field(
        True, description="the auxiliary loss has more weight at early steps, contrastive ones at late steps"
    )
    importance: bool = Field(
        False,
        description="steps are drawn in proportion to the root of their mean squared loss so far, stored in the "
        "network, and weighted by the inverse (Nichol and Dhariwal 2021); false: uniformly",
    )
    mask_weights: tuple[float, float] = Field((1.0, 1.0), description="weights of masked and of other tokens")
    contrasts: tuple[Contrast, ...] = Field((), max_length=8, description="contrastive terms")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "mask_and_replace",
        "steps": 8,
        "contrasts": [{"negatives": 1, "chunks": 2}],
    }

    def diffusion(self, vocabulary: int) -> MaskAndReplace:
        """The process over a vocabulary."""
        return MaskAndReplace(vocabulary, self.steps, self.kept, self.masked)

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return (Need("main", "denoise_tokens", asks={"importance": self.importance}),)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        for key, (first, last) in (("kept", self.kept), ("masked", self.masked)):
            if (first < last) != (key == "masked"):
                yield Problem(
                    (key,),
                    f"`{key}` changes from {first:g} to {last:g}",
                    "over time `kept` must fall and `masked` must rise",
                )
        if any(k + m > 1 for k, m in zip(self.kept, self.masked, strict=True)):
            yield Problem(("kept",), "`kept` and `masked` add up to more than 1", "lower one of them")
        tokens = spec.data.tokens
        for i, term in enumerate(self.contrasts):
            if term.source == "data":
                field = spec.data.fields.get("negatives")
                wanted = (term.negatives, tokens.length if tokens else 0)
                if field is None or field.shape != wanted:
                    message = (
                        "negative samples come from the data field `negatives`, which is missing or has another shape"
                    )
                    yield Problem(("contrasts", i, "source"), message, f"declare it with shape {list(wanted)}")
            elif tokens is not None and tokens.length % term.chunks:
                message = f"{term.chunks} chunks do not divide {tokens.length} tokens"
                yield Problem(("contrasts", i, "chunks"), message)

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        network, conditions = networks["main"], Conditions(spec, networks)
        port = network.methods["forward"].input("state")
        length, vocabulary = Named(int(port.type.shape[1]), "T"), int(port.null or 0)  # type: ignore[arg-type]
        b = mb.function("loss.terms")
        tokens = b.input("tokens", i64(B, length))
        given = conditions.inputs(b, by_field=True)
        reads = any(term.source == "data" for term in self.contrasts)
        others = b.input("negatives", i64(B, self.contrasts[0].negatives, length)) if reads else None
        weight = None
        if self.importance:
            draws = [Draw("v", "uniform"), Draw("u", "uniform")]
            t, weight = call(b, network, "draw_steps", {}, noise=[b.input("v", f32(B))], out="t weight")
        else:
            draws = [Draw("t", "integers", {"high": self.steps}), Draw("u", "uniform")]
            t = b.input("t", i64(B))
        u = b.input("u", f32(B, length, vocabulary + 1))
        cond = conditions.dropped(b, conditions.operands(b, given))
        step = _Step(b, self, self.diffusion(vocabulary), tokens, t, u, int(length))
        time = b.cast(t, to="f32", out="time")
        step.predict(call(b, network, "forward", cond, state=step.x_t, time=time, out="logits"))
        progress = b.div(time, float(self.steps), out="progress")
        bound = step.compared(step.log_x, "step")
        if self.importance:
            bound = call(b, network, "note_losses", {}, state=bound, time=t, out="bound")
        terms: list[tuple[float, Var]] = [(float(self.steps), bound)]
        if self.auxiliary:
            of_sample = step.compared(step.log_x, "sample")
            of_sample = of_sample * (2.0 - progress) if self.adaptive else of_sample
            terms.append((self.steps * self.auxiliary, of_sample))
        for i, term in enumerate(self.contrasts):
            order = None
            if term.source == "shuffled":
                order = b.input(f"order_{i}", i64(B, term.negatives, term.chunks))
                draws.append(Draw(f"order_{i}", "permutation"))
            pushed = [step.compared(step.negative(term, k, order, others), term.mode) for k in range(term.negatives)]
            total = weighted_sum(b, "pushed", *((1.0, p) for p in pushed))
            total = total * (progress + 1.0) if self.adaptive else total
            terms.append((-self.steps * term.weight / term.negatives, total))
        loss = weighted_sum(b, "loss", *((factor / int(length), term) for factor, term in terms))
        bound = b.mul(bound, self.steps / int(length), out="bound")
        if weight is not None:
            loss, bound = b.mul(loss, weight, out="loss"), b.mul(bound, weight, out="bound")
        b.output(loss, bound)
        b.finish("The variational bound at a random step and the terms added to it, in nats per token.")
        every = (*draws, *conditions.drawn(), *conditions.draws())
        fields = ("tokens", *conditions.fields, *(("negatives",) if reads else ()))
        return publish(mb, ("loss", "bound"), fields, every, self.trained(spec))


class _Step:
    """One random step of a sample: x_t, the network's prediction, and its distances from other samples."""

    def __init__(
        self, b: Builder, config: MaskAndReplaceLoss, process: MaskAndReplace, x: Var, t: Var, u: Var, length: int
    ) -> None:
        self.b, self.process, self.x, self.t, self.length = b, process, x, t, length
        self.log_x = process.log_one_hot(b, x, "log_x")
        self.x_t = process.drawn(b, process.marginal(b, self.log_x, t), u, "x_t")
        at_first = b.equal(t, 0, out="at_first")
        self.first = b.cast(at_first, to="f32", out="first")
        masked, other = config.mask_weights
        self.weights = None
        if masked != 1.0 or other != 1.0:
            hidden = b.cast(b.equal(self.x_t, process.categories), to="f32", out="hidden")
            self.weights = b.add(hidden * (masked - other), other, out="weights")
        self.log_x0 = self.model = self.log_x

    def predict(self, logits: Var) -> None:
        """The network's x_0 and its step."""
        self.log_x0 = self.process.prediction(self.b, logits)
        self.model = self.process.posterior(self.b, self.log_x0, self.x_t, self.t, "log_model")

    def compared(self, log_other: Var, mode: str) -> Var:
        """f32[B]: the divergence of the prediction from a sample in nats; at the first step its negative likelihood."""
        b, known = self.b, self.process.categories
        if mode == "step":
            p, q = self.process.posterior(b, log_other, self.x_t, self.t, "log_true"), self.model
        else:
            p, q = (b.slice(v, axis=2, start=0, stop=known) for v in (log_other, self.log_x0))
        kl = b.sum(b.exp(p) * (p - q), axes=(2,), keepdims=False, out="kl")
        kl = kl if self.weights is None else kl * self.weights
        kl = b.sum(kl, axes=(1,), keepdims=False, out="kl")
        likelihood = b.exp(log_other) * self.model
        nll = b.neg(b.sum(likelihood, axes=(1, 2), keepdims=False), out="nll")
        return b.add(self.first * nll, (1.0 - self.first) * kl, out="divergence")

    def negative(self, term: Contrast, k: int, order: Var | None, others: Var | None) -> Var:
        """Log-probabilities of negative sample k."""
        b = self.b
        source = order if order is not None else others
        assert source is not None
        own = b.slice(source, axis=1, start=k, stop=k + 1)
        own = b.reshape(own, shape=(source.shape[0], source.shape[2]), out="own")
        if order is not None:
            size = self.length // term.chunks
            within = b.reshape(b.arange(size), shape=(1, 1, size))
            index = b.reshape(own * size, shape=(*own.shape, 1)) + within
            index = b.reshape(index, shape=(own.shape[0], self.x.shape[1]), out="index")
            own = b.take_along(self.x, index, axis=1, out="negative")
        return self.process.log_one_hot(b, own, "log_negative")
