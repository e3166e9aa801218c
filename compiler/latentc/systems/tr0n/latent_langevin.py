"""A generator's sample for a condition that only a frozen network of images knows: translated, then refined.

Symbols: B batch, E size of the condition, M Gaussians, N steps, Z dimension of the latent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components import Steps
from latentc.components.contract import Need, Network, Program
from latentc.components.kit import Conditions, call
from latentc.components.parts import Problem, Spec
from latentc.components.sampler import Sampler
from latentc.ir.builder import Builder, ModuleBuilder, Var, f32
from latentc.ir.types import B
from latentc.systems.tr0n.latents import energy, observer_need, observer_problems
from latentc_runtime.sources import RandomSource, Source

BETAS, EPS, TINY = (0.9, 0.999), 1e-8, 1e-6
"""Adam's, and what clipping adds to the norm that it divides by."""


class LatentLangevin(Sampler):
    """Langevin steps on the latent that `translator` gives a condition (TR0N, Liu et al. 2023, arXiv:2304.13742).

    The latent is the mean of the translator's Gaussians under their weights. Each step moves the Gaussians' means down
    the gradient of the energy, with momentum and noise, and the logits of the weights by Adam. The energy is the
    cross-entropy of the class by the network `observer`, or minus the cosine of encodings.
    """

    kind: Literal["latent_langevin"]
    steps: Steps = Field(100, description="number of Langevin steps (N)")
    observer: str = Field("observer", description="one of `networks`: a frozen classifier or encoder of images")
    step_size: float = Field(5.0, gt=0, le=1e6, description="step of the means")
    momentum: float = Field(0.99, ge=0, lt=1, description="share of the last step of the means that is kept")
    noise: float = Field(0.01, ge=0, le=1e3, description="standard deviation of the noise of a step of the means")
    weight_step: float = Field(5e-3, gt=0, le=1e3, description="step of the logits of the weights")
    bound: float | None = Field(2.0, gt=0, description="means are clamped to this magnitude; null: unbounded")
    max_norm: float = Field(1.0, gt=0, description="norm to which a larger gradient of a sample is clipped")
    guidance: None = Field(None, description="always null: the energy guides")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "latent_langevin", "steps": 3}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return Need("main", "generate"), Need("translator", "translate"), observer_need(self.observer, spec)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from observer_problems(self.observer, spec)

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `sample.N`: the condition and noise [N, B, M, Z] -> one sample each."""
        translator, conditions = networks["translator"], Conditions(spec, {"translator": networks["translator"]})
        (port,) = translator.methods["forward"].inputs
        means_type = translator.methods["forward"].outputs[1].type
        energy_of = self._energy(mb, networks)
        entry = f"sample.{self.steps}"
        b = mb.function(entry)
        noise = b.input("noise", f32(self.steps, B, *means_type.shape[1:]))
        cond = conditions.operands(b, conditions.inputs(b))
        wanted = cond[port.name]
        logits, means = call(b, translator, "forward", cond, out="logits means")
        column = b.reshape(logits, shape=(*logits.shape, 1))
        logits = b.broadcast_to(column, means, shape=means.shape, out="logits")  # their weights, per dimension
        zeros = b.mul(means, 0.0, out="zeros")
        counts = np.arange(1, self.steps + 1)
        # Of Adam's averages, which start at 0.
        columns = [b.constant(1 / (1 - beta**counts), out=f"unbiased_{i}") for i, beta in enumerate(BETAS)]

        def body(
            inner: Builder, i: Var, kept: tuple[Var, ...], carried: tuple[Var, ...], rows: tuple[Var, ...]
        ) -> tuple[tuple[Var, ...], tuple[Var, ...]]:
            means, logits, speed, first, second = carried
            *unbiased, z = rows
            _, to_means, to_logits = inner.gradient(
                energy_of, "", [means, logits, kept[0]], wrt=(0, 1), out="energy to_means to_logits"
            )
            to_means, to_logits = (self._clipped(inner, x) for x in (to_means, to_logits))
            speed = inner.add(speed * self.momentum, to_means, out="speed")
            means = inner.op("sub", means, speed * self.step_size, out="means")
            if self.noise:
                means = inner.add(means, z * self.noise, out="means")
            if self.bound is not None:
                means = inner.clamp(means, low=-self.bound, high=self.bound, out="means")
            first = inner.add(first * BETAS[0], to_logits * (1 - BETAS[0]), out="first")
            second = inner.add(second * BETAS[1], to_logits * to_logits * (1 - BETAS[1]), out="second")
            scale = inner.sqrt(second * unbiased[1]) + EPS
            logits = inner.op("sub", logits, inner.div(first * unbiased[0], scale) * self.weight_step, out="logits")
            return (means, logits, speed, first, second), ()

        names = ["means", "logits", "speed", "first", "second", "unbiased_0", "unbiased_1", "noise"]
        carried = [means, logits, zeros, zeros, zeros]
        tables = [*columns, noise]
        found = b.loop(
            f"{entry}.langevin", self.steps, body, invariants=[wanted], carried=carried, tables=tables, names=names
        )
        z = _latent(b, *found[:2])
        b.output(call(b, networks["main"], "forward", {}, noise=z, out="x"))
        mb.entries[entry] = b.finish(
            doc=f"{self.steps} Langevin steps on the latent of the translator, then the sample."
        )
        sources: dict[str, Source] = {"noise": RandomSource("normal", "noise", self.steps), **conditions.sources()}
        return Program(entry, self.kind, self.steps, self.steps + 1, sources)

    def _energy(self, mb: ModuleBuilder, networks: Mapping[str, Network]) -> str:
        """A function of means and logits f32[B, M, Z] and the condition f32[B, E] -> the energy f32[B]."""
        forward = networks["translator"].methods["forward"]
        b = mb.function("energy")
        means, logits = b.input("means", forward.outputs[1].type), b.input("logits", forward.outputs[1].type)
        wanted = b.input("wanted", forward.inputs[0].type)
        images = call(b, networks["main"], "forward", {}, noise=_latent(b, means, logits), out="images")
        b.output(energy(b, networks[self.observer], images, wanted))
        return b.finish("How far the sample of a latent is from the condition.")

    def _clipped(self, b: Builder, gradient: Var) -> Var:
        """The gradient f32[B, M, Z] of each sample, of at most the norm `max_norm`."""
        norm = b.sqrt(b.sum(gradient * gradient, axes=(1, 2), keepdims=True))
        factor = b.minimum(b.div(self.max_norm, norm + TINY), 1.0, out="factor")
        return b.mul(gradient, factor, out=gradient.value.name)


def _latent(b: Builder, means: Var, logits: Var) -> Var:
    """f32[B, Z]: the mean of Gaussians f32[B, M, Z] under the softmax of logits f32[B, M, Z] over M."""
    return b.sum(b.softmax(logits, axis=1) * means, axes=(1,), keepdims=False, out="z")
