"""Training of a flow autoencoder on pairs of frames.

Symbols: B batch, C channels, F frames, H and W sides, K regions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components import Size
from latentc.components.contract import Draw, Need, Network, Update
from latentc.components.kit import call
from latentc.components.objective import Objective
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, ModuleBuilder, Var, f32, i64
from latentc.ir.types import B
from latentc.systems.lfdm.bending import Deformation
from latentc.systems.lfdm.parts import reduced
from latentc.systems.lfdm.regions import with_positive_first

PERCEPTUAL = "perceptual"
"""The network, if there is one, that compares images."""


class FlowAutoencoding(Objective):
    """A frame, moved to another of its video, is compared with it, and regions must follow random deformations.

    Siarohin et al. 2021, arXiv:2104.11280. Of two random frames the earlier is moved. A frozen network `perceptual`, if
    there is one, compares images.
    """

    kind: Literal["flow_autoencoding"]
    pixels: float = Field(0.0, ge=0, description="weight of the absolute error of pixels, at each of the scales")
    scales: tuple[Size, ...] = Field(
        (1,), min_length=1, max_length=8, description="factors by which images are reduced for the error of pixels"
    )
    perceptual: float = Field(10.0, ge=0, description="weight of the distance of network `perceptual`")
    shift: float = Field(10.0, ge=0, description="weight of the error of the regions' means under a deformation")
    affine: float = Field(10.0, ge=0, description="weight of the error of the regions' axes under a deformation")
    deviation: float = Field(0.05, gt=0, description="standard deviation of the deformations' affine maps")
    bend: float = Field(0.005, gt=0, description="standard deviation of the weights of the deformations' splines")
    points: int = Field(5, gt=1, le=64, description="control points of a spline along each side")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "flow_autoencoding", "pixels": 10.0, "scales": [1, 2]}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return (Need("main", "animate"), *((Need(PERCEPTUAL, "compare"),) if PERCEPTUAL in spec.networks else ()))

    def problems(self, spec: Spec) -> Iterator[Problem]:
        shape = spec.data.shape
        if shape is None or len(shape) != 4:
            yield Problem((), f"`{self.kind}` learns from video [C, F, H, W], but the data has {spec.data.words}")
            return
        for i, scale in enumerate(self.scales):
            if any(side % scale for side in shape[2:]):
                message = f"images of {shape[2]} by {shape[3]} pixels cannot be reduced by {scale}"
                yield Problem(("scales", i), message, "use divisors of both sides")
        if not self.pixels and PERCEPTUAL not in spec.networks:
            message = "nothing compares images: there is no network `perceptual`, and `pixels` is 0"
            yield Problem(("pixels",), message, "set `pixels: 10`, or add `networks.perceptual`")

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        network, b = networks["main"], mb.function("loss")
        video = b.input("x", network.methods["flow"].inputs[1].type)
        frames = b.input("frames", i64(B, 2))
        theta, bends = b.input("theta", f32(B, 2, 3)), b.input("bends", f32(B, self.points**2))
        source, driving = _two_frames(b, video, frames)
        made, shift, affine = call(b, network, "transfer", {}, state=[source, driving], out="made shift affine")
        terms: dict[str, Var] = {}
        if self.pixels:
            terms["pixels"] = self.of_pixels(b, made, driving) * self.pixels
        if PERCEPTUAL in networks:
            distance = call(b, networks[PERCEPTUAL], "forward", {}, state=[made, driving], out="distance")
            terms["perceptual"] = _mean(b, distance) * self.perceptual
        deformation = Deformation.drawn(b, theta, bends, (self.deviation, self.bend), self.points)
        deformed = deformation.deformed(driving)
        own = call(b, network, "regions", {}, state=deformed, out="own_shift own_affine")
        terms |= self.equivariance(b, deformation, (shift, affine), own)
        names = tuple(terms)
        total = terms[names[0]]
        for name in names[1:]:
            total = b.add(total, terms[name], out="loss")
        b.output(total, *terms.values())
        mb.entries["loss"] = b.finish("The loss, and its parts.")
        draws = (
            Draw("frames", "integers", {"high": int(video.shape[2])}),  # type: ignore[arg-type]
            Draw("theta", "normal"),
            Draw("bends", "normal"),
        )
        return (Update("loss", ("main",), ("x",), draws, ("loss", *names)),)

    def of_pixels(self, b: Builder, made: Var, wanted: Var) -> Var:
        """f32[]: the sum of the absolute errors at all scales."""
        total: Var | None = None
        for scale in self.scales:
            error = _mean(b, b.abs(reduced(b, made, scale) - reduced(b, wanted, scale)))
            total = error if total is None else b.add(total, error, out="error")
        assert total is not None
        return total

    def equivariance(
        self, b: Builder, deformation: Deformation, found: tuple[Var, Var], own: tuple[Var, Var]
    ) -> dict[str, Var]:
        """How far the regions of an image are from those of the deformed one, moved back."""
        x, y = b.split(own[0], axis=2, sizes=(1, 1), out="x y")
        moved = b.concat(*deformation.moved((x, y)), axis=2, out="moved")
        j = deformation.jacobian((x, y))
        a, c = (b.split(m, axis=2, sizes=(1,) * 4) for m in (own[1], found[1]))
        turned = [
            j[0] * a[0] + j[1] * a[2],
            j[0] * a[1] + j[1] * a[3],
            j[2] * a[0] + j[3] * a[2],
            j[2] * a[1] + j[3] * a[3],
        ]
        determinant = b.op("sub", c[0] * c[3], c[1] * c[2], out="determinant")
        ratio = [
            c[3] * turned[0] - c[1] * turned[2],
            c[3] * turned[1] - c[1] * turned[3],
            c[0] * turned[2] - c[2] * turned[0],
            c[0] * turned[3] - c[2] * turned[1],
        ]
        ratio = with_positive_first(b, [b.div(value, determinant, out="ratio") for value in ratio])
        identity = b.constant(np.eye(2).reshape(1, 1, 4), "f32", out="identity")
        error = b.abs(identity - b.concat(*ratio, axis=2, out="ratio"))
        return {
            "shift": _mean(b, b.abs(found[0] - moved)) * self.shift,
            "affine": _mean(b, error) * self.affine,
        }


def _two_frames(b: Builder, video: Var, frames: Var) -> tuple[Var, Var]:
    """The earlier and the later of the frames i64[B, 2] of video: f32[B, C, H, W] each."""
    batch, _, count, *_ = video.shape
    first, second = b.split(frames, axis=1, sizes=(1, 1), out="first second")

    def frame(index: Var, out: str) -> Var:
        chosen = b.cast(b.equal(index, b.arange(count)), to="f32", out="chosen")
        return b.sum(video * b.reshape(chosen, shape=(batch, 1, count, 1, 1)), axes=(2,), keepdims=False, out=out)

    return frame(b.minimum(first, second), "source"), frame(b.maximum(first, second), "driving")


def _mean(b: Builder, x: Var) -> Var:
    """f32[]."""
    return b.mean(x, axes=tuple(range(x.type.rank)), keepdims=False)
