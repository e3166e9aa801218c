"""Alignment of an encoder of noisy images with one of clean images; it needs no labels and no texts.

Symbols: B batch, F features; x0 the data, x_t the data noised to time t.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import OneOfThese
from latentc.components.backbone import Backbone
from latentc.components.contract import Need, Network, Update
from latentc.components.kit import call
from latentc.components.objective import Objective
from latentc.components.objectives._common import publish
from latentc.components.objectives._distillation import TEACHER, teacher_problems
from latentc.components.objectives._range import noised_data, problems_of_range
from latentc.components.parts import Fraction, Problem, Spec
from latentc.components.processes.discrete import Discrete
from latentc.ir.builder import Builder, ModuleBuilder, Var


class NoisyAlignment(Objective):
    """`main` finds, from a noisy image and its time, the features of the same clean image by the frozen `teacher` among
    those of the batch, and the reverse (SDG, Liu et al. 2021, arXiv:2112.05744, section 3.4): two cross-entropies of
    `scale` times the cosines. Several processes compare images of their own batches only.
    """

    kind: Literal["noisy_alignment"]
    process: Annotated[Discrete, OneOfThese("processes", classes=(Discrete,))] = Field(
        Discrete(kind="discrete"), description="the forward process, from data to noise"
    )
    range: tuple[Fraction, Fraction] = Field(
        (0.0, 1.0), description="range of the timesteps to train on, from data (0) to noise (1)"
    )
    scale: float = Field(100.0, gt=0, le=10_000, description="factor of the cosines (CLIP's logit scale)")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "noisy_alignment"}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return Need("main", "see_noisy"), Need(TEACHER, "see")

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from problems_of_range(self.process, self.range)
        yield from teacher_problems(spec)
        seen = {}
        for name in ("main", TEACHER):
            network = spec.networks.get(name)
            seen[name] = network.map_seen(spec) if isinstance(network, Backbone) else None
        for name, shape in seen.items():
            if shape is not None and len(shape) > 1:
                message = f"`{name}` returns features at positions, {list(shape)} per sample; one vector is compared"
                yield Problem((), message, "use a network that returns a vector, such as a `clip_resnet`")
        ours, theirs = seen["main"], seen[TEACHER]
        if ours and theirs and len(ours) == len(theirs) == 1 and ours != theirs:
            message = f"`main` returns {ours[0]} features and `{TEACHER}` {theirs[0]}"
            yield Problem((), message, "give both networks as many `features`")

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        network, teacher = networks["main"], networks[TEACHER]
        b = mb.function("loss.terms")
        x0 = b.input("x", network.methods["see"].input("state").type)
        at = noised_data(b, self.process, self.range, x0)
        wanted = b.stop_gradient(call(b, teacher, "see", {}, state=x0, out="wanted"))
        found = call(b, network, "see", {}, state=at.x_t, time=at.network_time, out="found")
        x, y = (_unit(b, features) for features in (found, wanted))
        logits = b.mul(b.matmul(x, b.transpose(y, perm=(1, 0))), self.scale, out="logits")
        same = b.mul(b.sum(b.mul(x, y), axes=(1,), keepdims=False), self.scale, out="same")
        costs = [b.op("sub", _log_sum(b, v), same, out="cost") for v in (logits, b.transpose(logits, perm=(1, 0)))]
        cosine = b.mul(same, 1 / self.scale, out="cosine")
        b.output(b.add(*costs, out="loss"), cosine)
        b.finish("Both cross-entropies, and the cosine of the features of an image, one value per sample.")
        return publish(mb, ("loss", "cosine"), ("x",), at.draws)


def _unit(b: Builder, x: Var) -> Var:
    """f32[B, F]: each row of x over its length."""
    return b.div(x, b.sqrt(b.sum(b.mul(x, x), axes=(1,), keepdims=True), out="length"), out="unit")


def _log_sum(b: Builder, x: Var) -> Var:
    """f32[B]: the logarithm of the sum of the exponentials of each row of x f32[B, B]."""
    highest = b.max(x, axes=(1,), keepdims=True, out="highest")
    total = b.sum(b.exp(b.op("sub", x, highest, out="below")), axes=(1,), keepdims=True, out="total")
    return b.reshape(b.add(b.log(total), highest), shape=(x.shape[0],), out="log_sum")
