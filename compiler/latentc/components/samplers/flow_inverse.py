"""Samples of a normalising flow by its inverse, and the log-likelihood of data.

Symbols: B batch, T tokens of a sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components import Closed
from latentc.components.contract import Need, Network, OutputField, Program
from latentc.components.guidance.guidance import Guidance, guidance_problems
from latentc.components.kit import Conditions, Operands, call
from latentc.components.kit.flows import log_density
from latentc.components.parts import Problem, under
from latentc.components.sampler import FixedPoint, Sampler
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.types import B, f32
from latentc_runtime.sources import Condition, ConditionSource, RandomSource, Setting, SettingSource, Source

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class GivenFrames(Closed):
    """The first frames of a video, after which it is continued."""

    frames: int = Field(gt=0, le=65_536, description="how many frames of the data's are given")
    noise: float = Field(
        0.0, ge=0, description="standard deviation of the noise that is added to them, as training adds to all frames"
    )


class FlowInverse(Sampler):
    """Inverts a flow, token by token (TarFlow, Zhai et al. 2024, arXiv:2412.06329).

    The network determines what is guided: log scale and shift, as u + scale (c - u), or the densities. An unconditional
    flow can also be guided, away from the same flow with another attention temperature. Also offers the program
    `log_likelihood`, and with `given` the program `extend`, which continues a video.
    """

    kind: Literal["flow_inverse"]
    guidance: Guidance | None = Field(None, description="guidance of log scale and shift; null: none")
    annealed: bool = Field(
        False, description="guidance increases from none at the first token to its scale at the last"
    )
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
    denoiser: str | None = Field(
        None, description="network that estimates the noise, which the last step removes (STARFlow-V); null: none"
    )
    jacobi: FixedPoint | None = Field(
        None, description="solve blocks of tokens by Jacobi iteration (STARFlow); null: token by token"
    )
    given: GivenFrames | None = Field(
        None, description="adds the program `extend`, which takes the first frames of videos (STARFlow-V); null: none"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "flow_inverse", "guidance": {"scale": 2.0}, "denoise": 0.05}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        denoiser = (Need(self.denoiser, "estimate_noise", place=("denoiser",)),) if self.denoiser else ()
        extends = (Need("main", "extend_video", place=("given",)),) if self.given else ()
        return Need("main", "flow"), *denoiser, *extends

    def given_frames(self) -> int:
        return self.given.frames if self.given else 0

    def fixed_point(self) -> FixedPoint | None:
        return self.jacobi

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if self.denoiser is not None and self.denoise:
            message = "the sample is denoised once, by the gradient of the log-density or by the denoiser, not by both"
            yield Problem(("denoise",), message, "set `denoise: 0`, or leave out `denoiser`")
        video = len(spec.data.shape or ()) == 4
        if self.jacobi is not None and self.jacobi.iterations > (most := self.jacobi.most(video)):
            message = f"{self.jacobi.iterations} iterations are too many: {most} always find all tokens of a block"
            yield Problem(("jacobi", "iterations"), message, f"set `iterations: {most}` or fewer")
        if self.jacobi is not None and self.jacobi.window is not None and len(spec.data.shape or ()) == 3:
            message = "`window` counts frames of a video, but the data are images"
            yield Problem(("jacobi", "window"), message, "leave it out")
        window, context = (self.jacobi.window, self.jacobi.context) if self.jacobi is not None else (None, None)
        if context is not None and context >= (window or 0):
            message = f"`context` ({context}) must be smaller than `window` ({window or 'not set'})"
            yield Problem(("jacobi", "context"), message, "use fewer frames, or leave it out")
        if self.jacobi is not None and self.jacobi.later is not None and len(spec.data.shape or ()) == 3:
            message = "`later` applies to the later frames of a video, but the data are images"
            yield Problem(("jacobi", "later"), message, "leave it out")
        yield from self._problems_of_given(spec)
        if self.jacobi is not None and self.annealed:
            message = (
                "Jacobi iterations guide all tokens of a block alike, but `annealed` guidance "
                "differs from token to token"
            )
            yield Problem(("annealed",), message, "leave out `annealed` or `jacobi`")
        if self.guidance is None:
            for name, usual in (("annealed", False), ("attention_temperature", 1.0)):
                if getattr(self, name) != usual:
                    message = f"`{name}` has no effect without guidance"
                    yield Problem((name,), message, "add `guidance: {scale: 2}`, or leave it out")
            return
        if self.attention_temperature == 1.0:
            yield from under("guidance", problems=guidance_problems(self.guidance, spec))
        for name, default in (("interval", (0.0, 1.0)), ("channels", None)):
            if getattr(self.guidance, name) != default:
                yield Problem(
                    ("guidance", name), f"guidance of a flow applies to its whole inverse, so `{name}` has no effect"
                )

    def _problems_of_given(self, spec: Spec) -> Iterator[Problem]:
        """Frames that leave nothing to continue, or that do not fit into the first window."""
        shape = spec.data.shape
        if self.given is None or shape is None or len(shape) != 4:
            return
        count, window = self.given.frames, self.jacobi.window if self.jacobi else None
        if count >= shape[1]:
            message = f"{count} frames are given, but videos have {shape[1]}"
            yield Problem(("given", "frames"), message, "give fewer")
        elif window is not None and count > window:
            message = f"{count} frames are given, but the flow over all frames sees {window} at once"
            yield Problem(("given", "frames"), message, "give fewer, or enlarge `jacobi.window`")

    def with_steps(self, steps: int) -> FlowInverse:
        return self

    def programs(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Program, ...]:
        extends = (self._sampled(mb, networks, spec, extends=True),) if self.given else ()
        return self.build(mb, networks, spec), self._log_likelihood(mb, networks, spec), *extends

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `sample.T`: z f32[B, T, C], conditions, scale f32[B] with guidance -> one sample each."""
        return self._sampled(mb, networks, spec, extends=False)

    def _sampled(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec, extends: bool) -> Program:
        """As `build`; or entry `extend.T`, which also takes `given` f32[B, C, K, H, W] and their noise, if any."""
        network, conditions = networks["main"], Conditions(spec, networks)
        method = "extend" if extends else "inverse"
        latent = network.methods[method].input("noise")
        length = int(latent.type.shape[1])  # type: ignore[arg-type]
        entry = f"{'extend' if extends else 'sample'}.{length}"
        density = log_density(mb, network) if self.denoise else ""
        b = mb.function(entry)
        z = b.input(latent.name, latent.type)
        told = conditions.operands(b, conditions.inputs(b))
        sources: dict[str, Source] = {latent.name: RandomSource("normal", latent.name), **conditions.sources()}
        operands: dict[str, Any] = {"noise": z, "out": "x"}
        asked: tuple[Condition, ...] = ()
        if extends:
            port, field = network.methods[method].input("state"), spec.data.fields["x"]
            operands["state"], sources[port.name] = b.input(port.name, port.type), ConditionSource(port.name)
            asked = (Condition(port.name, "array", tuple(map(int, port.type.shape[1:])), "f32", field.axes),)  # type: ignore[arg-type]
            if self.given and self.given.noise:
                noise, sources["given_noise"] = b.input("given_noise", port.type), RandomSource("normal", "given")
                operands["state"] = b.add(operands["state"], noise * self.given.noise, out="given")
        if self.guidance is None:
            x = call(b, network, method, told, **operands)
        else:
            sources["scale"] = SettingSource("guidance")
            x = self._guided(b, network, conditions, told, f"guided_{method}", operands)
        if self.denoise:
            operands = {**told, network.methods["forward"].input("state").name: x}
            given = [operands[port.name] for port in network.methods["forward"].inputs]
            at = next(i for i, port in enumerate(network.methods["forward"].inputs) if port.role == "state")
            _, score = b.gradient(density, "", given, wrt=(at,), out="log_p score")
            x = b.add(x, score * float(f"{self.denoise**2:.12g}"), out="x")  # no digits of rounding in the code
        if self.denoiser:
            noise = call(b, networks[self.denoiser], "forward", told, state=x, out="noise")
            x = b.op("sub", x, noise, out="x")
        b.output(x)
        denoises = bool(self.denoise or self.denoiser)
        doc = "Inverts the flow" + (" after given frames" if extends else "")
        mb.entries[entry] = b.finish(doc=doc + (", then denoises by one step." if denoises else "."))
        settings = (Setting("guidance", self.guidance.scale),) if self.guidance else ()
        name = "extend" if extends else "sample"
        return Program(entry, self.kind, length, length, sources, settings, name=name, conditions=asked)

    def _guided(
        self,
        b: Builder,
        network: Network,
        conditions: Conditions,
        told: Operands,
        method: str,
        operands: Mapping[str, Any],
    ) -> Var:
        z = operands["noise"]
        guided = int(network.methods["guided_inverse"].inputs_of("scale")[1].type.shape[0])  # type: ignore[arg-type]
        scale = b.reshape(b.input("scale", f32(B)), shape=(1, B), out="scale")
        if self.annealed:
            ramp = b.constant(np.arange(1, guided + 1)[:, None] / guided, out="ramp")
            weight = b.add((scale - 1.0) * ramp, 1.0, out="weight")
        else:
            weight = b.broadcast_to(scale, shape=(guided, B), out="weight")
        temperature = b.full(z, shape=(), value=self.attention_temperature, dtype="f32", out="temperature")
        null = {f"null_{name}": x for name, x in conditions.null(b, told).items()}
        return call(b, network, method, {**told, **null}, **operands, scale=[temperature, weight])  # type: ignore[no-any-return]

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
        field = spec.data.fields[state.name]
        asked = (Condition(state.name, "array", field.shape, "f32", field.axes),)
        sources: dict[str, Source] = {state.name: ConditionSource(state.name), **conditions.sources()}
        outputs = (OutputField("log_likelihood"), OutputField("latent"))
        return Program(
            "log_likelihood", self.kind, 1, 1, sources, name="log_likelihood", outputs=outputs, conditions=asked
        )
