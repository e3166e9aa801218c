"""The program of a flow autoencoder: an image moved as a video moves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Network, OutputField, Program
from latentc.components.kit import call
from latentc.components.parts import Spec
from latentc.components.sampler import Sampler
from latentc.ir.builder import ModuleBuilder
from latentc_runtime.sources import Condition, ConditionSource


class MotionTransfer(Sampler):
    """Program `transfer` moves an image passed as `image` to what each frame of a video passed as `video` shows.

    With the first frame as the image, it reconstructs the video.
    """

    kind: Literal["motion_transfer"]
    guidance: None = Field(None, description="always null: there is no guidance")
    NEEDS = "animate"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "motion_transfer"}

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        network, field = networks["main"], spec.data.fields["x"]
        b = mb.function("transfer")
        image, video = (b.input(port.name, port.type) for port in network.methods["flow"].inputs)
        motion = call(b, network, "flow", {}, state=[image, video], out="motion")
        b.output(call(b, network, "animate", {}, state=[image, motion], out="moved"))
        mb.entries["transfer"] = b.finish("Finds the motion in a video and moves an image by it.")
        channels, _, *sides = field.shape
        axes = [axis for axis, size in zip(field.axes, field.shape, strict=False)]
        given = (
            Condition("image", "array", (channels, *sides), "f32", (axes[0], *axes[2:]) if axes else ()),
            Condition("video", "array", field.shape, "f32", field.axes),
        )
        sources = {name: ConditionSource(name) for name in ("image", "video")}
        output = OutputField("moved", "x")
        return Program("transfer", self.kind, 1, 2, sources, name="transfer", outputs=(output,), conditions=given)
