"""Samples of STARFlow and STARFlow-V: Jacobi iterations, a network that denoises, videos continued after frames.

Symbols: B batch, K given frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Closed
from latentc.components.contract import Need, Network, Program
from latentc.components.kit import Operands, call
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.systems.starflow_v.jacobi import FixedPoint, Jacobi
from latentc.systems.tarflow.flow_inverse import FlowInverse, Further
from latentc.systems.tarflow.transformer_flow import TransformerFlow
from latentc_runtime.sources import Condition, ConditionSource, RandomSource, Source


class GivenFrames(Closed):
    """The first frames of a video, after which it is continued."""

    frames: int = Field(gt=0, le=65_536, description="number of given frames")
    noise: float = Field(
        0.0, ge=0, description="standard deviation of the noise that is added to them, as training adds to all frames"
    )


class StarflowInverse(FlowInverse):
    """`flow_inverse` as STARFlow-V samples (Gu et al. 2025, arXiv:2511.20462).

    Several tokens at a time, then denoised by a network; with `given`, the program `extend` continues a video.
    """

    kind: Literal["starflow_inverse"]  # type: ignore[assignment]
    denoiser: str | None = Field(
        None, description="network that estimates the noise, which the last step removes; null: none"
    )
    jacobi: FixedPoint | None = Field(
        None, description="solve blocks of tokens by Jacobi iteration; null: token by token"
    )
    given: GivenFrames | None = Field(
        None, description="adds the program `extend`, which takes the first frames of videos; null: none"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {**FlowInverse.EXAMPLE, "kind": "starflow_inverse"}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        asks = {} if self.jacobi is None else {"inversion": Jacobi(self.jacobi)}
        found = [Need("main", "flow", asks=asks)]
        if self.denoiser:
            found.append(Need(self.denoiser, "estimate_noise", place=("denoiser",)))
        if self.given:
            found.append(Need("main", "extend_video", place=("given",), asks={"given_frames": self.given.frames}))
        return tuple(found)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        shape, main = spec.data.shape or (), spec.networks.get("main")
        if self.denoiser is not None and self.denoise:
            message = "the sample is denoised once, by the gradient of the log-density or by the denoiser, not by both"
            yield Problem(("denoise",), message, "set `denoise: 0`, or leave out `denoiser`")
        if self.jacobi is not None:
            yield from self._problems_of_jacobi(self.jacobi, spec)
        if len(shape) == 4 and isinstance(main, TransformerFlow) and not main.start_token:
            for key, what in (("jacobi", "Jacobi iterations"), ("given", "given frames")):
                if getattr(self, key) is not None:
                    mend = "set `networks.main.start_token: true`, or leave it out"
                    yield Problem((key,), f"for videos, {what} need a start token", mend)
        if self.given is not None and len(shape) == 4:
            count, window = self.given.frames, self.jacobi.window if self.jacobi else None
            if count >= shape[1]:
                message = f"{count} frames are given, but videos have {shape[1]}"
                yield Problem(("given", "frames"), message, "give fewer")
            elif window is not None and count > window:
                message = f"{count} frames are given, but the flow over all frames sees {window} at once"
                yield Problem(("given", "frames"), message, "give fewer, or enlarge `jacobi.window`")
        yield from super().problems(spec)

    def _problems_of_jacobi(self, jacobi: FixedPoint, spec: Spec) -> Iterator[Problem]:
        rank, main = len(spec.data.shape or ()), spec.networks.get("main")
        if jacobi.iterations > (most := jacobi.most(rank == 4)):
            message = f"{jacobi.iterations} iterations are too many: {most} always find all tokens of a block"
            yield Problem(("jacobi", "iterations"), message, f"set `iterations: {most}` or fewer")
        if jacobi.window is not None and rank == 3:
            message = "`window` counts frames of a video, but the data are images"
            yield Problem(("jacobi", "window"), message, "leave it out")
        if jacobi.window is not None and isinstance(main, TransformerFlow) and main.positions is None:
            message = "a `window` moves over the frames, but a learned table has one position for each of them"
            yield Problem(("jacobi", "window"), message, "leave it out, or give `main` rotary `positions`")
        if jacobi.context is not None and jacobi.context >= (jacobi.window or 0):
            message = f"`context` ({jacobi.context}) must be smaller than `window` ({jacobi.window or 'not set'})"
            yield Problem(("jacobi", "context"), message, "use fewer frames, or leave it out")
        if jacobi.later is not None and rank == 3:
            message = "`later` applies to the later frames of a video, but the data are images"
            yield Problem(("jacobi", "later"), message, "leave it out")

    def programs(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Program, ...]:
        found = super().programs(mb, networks, spec)
        return (*found, self.sampled(mb, networks, spec, "extend", "extend")) if self.given else found

    def further(self, b: Builder, network: Network, method: str, spec: Spec) -> Further:
        """The given frames f32[B, C, K, H, W] of `extend`, and their noise, if any."""
        if self.given is None or method != "extend":
            return super().further(b, network, method, spec)
        port, field = network.methods[method].input("state"), spec.data.fields["x"]
        frames, sources = b.input(port.name, port.type), dict[str, Source]({port.name: ConditionSource(port.name)})
        asked = Condition(port.name, "array", tuple(map(int, port.type.shape[1:])), "f32", field.axes)  # type: ignore[arg-type]
        if self.given.noise:
            noise, sources["given_noise"] = b.input("given_noise", port.type), RandomSource("normal", "given")
            frames = b.add(frames, noise * self.given.noise, out="given")
        return Further({"state": frames}, sources, (asked,), " after given frames")

    def denoised(self, b: Builder, mb: ModuleBuilder, networks: Mapping[str, Network], cond: Operands, x: Var) -> Var:
        if self.denoiser is None:
            return super().denoised(b, mb, networks, cond, x)
        noise = call(b, networks[self.denoiser], "forward", cond, state=x, out="noise")
        return b.op("sub", x, noise, out="x")

    @property
    def denoises(self) -> bool:
        return super().denoises or self.denoiser is not None
