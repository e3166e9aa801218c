"""Training of a language model that tells classes apart by the sequences it gives them: GeDi's discriminator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone, not_taken
from latentc.components.contract import Need, Network, Update
from latentc.components.kit import Conditions, call
from latentc.components.kit.calls import per_sample_mean
from latentc.components.kit.texts import counted
from latentc.components.objective import Objective
from latentc.components.objectives._common import publish, token_losses
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, ModuleBuilder, Var, i64
from latentc.ir.types import B, Named
from latentc.systems.gedi.class_language_model import next_class


class GenerativeDiscriminative(Objective):
    """lambda L_g + (1 - lambda) L_d (Krause et al. 2020, arXiv:2009.06367, equation 9).

    L_g is the cross-entropy of the tokens under their class, in nats per token, L_d that of the class by Bayes' rule
    from the cross-entropies under every one. Of texts that end, the tokens count up to the one that ends it.
    """

    kind: Literal["class_tokens"]
    network: str = Field("main", description="the trained network")
    generative: float = Field(0.6, ge=0, le=1, description="weight of the generative loss (lambda)")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "class_tokens"}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return (Need(self.network, "weigh_classes", place=("network",)),)

    def trained(self, spec: Spec) -> tuple[str, ...]:
        return (self.network,)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        field = spec.data.fields.get("y")
        if field is None or (field.classes or 0) < 2:
            yield Problem(
                (), "class_tokens needs at least two classes, but the data has fewer", "set `data.classes: 2`"
            )
        if "class" not in spec.conditions:
            yield Problem((), "class_tokens compares classes", "add `conditioning.class: {kind: label}`")
        yield from not_taken(spec, self.network, ("class",), "class_tokens", ("network",))
        network = spec.networks.get(self.network)
        for name, condition in network.takes(spec).items() if isinstance(network, Backbone) else ():
            if condition.dropout:
                message = f"class_tokens never drops a condition, but `{name}` has a dropout of {condition.dropout:g}"
                yield Problem((), message, f"set `conditioning.{name}.dropout: 0`")

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        network = networks[self.network]
        conditions = Conditions(spec, {self.network: network})
        forward = network.methods["forward"]
        count = int(forward.output("logits").type.shape[1])  # type: ignore[arg-type]
        length = Named(count, "T")
        b = mb.function("loss.terms")
        tokens = b.input("tokens", i64(B, length))
        cond = conditions.operands(b, conditions.inputs(b, by_field=True))
        given = b.slice(tokens, axis=1, start=0, stop=count - 1, out="given")

        def log_p(cond: Mapping[str, Var], out: str) -> Var:
            """Mean log-probability of the tokens, f32[B]."""
            logits = call(b, network, "forward", cond, state=given, out="logits")
            losses = token_losses(b, logits, tokens)
            return b.neg(mean_of_text(b, losses, tokens, spec.data.modelled.end), out=out)

        own, classes = log_p(cond, "own"), spec.data.classes
        others = [next_class(b, cond["y"], k, classes, "other_y") for k in range(1, classes)]
        scores = [own, *(log_p({**cond, "y": y}, "other") for y in others)]
        pair = b.concat(*(b.reshape(score, shape=(B, 1)) for score in scores), axis=1, out="scores")
        pair = call(b, network, "weigh", cond, state=pair, out="scores")
        first = b.reshape(b.slice(pair, axis=1, start=0, stop=1), shape=(B,))
        discriminative = b.op("sub", b.logsumexp(pair, axis=1), first, out="discriminative")
        generative = b.neg(own, out="generative")
        loss = b.add(generative * self.generative, discriminative * (1 - self.generative), out="loss")
        b.output(loss, generative, discriminative)
        b.finish("The loss and its parts: nats per token, and nats of the class; one value per sample.")
        names = ("loss", "generative", "discriminative")
        return publish(mb, names, ("tokens", *conditions.fields), conditions.drawn(), self.trained(spec))


def mean_of_text(b: Builder, losses: Var, tokens: Var, end: int | None) -> Var:
    """f32[B]: the mean of losses f32[B, T] over the tokens of each text."""
    counts = counted(b, tokens, end)
    if counts is None:
        return per_sample_mean(b, losses, out="loss")
    total = b.sum(losses * counts, axes=(1,), keepdims=False, out="total")
    return b.div(total, b.sum(counts, axes=(1,), keepdims=False), out="loss")
