"""Draws a plausible mask of an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Network, Program
from latentc.components.kit import Conditions, call
from latentc.components.parts import Spec
from latentc.components.sampler import Sampler
from latentc.ir.builder import ModuleBuilder
from latentc_runtime.sources import RandomSource


class PlausibleMask(Sampler):
    """Draws latents from the prior of an image, and decodes them to a mask (Kohl et al. 2018, arXiv:1806.05034).

    Each seed gives another plausible mask. Values are 2 p - 1, p the probability of the mask, so 0 is the threshold.
    """

    kind: Literal["plausible_mask"]
    guidance: None = Field(None, description="always null: there is no guidance")
    NEEDS = "segment"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "plausible_mask"}

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `sample.1`: noise f32[B, Z] and the image -> one mask each."""
        network, conditions, entry = networks["main"], Conditions(spec, networks), "sample.1"
        b = mb.function(entry)
        noise = b.input("noise", network.methods["decode"].input("noise").type)
        cond = conditions.operands(b, conditions.inputs(b))
        mean, log_std = call(b, network, "prior", cond, out="mean log_std")
        z = b.add(mean, b.exp(log_std, out="std") * noise, out="z")
        features = call(b, network, "features", cond, out="features")
        logits = call(b, network, "decode", {}, state=features, noise=z, out="logits")
        b.output(b.tanh(logits * 0.5, out="x"))
        mb.entries[entry] = b.finish("Draws a mask of an image.")
        sources = {"noise": RandomSource("normal", "noise"), **conditions.sources()}
        return Program(entry, self.kind, 1, 3, sources)
