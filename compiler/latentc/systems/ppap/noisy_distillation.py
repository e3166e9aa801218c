"""Distillation of a network that looks at clean images into one that looks at noisy ones, for a range of noise.

It needs no labels.

Symbols: B batch, K classes; x0 the data, x_t the data noised to time t.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import OneOfThese
from latentc.components.backbone import Backbone
from latentc.components.contract import Need, Network, Update
from latentc.components.kit import Conditions, call, per_sample_mean
from latentc.components.objective import Objective
from latentc.components.objectives._common import publish
from latentc.components.objectives._distillation import TEACHER, teacher_problems
from latentc.components.objectives._range import noised_data, problems_of_range
from latentc.components.parts import Applies, Fraction, Problem, Spec
from latentc.components.processes.discrete import Discrete
from latentc.ir.builder import ModuleBuilder


class NoisyDistillation(Objective):
    """`main` learns from noisy images the frozen `teacher`'s prediction on the clean ones (PPAP, arXiv:2212.05973).

    Of classifiers, the loss is the KL divergence of the teacher's class probabilities, sharpened by `temperature`, from
    `main`'s, as a mean over the classes; of networks that see a map, the mean squared difference. The data may be
    samples of the diffusion model.
    """

    kind: Literal["noisy_distillation"]
    process: Annotated[Discrete, OneOfThese("processes", classes=(Discrete,))] = Field(
        Discrete(kind="discrete"), description="the forward process, from data to noise"
    )
    range: tuple[Fraction, Fraction] = Field(
        (0.0, 1.0), description="range of the timesteps to train on, from data (0) to noise (1)"
    )
    match: Literal["classes", "map"] = Field("classes", description="what `main` predicts as the teacher does")
    temperature: float = Field(0.25, gt=0, description="temperature of the teacher's logits")
    APPLIES: ClassVar[Applies] = {"temperature": ("match", ("classes",))}
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "noisy_distillation", "range": [0.0, 0.5]}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        if self.match == "map":
            return Need("main", "see_noisy"), Need(TEACHER, "see")
        return Need("main", "classify"), Need(TEACHER, "classify")

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from problems_of_range(self.process, self.range)
        yield from teacher_problems(spec)
        maps = [
            network.map_seen(spec) if isinstance(network := spec.networks.get(name), Backbone) else None
            for name in ("main", TEACHER)
        ]
        if self.match == "map" and None not in maps and maps[0] != maps[1]:
            message = f"`main` sees a map {list(maps[0] or ())}, but `{TEACHER}` one of {list(maps[1] or ())}"
            yield Problem(("match",), message, "give both networks the same `image` and `channels`")

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        network, teacher = networks["main"], networks[TEACHER]
        conditions = Conditions(spec, networks)
        b = mb.function("loss.terms")
        method = "see" if self.match == "map" else "forward"
        x0 = b.input("x", network.methods[method].input("state").type)
        cond = conditions.operands(b, conditions.inputs(b, by_field=True))
        at = noised_data(b, self.process, self.range, x0)
        clean = b.mul(at.network_time, 0.0, out="clean")
        taught = call(b, teacher, method, cond, state=x0, time=clean, out="taught")
        draws = (*at.draws, *conditions.drawn())
        if self.match == "map":
            seen = call(b, network, method, cond, state=at.x_t, time=at.network_time, out="seen")
            difference = b.op("sub", seen, b.stop_gradient(taught), out="difference")
            b.output(per_sample_mean(b, b.mul(difference, difference), out="loss"))
            b.finish("The mean squared difference from the teacher's map, one value per sample.")
            return publish(mb, ("loss",), ("x", *conditions.fields), draws)
        wanted = b.softmax(b.stop_gradient(b.mul(taught, 1.0 / self.temperature)), axis=-1, out="wanted")
        logits = call(b, network, method, cond, state=at.x_t, time=at.network_time, out="logits")
        ratio = b.op("sub", b.log(b.add(wanted, 1e-12)), b.log_softmax(logits, axis=-1), out="ratio")
        loss = b.mean(b.mul(wanted, ratio), axes=(1,), keepdims=False, out="loss")
        same = b.equal(b.argmax(logits, axis=1), b.argmax(taught, axis=1), out="same")
        b.output(loss, b.cast(same, to="f32", out="agreement"))
        b.finish("The divergence from the teacher, and whether the likeliest class is the same, one value per sample.")
        return publish(mb, ("loss", "agreement"), ("x", *conditions.fields), draws)
