"""One run of a style-based generator, with truncated styles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.contract import Network, Program
from latentc.components.kit import Conditions, call
from latentc.components.parts import Refusal, Spec
from latentc.components.sampler import Sampler
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.types import B, f32
from latentc_runtime.sources import RandomSource, Setting, SettingSource, Source


class StyleBased(Sampler):
    """Runs a style-based generator once, with the style w_avg + psi (w - w_avg) (StyleGAN, Karras et al. 2019,
    App. B).

    A smaller psi gives better but less diverse samples; it is a request setting.
    """

    kind: Literal["style_based"]
    psi: float = Field(1.0, description="default truncation psi; 1: unchanged styles, 0: the average style")
    cutoff: int | None = Field(
        None, gt=0, le=64, description="number of leading layers whose style is truncated; null: all"
    )
    noise: Literal["random", "const", "none"] = Field(
        "random", description="noise images: random per sample, the generator's own, or zeros"
    )
    guidance: None = Field(
        None, description="always null: generators are not guided; `psi` trades diversity for quality"
    )
    NEEDS = "generate_by_style"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "style_based", "psi": 0.7}

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `sample.1`: z f32[B, Z], the conditions, psi f32[B] and noise images -> one sample each."""
        network, conditions = networks["main"], Conditions(spec, networks)
        synthesize = network.methods["synthesize"]
        b = mb.function("sample.1")
        z = b.input("z", network.methods["map"].input("noise").type)
        cond = conditions.operands(b, conditions.inputs(b))
        psi = b.input("psi", f32(B))
        w, average = call(b, network, "map", cond, noise=z, out="w w_avg")
        ws = self._truncated(b, w, average, psi, int(synthesize.input("state").type.shape[1]))  # type: ignore[arg-type]
        sources: dict[str, Source] = {"z": RandomSource("normal", "z"), **conditions.sources()}
        sources["psi"] = SettingSource("psi")
        if self.noise == "const":
            if "synthesize_const" not in network.methods:
                raise Refusal("the generator has no noise images of its own", "leave `noise` out", ("noise",))
            x = call(b, network, "synthesize_const", cond, state=ws, out="x")
        else:
            noises = []
            for port in synthesize.inputs_of("noise"):
                if self.noise == "random":
                    noises.append(b.input(port.name, port.type))
                    sources[port.name] = RandomSource("normal", port.name)
                else:
                    noises.append(b.full(z, shape=port.type.shape[1:], value=0.0, dtype="f32", out=port.name))
            x = call(b, network, "synthesize", cond, state=ws, noise=noises, out="x")
        b.output(x)
        mb.entries["sample.1"] = b.finish(doc="Runs the generator once.")
        return Program("sample.1", self.kind, 1, 1, sources, (Setting("psi", self.psi),))

    def _truncated(self, b: Builder, w: Var, average: Var, psi: Var, layers: int) -> Var:
        """A style for each layer: f32[B, L, W]."""
        strength = b.reshape(psi, shape=(psi.shape[0], 1, 1))
        if self.cutoff is not None and self.cutoff < layers:
            late = b.constant(np.arange(layers)[:, None] >= self.cutoff, out="late")
            strength = b.where(late, 1.0, strength, out="strength")
        w = b.reshape(w, shape=(w.shape[0], 1, w.shape[1]))
        ws = b.add(average, strength * (w - average), out="ws")
        return ws if ws.shape[1] == layers else b.broadcast_to(ws, w, shape=(w.shape[0], layers, w.shape[2]), out="ws")
