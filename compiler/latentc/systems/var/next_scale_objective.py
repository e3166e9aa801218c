"""Next-scale prediction.

Symbols: B batch, K scales, L tokens of all scales.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components import Closed
from latentc.components.contract import Need, Network, Update
from latentc.components.kit import Conditions, call, per_sample_mean
from latentc.components.objective import Objective
from latentc.components.objectives._common import publish, smoothed, step_of, token_losses
from latentc.components.parts import Fraction, Problem, Spec
from latentc.ir.builder import Builder, ModuleBuilder, Var, i64
from latentc.ir.types import B
from latentc.systems.var.scale_transformer import ScaleTransformer


class Progression(Closed):
    """Training of the small scales first (VAR's code: `pg` of the steps of training, `pg0`, `pgwp`)."""

    first: int = Field(ge=0, le=63, description="last scale that is trained from the start, counted from 0")
    start: int = Field(0, ge=0, le=1_000_000_000, description="step from which further scales are added, evenly")
    stop: int = Field(gt=0, le=1_000_000_000, description="step from which all scales are trained")
    warmup: int = Field(
        1, gt=0, le=1_000_000_000, description="steps over which the weight of each scale but the last rises to 1"
    )

    def joins(self, scales: int) -> list[int]:
        """The step from which each scale is trained, counted from 0."""
        rest, span = scales - 1 - self.first, self.stop - self.start
        # Scale `first + n` joins where n is the rounded progress, halves to the even number.
        found = [0] * (self.first + 1)
        for n in range(1, rest + 1):
            step = self.start + max(int((n - 0.5) / rest * span) - 1, 0)
            while step < self.stop and round((step - self.start) / span * rest) < n:
                step += 1
            found.append(max(step, self.start + 1))
        return found

    def weights(self, b: Builder, step: Var, scales: int) -> Var:
        """f32[K]: how much the tokens of each scale count in a step of training, i64[]."""
        joins = self.joins(scales)
        # A scale counts fully if the next one has joined or it was there from the start, and so does the last.
        whole = [0] * (self.first + 1) + [*joins[self.first + 2 :], joins[-1]]
        at = b.cast(step, to="f32", out="at")
        first = b.constant(np.array(joins, np.float32), out="joins")
        risen = b.mul(b.op("sub", at, first) + 1.0, 1 / self.warmup, out="risen")
        risen = b.clamp(risen, low=0.01, high=1.0, out="risen")
        settled = b.cast(b.less_equal(b.constant(np.array(whole, np.float32), out="whole"), at), to="f32")
        begun = b.cast(b.less_equal(first, at), to="f32", out="begun")
        return b.mul(begun, b.maximum(risen, settled), out="weights")


class NextScale(Objective):
    """Cross-entropy of each scale's tokens given the previous scales (VAR, Tian et al. 2024), in nats.

    The frozen `quantizer` turns the true tokens of previous scales into the network's input.
    """

    kind: Literal["next_scale"]
    progressive: Progression | None = Field(
        None, description="progressive training of scales; null: all are trained from the start"
    )
    smoothing: Fraction = Field(0.0, description="label smoothing: weight of the uniform distribution in the target")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "next_scale"}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return (Need("main", "next_scale"), Need("quantizer", "quantize_scales"))

    def problems(self, spec: Spec) -> Iterator[Problem]:
        progressive, main = self.progressive, spec.networks.get("main")
        scales = len(main.lengths) if isinstance(main, ScaleTransformer) else 0
        if progressive is not None and scales and progressive.first > scales - 2:
            message = f"with {scales} scales, none is left to join after scale {progressive.first}"
            yield Problem(
                ("progressive", "first"), message, f"set `first` to at most {scales - 2}, or leave `progressive` out"
            )
        if progressive is not None and progressive.start >= progressive.stop:
            message = f"training from step {progressive.start} to step {progressive.stop} is empty"
            yield Problem(("progressive", "start"), message, "make `start` less than `stop`")

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        network, quantizer, conditions = networks["main"], networks["quantizer"], Conditions(spec, networks)
        length = int(network.methods["forward"].output("logits").type.shape[1])  # type: ignore[arg-type]
        b = mb.function("loss.terms")
        tokens = b.input("tokens", i64(B, length))
        cond = conditions.dropped(b, conditions.operands(b, conditions.inputs(b, by_field=True)))
        inputs = call(b, quantizer, "scale_inputs", {}, token=tokens, out="inputs")
        logits = call(b, network, "forward", cond, state=inputs, out="logits")
        losses = token_losses(b, logits, tokens)
        if self.smoothing:
            losses = smoothed(b, losses, logits, self.smoothing)
        if self.progressive is not None:
            of_scales = [m.output("logits").type for name, m in network.methods.items() if name.startswith("scale_")]
            weights = self.progressive.weights(b, step_of(b), len(of_scales))
            of_tokens = np.repeat(np.arange(len(of_scales)), [int(of.shape[1]) for of in of_scales])  # type: ignore[arg-type]
            scale = b.constant(of_tokens, out="scale")
            losses = b.mul(losses, b.take(weights, scale, axis=0), out="losses")
        b.output(per_sample_mean(b, losses, out="loss"))
        b.finish("The cross-entropy of the tokens in nats per token, one value per sample.")
        return publish(mb, ("loss",), ("tokens", *conditions.fields), conditions.draws(), self.trained(spec))
