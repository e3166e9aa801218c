"""Score implicit matching: a generator of one evaluation learns from the scores of a teacher and of its own samples.

Symbols: B batch; z noise, x0 = g(z) a sample of the generator, x_t the sample noised to time t; D(x_t) the data
that a denoiser predicts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone
from latentc.components.contract import Draw, Need, Network, Update
from latentc.components.kit import Conditions, Operands, call, first_channels, per_sample_mean
from latentc.components.objectives._distillation import TEACHER, Distillation, undropped_problems
from latentc.components.objectives.denoising import Noised, noised
from latentc.components.parts import Problem, Spec
from latentc.components.processes.prediction import conversion
from latentc.components.samplers.base import ArraySampler
from latentc.components.sums import weighted_sum
from latentc.ir.builder import Builder, ModuleBuilder, Var

ONLINE = "online"
"""Name of the network that learns the score of the generator's samples."""


class ScoreImplicitMatching(Distillation):
    """Distils a denoiser into a one-step generator without data (Luo et al. 2024, arXiv:2410.16794).

    `main` is the generator: the denoiser at the sampler's single time. Network `online` learns to denoise its samples;
    where the two denoisers differ by y, the generator's sample x0 is moved to lower d'(y) (x0 - D_online(x_t)), with d'
    the gradient of the pseudo-Huber distance sqrt(|y|^2 + c^2) - c. Its gradient is that of the distance between the
    scores, at every time (theorem 3.1).
    """

    kind: Literal["score_implicit_matching"]
    c: float = Field(0.01, gt=0, description="c of the pseudo-Huber distance, per square root of the dimension")
    scale: float = Field(1.0, ge=0, description="scale of the teacher's classifier-free guidance; 1: none")
    online_steps: int = Field(
        1, gt=0, le=64, description="optimiser steps of the online network per step of the generator"
    )
    NORMAL: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "score_implicit_matching"}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return *super().needs(spec), Need(ONLINE, "denoise")

    def trained(self, spec: Spec) -> tuple[str, ...]:
        return "main", ONLINE

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        sampler = spec.sampler
        if not isinstance(sampler, ArraySampler) or sampler.steps != 1:
            message = "the generator takes a single step, at the time that the sampler names"
            yield Problem((), message, "use a sampler of one step: `{kind: ddim, timesteps: [600]}`")
        if self.scale != 1.0:
            yield from undropped_problems(spec, "scale")
        online = spec.networks.get(ONLINE)
        if isinstance(online, Backbone) and online.copy_of is None and online.pretrained is None:
            message = f"network `{ONLINE}` starts from random weights, far from the score of the first samples"
            yield Problem((), message, f"use `networks.{ONLINE}: {{kind: like, copy_of: {TEACHER}}}`")

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        return self._of_online(mb, networks, spec), self._of_generator(mb, networks, spec)

    def _of_online(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Update:
        """The loss of the online network: denoising, with samples in place of data."""
        b, conditions = mb.function("loss.online"), Conditions(spec, networks)
        cond = conditions.operands(b, conditions.inputs(b, by_field=True))
        x0, z = self._generated(b, networks["main"], cond, spec)
        x0 = b.stop_gradient(x0, out="x0")
        at = noised(b, self.parameterization(), x0)
        out = _predicted(b, networks[ONLINE], cond, at, "prediction")
        error = b.op("sub", out, at.truth, out="error")
        b.output(b.mean(error * error, axes=tuple(range(error.type.rank)), keepdims=False, out="loss"))
        mb.entries["loss.online"] = b.finish(
            "The mean squared error of the online network on samples of the generator."
        )
        draws = (z, *conditions.drawn(), *at.draws)
        return Update("loss.online", (ONLINE,), conditions.fields, draws, ("online/loss",), ONLINE, self.online_steps)

    def _of_generator(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Update:
        """The loss of the generator; both denoisers are differentiated by x_t, and so by x0, but stay as they are."""
        b, conditions = mb.function("loss.generator"), Conditions(spec, networks)
        cond = conditions.operands(b, conditions.inputs(b, by_field=True))
        x0, z = self._generated(b, networks["main"], cond, spec)
        at = noised(b, self.parameterization(), x0)
        teacher = _predicted(b, networks[TEACHER], cond, at, "of_teacher")
        if self.scale != 1.0:
            without = _predicted(b, networks[TEACHER], conditions.null(b, cond), at, "without")
            teacher = weighted_sum(b, "guided", (self.scale, teacher), (1.0 - self.scale, without))
        online = at.data(_predicted(b, networks[ONLINE], cond, at, "of_online"), "online")
        y = b.op("sub", online, at.data(teacher, "teacher"), out="y")
        axes, count = tuple(range(1, y.type.rank)), prod(int(d) for d in y.shape[1:])
        length = b.sqrt(b.sum(y * y, axes=axes, keepdims=True) + self.c**2 * count, out="length")
        product = b.op("mul", y / length, x0 - online, out="product")
        distance = per_sample_mean(b, b.abs(y), out="distance")
        values = b.sum(product, axes=axes, keepdims=False, out="loss"), distance
        b.output(
            *(b.mean(v, axes=(0,), keepdims=False, out=n) for v, n in zip(values, ("loss", "distance"), strict=True))
        )
        mb.entries["loss.generator"] = b.finish("The generator's loss, then the mean distance of the two denoisers.")
        draws, metrics = (z, *conditions.drawn(), *at.draws), ("generator/loss", "generator/distance")
        return Update("loss.generator", ("main",), conditions.fields, draws, metrics, "generator")

    def _generated(self, b: Builder, generator: Network, cond: Operands, spec: Spec) -> tuple[Var, Draw]:
        """A sample x0 of the generator, and the draw of its noise."""
        assert isinstance(spec.sampler, ArraySampler)  # `problems` has looked
        target, state = self.parameterization(), generator.methods["forward"].input("state").type
        process, time = target.process, spec.sampler.grid(target).times[:1]
        start = process.point(time)
        (c_skip,), (c_out,) = conversion(target.predicts, "x0", start)
        z = b.input("z", state)
        x = weighted_sum(b, "prior", (process.prior_scale(float(time[0])), z))
        scaled = weighted_sum(b, "scaled", (float(start.scale[0]), x))
        t = b.full(z, shape=(), value=float(start.time[0]), dtype="f32", out="first")
        out = call(b, generator, "forward", cond, state=scaled, time=t, out="output")
        return weighted_sum(b, "x0", (float(c_skip), x), (float(c_out), first_channels(b, out, z))), Draw("z", "normal")


def _predicted(b: Builder, network: Network, cond: Operands, at: Noised, out: str) -> Var:
    """A denoiser's prediction at x_t, without a variance beside it."""
    return first_channels(b, call(b, network, "forward", cond, state=at.scaled, time=at.network_time, out=out), at.x_t)
