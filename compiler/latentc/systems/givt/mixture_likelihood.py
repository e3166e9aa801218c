"""The negative log-likelihood of continuous tokens under the mixtures that a network predicts: GIVT's loss.

Symbols: B batch, T tokens of a sample, C channels of a token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Draw, Need, Network, Update
from latentc.components.kit import Conditions, call
from latentc.components.objective import Objective, not_frozen
from latentc.components.objectives._common import ShareSchedule, hidden_share, mean_of_counted, publish
from latentc.components.parts import Spec
from latentc.ir.builder import ModuleBuilder, f32, i64
from latentc.ir.types import B
from latentc.systems.givt.adaptors import adaptors, tokens_of
from latentc.systems.givt.mixtures_parts import Mixture


class MixtureLikelihood(Objective):
    """The negative log-likelihood in nats per token (GIVT, Tschannen et al. 2023, arXiv:2312.02116).

    For a masked network, a fraction `schedule`(v) of the tokens is hidden, with v uniform in [0, 1 - `least_masking`],
    and the loss covers those, all with equal weight in a batch.
    """

    kind: Literal["mixture_likelihood"]
    masked: bool = Field(False, description="the network predicts hidden tokens instead of the next one")
    schedule: ShareSchedule = Field(
        "cosine",
        description="distribution of the hidden fraction, as a function of a uniform v: 2/pi arccos(v), cos(pi v / "
        "2), 1 - v^3, 1 - v, 1 - v^2.5, 1 - sqrt(v) or 1 - v^2",
    )
    least_masking: float = Field(0.3, ge=0, lt=1, description="lower bound of the hidden fraction")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "mixture_likelihood"}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return (Need("main", "masked_mixtures" if self.masked else "next_mixture"),)

    def trained(self, spec: Spec) -> tuple[str, ...]:
        return (*super().trained(spec), *not_frozen(spec, *adaptors(spec)))

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        network, conditions = networks["main"], Conditions(spec, networks)
        main: Any = spec.networks["main"]
        mixture: Mixture = main.mixture
        assert spec.data.shape is not None
        length, channels = main.sequence(spec.data.shape)
        b = mb.function("loss.terms")
        x = b.input("x", f32(B, *spec.data.shape))
        given = conditions.inputs(b, by_field=True)
        draws: tuple[Draw, ...] = ()
        hidden = None
        tokens = tokens_of(b, networks, spec, x, main.patch)
        if self.masked:
            u, order = b.input("u", f32(B)), b.input("order", i64(B, length))
            draws = (Draw("u", "uniform"), Draw("order", "permutation"))
            share = hidden_share(b, self.schedule, b.mul(u, 1 - self.least_masking, out="v"))
            most = b.reshape(b.mul(share, float(length)), shape=(B, 1), out="most")
            hidden = b.cast(b.less(b.cast(b.argsort(order, out="rank"), to="f32"), most), to="f32", out="hidden")
        cond = conditions.dropped(b, conditions.operands(b, given))
        if hidden is None:
            prefix = b.slice(tokens, axis=1, start=0, stop=length - 1, out="given")
            raw = call(b, network, "forward", cond, state=prefix, out="mixtures")
        else:
            raw = call(b, network, "forward", cond, state=tokens, mask=hidden, out="mixtures")
        rows = B * length
        flat = b.reshape(raw, shape=(rows, raw.shape[2]), out="raw")
        found = mixture.log_density(b, flat, b.reshape(tokens, shape=(rows, channels)))
        found = b.reshape(found, shape=(B, length), out="log_likelihood")
        if hidden is None:
            b.output(b.neg(b.mean(found, axes=(1,), keepdims=False), out="loss"))
        else:
            b.output(mean_of_counted(b, b.neg(found), hidden))
        b.finish("The negative log-likelihood in nats per token, one value per sample.")
        return publish(mb, ("loss",), ("x", *conditions.fields), (*draws, *conditions.draws()), self.trained(spec))
