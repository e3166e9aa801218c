"""Programs that render a latent, or an image, from a camera."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Need, Network, OutputField, Program
from latentc.components.kit import Conditions, call
from latentc.components.parts import Spec
from latentc.components.sampler import Sampler
from latentc.ir.builder import ModuleBuilder
from latentc_runtime.sources import Condition, ConditionSource, RandomSource


class CameraViews(Sampler):
    """Renders a random latent from the camera of a request; if there is a network `encoder`, program `novel_view`
    renders an image passed as `image` from that camera (Pix2NeRF, arXiv:2202.13162).
    """

    kind: Literal["camera_views"]
    guidance: None = Field(None, description="always null: there is no guidance")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "camera_views"}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        encoder = (Need("encoder", "find_views"),) if "encoder" in spec.networks else ()
        return Need("main", "render_views"), *encoder

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `sample.1`: uniform z f32[B, Z] and the conditions -> one image each."""
        network, conditions = networks["main"], Conditions(spec, networks)
        b = mb.function("sample.1")
        z = b.input("z", network.methods["forward"].input("noise").type)
        cond = conditions.operands(b, conditions.inputs(b))
        b.output(call(b, network, "forward", cond, noise=z * 2.0 - 1.0, out="x"))
        mb.entries["sample.1"] = b.finish("Renders random latents from the cameras of the request.")
        return Program("sample.1", self.kind, 1, 1, {"z": RandomSource("uniform", "z"), **conditions.sources()})

    def programs(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Program, ...]:
        """`sample`, and `novel_view` if there is an encoder."""
        sample = self.build(mb, networks, spec)
        if "encoder" not in networks:
            return (sample,)
        conditions, encoder = Conditions(spec, networks), networks["encoder"]
        b, field = mb.function("novel_view"), spec.data.fields["x"]
        image = b.input("image", encoder.methods["forward"].input("state").type)
        cond = conditions.operands(b, conditions.inputs(b))
        z, _ = call(b, encoder, "forward", cond, state=image, out="z camera_of_image")
        b.output(call(b, networks["main"], "forward", cond, noise=z, out="x"))
        mb.entries["novel_view"] = b.finish("Renders what an image shows from the cameras of the request.")
        given = (Condition("image", "array", field.shape, "f32", field.axes),)
        sources = {"image": ConditionSource("image"), **conditions.sources()}
        output = (OutputField("x", "x"),)
        novel = Program("novel_view", self.kind, 1, 2, sources, name="novel_view", outputs=output, conditions=given)
        return sample, novel
