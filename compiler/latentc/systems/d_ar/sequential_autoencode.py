"""Images encoded, and drawn again in steps, each given a group of their codes.

Symbols: B batch, Q codes, n codes of a group, N steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.contract import Network, OutputField, Program
from latentc.components.kit import call
from latentc.components.parts import Spec
from latentc.components.sampler import DecodingSampler
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc_runtime.sources import Condition, ConditionSource, RandomSource


class SequentialAutoencode(DecodingSampler):
    """Program `reconstruct` encodes images `x` and draws them by N Adams-Bashforth steps of second order, the first by
    Euler's method, each given one group of codes (D-AR, Gao and Shou 2025, arXiv:2505.23660); `encode` returns codes,
    and `decode` draws images of them.
    """

    kind: Literal["sequential_autoencode"]
    steps: int = Field(8, gt=0, le=1_000, description="evaluations of the pixel decoder (N)")
    NEEDS = "sequential_codes"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "sequential_autoencode", "steps": 2}

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        return self.programs(mb, networks, spec)[0]

    def programs(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Program, ...]:
        """Adds entries `reconstruct.N` (x, noise -> image, f32[B, C, H, W]), `encode` (x -> codes i64[B, Q]) and
        `decode.N` (codes, noise -> image).
        """
        network, field = networks["main"], spec.data.fields["x"]
        image, noisy = network.methods["encode"].input("state"), RandomSource("normal", "x")
        of_image = (Condition("x", "array", field.shape, "f32", field.axes),)

        entry = f"reconstruct.{self.steps}"
        b = mb.function(entry)
        x, noise = b.input("x", image.type), b.input("noise", image.type)
        b.output(drawn(b, network, call(b, network, "encode", {}, state=x, out="codes"), noise, self.steps))
        mb.entries[entry] = b.finish(f"Encodes images, and draws them in {self.steps} steps.")
        reconstruct = Program(
            entry,
            self.kind,
            self.steps,
            self.steps + 2,
            {"x": ConditionSource("x"), "noise": noisy},
            name="reconstruct",
            outputs=(OutputField("reconstruction", "x"),),
            conditions=of_image,
        )

        b = mb.function("encode")
        b.output(call(b, network, "encode", {}, state=b.input("x", image.type), out="codes"))
        mb.entries["encode"] = b.finish("Encodes images as codes.")
        outputs = (OutputField("codes"),)
        sources = {"x": ConditionSource("x")}
        encode = Program("encode", self.kind, 1, 1, sources, name="encode", outputs=outputs, conditions=of_image)

        return reconstruct, encode, self.decoder(mb, networks, spec)

    def decoder(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `decode.N`: codes i64[B, Q], noise f32[B, C, H, W] -> image."""
        network, entry = networks["main"], f"decode.{self.steps}"
        code = network.methods["conditions"].input("token")
        queries = int(code.type.shape[1])  # type: ignore[arg-type]
        b = mb.function(entry)
        codes, noise = b.input("codes", code.type), b.input("noise", network.methods["forward"].input("state").type)
        b.output(drawn(b, network, codes, noise, self.steps))
        mb.entries[entry] = b.finish(f"Draws the image of codes in {self.steps} steps.")
        return Program(
            entry,
            self.kind,
            self.steps,
            self.steps + 1,
            {"codes": ConditionSource("codes"), "noise": RandomSource("normal", "x")},
            name="decode",
            outputs=(OutputField("image", "x"),),
            conditions=(Condition("codes", "tokens", (queries,), vocabulary=code.values),),
        )


def drawn(b: Builder, network: Network, codes: Var, noise: Var, steps: int) -> Var:
    """Images f32[B, C, H, W] of codes i64[B, Q], from noise of the same shape."""
    cond = call(b, network, "conditions", {}, token=codes, out="cond")
    queries, group = int(cond.shape[1]), int(network.methods["forward"].input("condition").type.shape[1])  # type: ignore[arg-type]
    scale, shift = network.sizes["scale"], network.sizes["shift"]
    assert isinstance(scale, float) and isinstance(shift, float)
    u = np.arange(steps + 1) / steps
    times, x, last = u / (u + shift * (1 - u)), noise, None
    for step in range(steps):
        first = min(math.floor(float(u[step]) * (queries // group) + 0.5) * group, queries - group)
        own = b.slice(cond, axis=1, start=first, stop=first + group, out="group")
        t = b.full(codes, shape=(), value=float(times[step]), dtype="f32", out="t")
        v = call(b, network, "forward", {"cond": own}, state=x, time=t, out="velocity")
        size = float(times[step + 1] - times[step])
        change = b.mul(v, size) if last is None else b.op("sub", v * (1.5 * size), last * (0.5 * size))
        x, last = b.add(x, change, out="x"), v
    return b.mul(x, 1 / scale, out="image")
