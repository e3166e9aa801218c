"""Next-token prediction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.capabilities import TRAINING
from latentc.components.contract import Draw, Network, Update
from latentc.components.kit import Conditions, call, per_sample_mean
from latentc.components.kit.orders import in_reading_order
from latentc.components.kit.texts import counted
from latentc.components.kit.windows import cut, windows
from latentc.components.objective import Objective
from latentc.components.objectives._common import mean_of_counted, publish, smoothed, token_losses
from latentc.components.parts import Fraction, Spec
from latentc.ir.builder import ModuleBuilder, f32, i64
from latentc.ir.types import B, Named


class NextToken(Objective):
    """Cross-entropy of every token given the class and the previous tokens, in nats.

    Tokens count up to a text's end token, if it has one, all with equal weight in a batch, as in Hugging Face's
    transformers and fairseq. Tokens that a decoder repeats from its encoder's text also count.
    """

    kind: Literal["next_token"]
    keep: Fraction = Field(
        1.0,
        description="probability that a token is kept instead of replaced by a random one (taming transformers' "
        "`pkeep`)",
    )
    smoothing: Fraction = Field(0.0, description="label smoothing: weight of the uniform distribution in the target")
    NEEDS = "next_token"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "next_token"}

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        network, conditions = networks["main"], Conditions(spec, networks)
        forward = network.methods["forward"]
        count = int(forward.output("logits").type.shape[1])  # type: ignore[arg-type]
        length = Named(count, "T")
        assert spec.data.tokens is not None
        b = mb.function("loss.terms")
        tokens = b.input("tokens", i64(B, Named(spec.data.tokens.length, "T")))
        cond = conditions.dropped(b, conditions.operands(b, conditions.inputs(b, by_field=True)))
        draws = [*conditions.drawn(), *conditions.draws()]
        if count < spec.data.tokens.length:
            # The network sees a random window of the tokens, and of conditions of the same length.
            crops = windows(spec.data.tokens.grid, spec.networks["main"].window)  # type: ignore[attr-defined]
            where = b.take(b.constant(crops, out="crops"), b.input("corner", i64(B)), axis=0, out="where")
            draws.append(Draw("corner", "integers", {"high": len(crops)}))
            tokens = b.take_along(tokens, where, axis=1, out="tokens")
            cond = {k: cut(forward, k, x, lambda x: b.take_along(x, where, axis=1)) for k, x in cond.items()}
        seen = tokens = in_reading_order(b, network, tokens)
        if self.keep < 1.0:
            v, other = b.input("v", f32(B, length)), b.input("other", i64(B, length))
            seen = b.where(b.less(v, self.keep), tokens, other, out="seen")
            vocabulary = spec.data.tokens.vocabulary
            draws += [Draw("v", "uniform"), Draw("other", "integers", {"high": vocabulary})]
        prefix = b.slice(seen, axis=1, start=0, stop=count - 1, out="given")
        repeated = None
        if TRAINING in network.methods:
            logits, repeated = call(b, network, TRAINING, cond, state=prefix, out="logits repeated")
        else:
            logits = call(b, network, "forward", cond, state=prefix, out="logits")
        counts = counted(b, tokens, spec.data.modelled.end)
        if repeated is not None:
            tokens = b.concat(repeated, tokens, axis=1, out="tokens")
            ones = b.full(repeated, shape=repeated.shape[1:], value=1.0, dtype="f32")
            counts = None if counts is None else b.concat(ones, counts, axis=1, out="counts")
        losses = token_losses(b, logits, tokens)
        if self.smoothing:
            losses = smoothed(b, losses, logits, self.smoothing)
        b.output(per_sample_mean(b, losses, out="loss") if counts is None else mean_of_counted(b, losses, counts))
        b.finish("The cross-entropy of the tokens in nats per token, one value per sample.")
        return publish(mb, ("loss",), ("tokens", *conditions.fields), tuple(draws), self.trained(spec))
