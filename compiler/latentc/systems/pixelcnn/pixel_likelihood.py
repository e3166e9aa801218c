"""Maximum likelihood of a network that gives the distribution of each pixel."""

from __future__ import annotations

from collections.abc import Mapping
from math import log, prod
from typing import Any, ClassVar, Literal

from latentc.components.contract import Network, Update
from latentc.components.kit import Conditions, call
from latentc.components.objective import Objective
from latentc.components.objectives._common import publish
from latentc.components.parts import Spec
from latentc.ir.builder import ModuleBuilder


class PixelLikelihood(Objective):
    """Negative log-likelihood of pixels, in nats per dimension; the metric `bits` is in bits per dimension."""

    kind: Literal["pixel_likelihood"]
    NEEDS = "pixels"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "pixel_likelihood"}

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        network, conditions = networks["main"], Conditions(spec, networks)
        b = mb.function("loss.terms")
        x = b.input("x", network.methods["log_prob"].input("state").type)
        cond = conditions.dropped(b, conditions.operands(b, conditions.inputs(b, by_field=True)))
        log_p = call(b, network, "log_prob", cond, state=x, out="log_p")
        loss = b.mul(log_p, -1 / prod(int(n) for n in x.shape[1:]), out="loss")
        b.output(loss, b.mul(loss, 1 / log(2), out="bits"))
        b.finish("The negative log-likelihood per dimension, one value per sample: in nats, and in bits.")
        draws = conditions.draws()
        return publish(mb, ("loss", "bits"), ("x", *conditions.fields), draws, self.trained(spec))
