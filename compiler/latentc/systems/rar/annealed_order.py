"""Next-token prediction in random orders that give way to raster order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Draw, Network, Update
from latentc.components.kit import Conditions, call, per_sample_mean
from latentc.components.objective import Objective
from latentc.components.objectives._common import publish, step_of, token_losses
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import ModuleBuilder, f32, i64
from latentc.ir.types import B, Named

Step = Annotated[int, Field(ge=0, le=100_000_000)]


class AnnealedOrder(Objective):
    """Cross-entropy of each token given those before it in an order drawn per sample, in nats per token (RAR, Yu et al.
    2024, arXiv:2411.00776).

    The order is random with a probability that falls from 1 to 0 during training, and raster order otherwise.
    """

    kind: Literal["annealed_order"]
    annealing: tuple[Step, Step] = Field(
        description="steps of training between which the probability of a random order falls linearly from 1 to 0"
    )
    NEEDS = "permuted_tokens"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "annealed_order", "annealing": [2, 4]}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        start, stop = self.annealing
        if start >= stop:
            message = f"the probability falls from step {start} to step {stop}, which is no later"
            yield Problem(("annealing",), message, "give [first step, last step] of the fall")

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        network, conditions = networks["main"], Conditions(spec, networks)
        assert spec.data.tokens is not None
        count = spec.data.tokens.length
        length = Named(count, "T")
        b = mb.function("loss.terms")
        tokens = b.input("tokens", i64(B, length))
        cond = conditions.dropped(b, conditions.operands(b, conditions.inputs(b, by_field=True)))
        permutation, u = b.input("permutation", i64(B, length)), b.input("u", f32(B))
        start, stop = self.annealing
        passed = b.op("sub", b.cast(step_of(b), to="f32"), float(start))
        random = b.op("sub", 1.0, passed * (1 / (stop - start)), out="random")  # its probability, beyond [0, 1] too
        raster = b.reshape(b.arange(count), shape=(1, length), out="raster")
        drawn = b.reshape(b.less(u, random), shape=(B, 1), out="drawn")
        order = b.where(drawn, permutation, raster, out="order")
        ordered = b.take_along(tokens, order, axis=1, out="ordered")
        known = b.slice(ordered, axis=1, start=0, stop=count - 1, out="known")
        logits = call(b, network, "permuted", cond, state=known, position=order, out="logits")
        b.output(per_sample_mean(b, token_losses(b, logits, ordered), out="loss"))
        b.finish("The cross-entropy of the tokens in nats per token, one value per sample.")
        draws = (*conditions.draws(), Draw("permutation", "permutation"), Draw("u", "uniform"))
        return publish(mb, ("loss",), ("tokens", *conditions.fields), draws, self.trained(spec))
