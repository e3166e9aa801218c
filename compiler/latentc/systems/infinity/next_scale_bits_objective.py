"""Next-scale prediction of bits, with bits that are wrong.

Symbols: B batch, K scales, n the side of a scale's map, L positions of all scales, d bits of a position, h the side of
the latents.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.contract import Draw, Need, Network, Update
from latentc.components.kit import Conditions, call, per_sample_mean
from latentc.components.objective import Objective
from latentc.components.objectives._common import publish
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, ModuleBuilder, Var, f32
from latentc.ir.types import B
from latentc.systems.infinity.bit_transformer import BitTransformer
from latentc.systems.infinity.bits import BitScales


class NextScaleBits(Objective):
    """Cross-entropy of each bit of each scale given the previous scales, in nats per bit (Infinity, Han et al. 2024,
    arXiv:2412.04431).

    Bitwise self-correction: of every sample, bits of each of the first `corrected` scales are inverted with a
    probability uniform in [0, `flips`], and the bits of the next scales are those of what is left over after that.
    """

    kind: Literal["next_scale_bits"]
    flips: float = Field(0.3, ge=0, le=0.5, description="greatest probability that a bit of a scale is inverted")
    corrected: int | None = Field(
        None, ge=0, le=64, description="number of first scales with inverted bits; null: all but the last"
    )
    balance: bool = Field(
        True, description="a position counts in inverse proportion to the side of its scale; false: all alike"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "next_scale_bits"}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return (Need("main", "next_scale_bits"),)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        main = spec.networks.get("main")
        most = len(main.scales) - 1 if isinstance(main, BitTransformer) else 64
        if self.corrected is not None and self.corrected > most:
            message = f"after {self.corrected} of {most + 1} scales none is left that could correct their bits"
            yield Problem(("corrected",), message, f"set it to at most {most}, or leave it out")

    def noisy(self, scales: BitScales) -> int:
        """Number of the scales with inverted bits."""
        last = len(scales.sides) - 1
        return 0 if not self.flips else last if self.corrected is None else min(self.corrected, last)

    def inputs_and_bits(
        self, b: Builder, scales: BitScales, x: Var, strength: Var | None, v: Var | None
    ) -> tuple[Var, Var]:
        """The network's input f32[B, L - n n, d], and the bits of all scales f32[B, L, d], of latents f32[B, d, h, h].

        Bits of scale k are inverted where uniform numbers v f32[B, L', d] are below strength f32[B, K'] of that scale.
        """
        noisy, latents, inputs, bits = self.noisy(scales), None, list[Var](), list[Var]()
        drawn: tuple[Var, ...] = ()
        if v is not None:
            lengths = scales.lengths[:noisy]
            drawn = (
                b.split(v, axis=1, sizes=lengths, out=" ".join(f"v_{k}" for k in range(noisy))) if noisy > 1 else (v,)
            )
        for k in range(len(scales.sides)):
            rest = x if latents is None else b.op("sub", x, latents, out="rest")
            rest = scales.rows(b, scales.shrunk(b, rest, k), k, "rest")
            bit = b.cast(b.greater(rest, 0.0), to="f32", out=f"bits_{k}")
            bits.append(bit)
            if k == len(scales.sides) - 1:
                break
            if k < noisy:
                assert strength is not None
                chance = b.reshape(b.slice(strength, axis=1, start=k, stop=k + 1), shape=(B, 1, 1), out="chance")
                wrong = b.cast(b.less(drawn[k], chance), to="f32", out="wrong")
                bit = b.add(bit, wrong * b.op("sub", 1.0, bit * 2.0), out="seen")
            codes = scales.map(b, b.op("sub", bit * (2 * scales.size), scales.size), k, "codes")
            added = scales.enlarged(b, codes, k)
            latents = added if latents is None else b.add(latents, added, out="latents")
            inputs.append(scales.next_input(b, latents, k + 1))
        return b.concat(*inputs, axis=1, out="inputs") if len(inputs) > 1 else inputs[0], b.concat(
            *bits, axis=1, out="bits"
        )

    def losses(self, b: Builder, scales: BitScales, margin: Var, bits: Var) -> Var:
        """f32[B, L, d]: the weighted cross-entropy of each bit, of logits of 1 less those of 0 f32[B, L, d]."""
        losses = b.op("sub", b.softplus(margin), margin * bits, out="losses")
        if not self.balance:
            return losses
        weights = np.repeat([1 / side for side in scales.sides], scales.lengths)
        weights *= len(weights) / weights.sum()
        return b.mul(losses, b.constant(weights[:, None].astype(np.float32), out="weights"), out="losses")

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        network, conditions = networks["main"], Conditions(spec, networks)
        scales = scales_of(network)
        noisy = self.noisy(scales)
        b = mb.function("loss.terms")
        x = b.input("x", f32(B, scales.bits, scales.sides[-1], scales.sides[-1]))
        cond = conditions.operands(b, conditions.inputs(b, by_field=True))
        strength = v = None
        draws: list[Draw] = []
        if noisy:
            strength = b.mul(b.input("u", f32(B, noisy)), self.flips, out="strength")
            v = b.input("v", f32(B, sum(scales.lengths[:noisy]), scales.bits))
            draws = [Draw("u", "uniform"), Draw("v", "uniform")]
        cond = conditions.dropped(b, cond)
        inputs, bits = self.inputs_and_bits(b, scales, x, strength, v)
        logits = call(b, network, "forward", cond, state=inputs, out="logits")
        losses = self.losses(b, scales, margins(b, logits, scales.bits), bits)
        b.output(per_sample_mean(b, losses, out="loss"))
        b.finish("The cross-entropy of the bits in nats per bit, one value per sample.")
        every = (*draws, *conditions.draws())
        return publish(mb, ("loss",), ("x", *conditions.fields), every, self.trained(spec))


def scales_of(network: Network) -> BitScales:
    """The scales of a network that provides `next_scale_bits`."""
    lengths: list[int] = []
    while (method := network.methods.get(f"scale_{len(lengths)}")) is not None:
        logits = method.output("logits").type
        lengths.append(int(logits.shape[1]))  # type: ignore[arg-type]
    bits = int(network.methods["forward"].output("logits").type.shape[2]) // 2  # type: ignore[arg-type]
    return BitScales(tuple(round(length**0.5) for length in lengths), bits)


def margins(b: Builder, logits: Var, bits: int) -> Var:
    """f32[B, N, d]: the logit of 1 less that of 0 of every bit, of logits f32[B, N, 2 d]."""
    batch, count = logits.shape[:2]
    pairs = b.reshape(logits, shape=(batch, count, bits, 2), out="pairs")
    zero, one = b.split(pairs, axis=3, sizes=(1, 1), out="zero one")
    return b.reshape(one - zero, shape=(batch, count, bits), out="margin")
