"""Samples of a normalising flow by its inverse, and the log-likelihood of data.

Symbols: B batch, T tokens of a sample, N predicted tokens, C channels of a token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.contract import Network, OutputField, Program
from latentc.components.guidance.guidance import Guidance, guidance_problems
from latentc.components.kit import Conditions, Operands, call
from latentc.components.kit.flows import log_density
from latentc.components.parts import Problem, Spec, under
from latentc.components.sampler import Sampler
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.types import B, f32
from latentc_runtime.sources import Condition, ConditionSource, RandomSource, Setting, SettingSource, Source


@dataclass(frozen=True)
class Further:
    """Inputs of a program besides latent and conditions: operands by role, sources, and conditions of a request."""

    operands: Mapping[str, Var] = field(default_factory=dict)
    sources: Mapping[str, Source] = field(default_factory=dict)
    conditions: tuple[Condition, ...] = ()
    doc: str = ""


class FlowInverse(Sampler):
    """Inverts a flow, token by token (TarFlow, Zhai et al. 2024, arXiv:2412.06329).

    The network determines what is guided: log scale and shift, as u + scale (c - u), or the densities. An unconditional
    flow can also be guided, away from the same flow with another attention temperature. Also offers the program
    `log_likelihood`.
    """

    kind: Literal["flow_inverse"]
    guidance: Guidance | None = Field(None, description="guidance of log scale and shift; null: none")
    attention_temperature: float = Field(
        1.0,
        gt=0,
        description="temperature of the attention scores in the branch that guidance moves away from, or of all "
        "attention if density guidance is inside the network",
    )
    denoise: float = Field(
        0.0,
        ge=0,
        description="standard deviation of the noise removed by a final step along the gradient of the log-density, "
        "as in training; 0: none",
    )
    NEEDS = "flow"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "flow_inverse", "guidance": {"scale": 2.0}, "denoise": 0.05}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if self.guidance is None:
            if self.attention_temperature != 1.0:
                message = "`attention_temperature` has no effect without guidance"
                yield Problem(("attention_temperature",), message, "add `guidance: {scale: 2}`, or leave it out")
            return
        if self.attention_temperature == 1.0:
            yield from under("guidance", problems=guidance_problems(self.guidance, spec))
        for name, default in (("interval", (0.0, 1.0)), ("channels", None)):
            if getattr(self.guidance, name) != default:
                yield Problem(
                    ("guidance", name), f"guidance of a flow applies to its whole inverse, so `{name}` has no effect"
                )

    def programs(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Program, ...]:
        return self.build(mb, networks, spec), self._log_likelihood(mb, networks, spec)

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `sample.T`: z f32[B, T, C], conditions, scale f32[B] with guidance -> one sample each."""
        return self.sampled(mb, networks, spec, "sample", "inverse")

    def sampled(
        self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec, name: str, method: str
    ) -> Program:
        """As `build`, of entry NAME.T and a method of the flow."""
        network, conditions = networks["main"], Conditions(spec, networks)
        latent = network.methods[method].input("noise")
        length = int(latent.type.shape[1])  # type: ignore[arg-type]
        entry = f"{name}.{length}"
        b = mb.function(entry)
        z = b.input(latent.name, latent.type)
        cond = conditions.operands(b, conditions.inputs(b))
        further = self.further(b, network, method, spec)
        sources: dict[str, Source] = {latent.name: RandomSource("normal", latent.name), **conditions.sources()}
        sources |= further.sources
        operands: dict[str, Any] = {"noise": z, "out": "x", **further.operands}
        if self.guidance is None:
            x = call(b, network, method, cond, **operands)
        else:
            sources["scale"] = SettingSource("guidance")
            x = self._guided(b, network, conditions, cond, f"guided_{method}", operands)
        b.output(self.denoised(b, mb, networks, cond, x))
        doc = f"Inverts the flow{further.doc}"
        mb.entries[entry] = b.finish(doc=doc + (", then denoises by one step." if self.denoises else "."))
        settings = (Setting("guidance", self.guidance.scale),) if self.guidance else ()
        return Program(entry, self.kind, length, length, sources, settings, name=name, conditions=further.conditions)

    def further(self, b: Builder, network: Network, method: str, spec: Spec) -> Further:
        """Further inputs of a program that calls `method`."""
        return Further()

    @property
    def denoises(self) -> bool:
        """True if a last step denoises."""
        return self.denoise > 0

    def denoised(self, b: Builder, mb: ModuleBuilder, networks: Mapping[str, Network], cond: Operands, x: Var) -> Var:
        """The sample x [B, ...] after the last step."""
        if not self.denoise:
            return x
        network = networks["main"]
        ports = network.methods["forward"].inputs
        given = [x if port.role == "state" else cond[port.name] for port in ports]
        at = next(i for i, port in enumerate(ports) if port.role == "state")
        _, score = b.gradient(log_density(mb, network), "", given, wrt=(at,), out="log_p score")
        return b.add(x, score * float(f"{self.denoise**2:.12g}"), out="x")  # no digits of rounding in the code

    def _guided(
        self,
        b: Builder,
        network: Network,
        conditions: Conditions,
        cond: Operands,
        method: str,
        operands: Mapping[str, Any],
    ) -> Var:
        z = operands["noise"]
        guided = int(network.methods["guided_inverse"].inputs_of("scale")[1].type.shape[0])  # type: ignore[arg-type]
        scale = b.reshape(b.input("scale", f32(B)), shape=(1, B), out="scale")
        weight = self.scales(b, scale, guided)
        temperature = b.full(z, shape=(), value=self.attention_temperature, dtype="f32", out="temperature")
        null = {f"null_{name}": x for name, x in conditions.null(b, cond).items()}
        return call(b, network, method, {**cond, **null}, **operands, scale=[temperature, weight])

    def scales(self, b: Builder, scale: Var, count: int) -> Var:
        """f32[N, B]: the guidance scale of each of `count` predicted tokens; `scale` f32[1, B]."""
        return b.broadcast_to(scale, shape=(count, B), out="weight")

    def _log_likelihood(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `log_likelihood`: a sample x, conditions -> log p(x) in nats f32[B], latent."""
        network, conditions = networks["main"], Conditions(spec, networks)
        state = network.methods["forward"].input("state")
        density = log_density(mb, network)
        b = mb.function("log_likelihood")
        x = b.input(state.name, state.type)
        operands = {**conditions.operands(b, conditions.inputs(b)), state.name: x}
        given = [operands[port.name] for port in network.methods["forward"].inputs]
        b.output(b.call(density, "", *given, out="log_p z"))
        mb.entries["log_likelihood"] = b.finish(doc="Log-likelihood of x in nats, and the latent of x.")
        data = spec.data.fields[state.name]
        asked = (Condition(state.name, "array", data.shape, "f32", data.axes),)
        sources: dict[str, Source] = {state.name: ConditionSource(state.name), **conditions.sources()}
        outputs = (OutputField("log_likelihood"), OutputField("latent"))
        return Program(
            "log_likelihood", self.kind, 1, 1, sources, name="log_likelihood", outputs=outputs, conditions=asked
        )


class AnnealedInverse(FlowInverse):
    """`flow_inverse` with TarFlow's annealed guidance, from none at the first token to its scale at the last."""

    kind: Literal["annealed_inverse"]  # type: ignore[assignment]
    EXAMPLE: ClassVar[dict[str, Any]] = {**FlowInverse.EXAMPLE, "kind": "annealed_inverse"}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if self.guidance is None:
            yield Problem(("guidance",), "nothing grows without guidance", "add `guidance: {scale: 2}`")

    def scales(self, b: Builder, scale: Var, count: int) -> Var:
        ramp = b.constant(np.arange(1, count + 1)[:, None] / count, out="ramp")
        return b.add((scale - 1.0) * ramp, 1.0, out="weight")
