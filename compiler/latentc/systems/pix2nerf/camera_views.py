"""Programs that render a latent, or an image, from a camera."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Need, Network, OutputField, Program
from latentc.components.fields import Field as DataField
from latentc.components.kit import Conditions, call
from latentc.components.parts import Spec
from latentc.components.sampler import Sampler
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.systems.pix2nerf.radiance_generator import CHUNK, RadianceGenerator
from latentc_runtime.chunks import Chunk, Grid
from latentc_runtime.sources import Condition, ConditionSource, RandomSource, Source


class CameraViews(Sampler):
    """Renders a random latent from the camera of a request; if there is a network `encoder`, program `novel_view`
    renders an image passed as `image` from that camera (Pix2NeRF, arXiv:2202.13162).

    With `chunk`, programs `render` and `render_image` give the same views at any places `pixels` of the image, or at
    any resolution, and `field` the colours and densities at any `points`, seen in `directions`.
    """

    kind: Literal["camera_views"]
    chunk: int | None = Field(
        4096,
        gt=0,
        le=1_048_576,
        description="rays or points per sample and engine call of `render`, `render_image` and `field`, of which a "
        "request gives any number; null: no such programs",
    )
    guidance: None = Field(None, description="always null: there is no guidance")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "camera_views", "chunk": 5}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        asks = {} if self.chunk is None else {CHUNK: self.chunk}
        encoder = (Need("encoder", "find_views"),) if "encoder" in spec.networks else ()
        return Need("main", "render_views", asks=asks), *encoder

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
        """`sample`; `novel_view` if there is an encoder; `render`, `render_image` and `field` if there is a chunk."""
        found = [self.build(mb, networks, spec)]
        image = self._novel_view(mb, networks, spec) if "encoder" in networks else None
        found += [] if image is None else [image]
        if self.chunk is not None:
            found.append(self._render(mb, networks, spec, "render"))
            found += [] if image is None else [self._render(mb, networks, spec, "render_image")]
            found.append(self._field(mb, networks, spec))
        return tuple(found)

    def _novel_view(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        conditions = Conditions(spec, networks)
        b, field = mb.function("novel_view"), spec.data.fields["x"]
        image = b.input("image", networks["encoder"].methods["forward"].input("state").type)
        cond = conditions.operands(b, conditions.inputs(b))
        z, _ = call(b, networks["encoder"], "forward", cond, state=image, out="z camera_of_image")
        b.output(call(b, networks["main"], "forward", cond, noise=z, out="x"))
        mb.entries["novel_view"] = b.finish("Renders what an image shows from the cameras of the request.")
        given = (Condition("image", "array", field.shape, "f32", field.axes),)
        sources = {"image": ConditionSource("image"), **conditions.sources()}
        output = (OutputField("x", "x"),)
        return Program("novel_view", self.kind, 1, 2, sources, name="novel_view", outputs=output, conditions=given)

    def _latent(self, b: Builder, networks: Mapping[str, Network]) -> Var:
        """Adds the input z, uniform between 0 and 1; returns the latent."""
        z = b.input("z", networks["main"].methods["forward"].input("noise").type)
        return z * 2.0 - 1.0  # type: ignore[no-any-return]

    def _render(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec, name: str) -> Program:
        """Colours [B, N, C] at places of images of random latents, or of what an image shows."""
        assert self.chunk is not None
        network, conditions, field = networks["main"], Conditions(spec, networks), spec.data.fields["x"]
        b, given = mb.function(name), [Condition("pixels", "array", (self.chunk, 2), "f32", ("pixel", "coordinate"))]
        pixels = b.input("pixels", network.methods["render_at"].input("state").type)
        sources: dict[str, Source] = {"pixels": ConditionSource("pixels")}
        if name == "render":
            z, sources["z"] = self._latent(b, networks), RandomSource("uniform", "z")
            cond = conditions.operands(b, conditions.inputs(b))
        else:
            image = b.input("image", networks["encoder"].methods["forward"].input("state").type)
            given.append(Condition("image", "array", field.shape, "f32", field.axes))
            sources["image"] = ConditionSource("image")
            cond = conditions.operands(b, conditions.inputs(b))
            z, _ = call(b, networks["encoder"], "forward", cond, state=image, out="z camera_of_image")
        b.output(call(b, network, "render_at", cond, state=pixels, noise=z, out="colours"))
        whose = "random latents" if name == "render" else "what an image shows"
        mb.entries[name] = b.finish(f"Colours at places of images of {whose}, from the cameras of the request.")
        channels = field.shape[0]
        made = DataField(shape=(self.chunk, channels), axes=("pixel", "channel"), range=field.range)
        return Program(
            name,
            self.kind,
            1,
            1 if name == "render" else 2,
            sources | conditions.sources(),
            name=name,
            outputs=(OutputField("colours", made),),
            conditions=tuple(given),
            chunk=Chunk(self.chunk, ("pixels",), Grid(("height", "width"))),
        )

    def _field(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Colours [B, N, C] and densities [B, N, 1] of random latents at points."""
        network, main = networks["main"], spec.networks["main"]
        assert self.chunk is not None and isinstance(main, RadianceGenerator)
        method = network.methods["field_at"]
        taken = {port.name for port in method.inputs_of("condition")}
        names = tuple(n for n, c in spec.conditions.items() if c.ports(n, spec)[0].name in taken)
        conditions = Conditions(spec, networks, names)
        b = mb.function("field")
        at = [b.input(port.name, port.type) for port in method.inputs_of("state")]
        z = self._latent(b, networks)
        cond = conditions.operands(b, conditions.inputs(b))
        seen = call(b, network, "field_at", cond, state=at, noise=z, out="seen")
        channels = int(spec.data.fields["x"].shape[0])
        b.output(*b.split(seen, axis=2, sizes=(channels, 1), out="colours density"))
        mb.entries["field"] = b.finish("Colours, from 0 to 1, and densities of random latents at points.")
        axes = ("point", "coordinate")
        given = (
            Condition("points", "array", (self.chunk, 3), "f32", axes),
            Condition("directions", "array", (self.chunk, 3), "f32", axes, default=[0.0, 0.0, -1.0]),
        )
        outputs = (
            OutputField("colours", DataField(shape=(self.chunk, channels), axes=("point", "channel"))),
            OutputField("density", DataField(shape=(self.chunk, 1), axes=("point", "channel"))),
        )
        return Program(
            "field",
            self.kind,
            1,
            1,
            {c.name: ConditionSource(c.name) for c in given}
            | {"z": RandomSource("uniform", "z"), **conditions.sources()},
            name="field",
            outputs=outputs,
            conditions=given,
            chunk=Chunk(self.chunk, ("points", "directions"), Grid(("x", "y", "z"), main.extent or 2.0, middles=True)),
        )
