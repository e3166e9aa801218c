"""Programs of a field of densities: projections, and volumes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Need, Network, OutputField, Program
from latentc.components.fields import Field as DataField
from latentc.components.kit import Conditions, call
from latentc.components.parts import Spec
from latentc.components.sampler import Sampler
from latentc.ir.builder import ModuleBuilder
from latentc.systems.cond_cbnt.modulated_field import CHUNK, RESOLUTION
from latentc_runtime.chunks import Chunk, Grid
from latentc_runtime.sources import Condition, ConditionSource


class Tomography(Sampler):
    """Program `sample` gives the projection of a patient at an angle, `volume` the densities of a patient on a grid,
    `density` the density of a patient at a `point`: x, y and z from -1 to 1, one for each class of a request.

    With `chunk`, program `render` gives projections at any places `pixels` of the detector, or at any resolution, and
    `field` densities at any `points`.

    Nothing is drawn, so the seed does not matter.
    """

    kind: Literal["tomography"]
    resolution: int = Field(32, gt=0, le=512, description="points of the grid per axis")
    chunk: int | None = Field(
        4096,
        gt=0,
        le=1_048_576,
        description="rays or points per sample and engine call of `render` and `field`, of which a request gives any "
        "number; null: no such programs",
    )
    guidance: None = Field(None, description="always null: there is no guidance")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "tomography", "resolution": 3, "chunk": 5}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        asks = {RESOLUTION: self.resolution, **({} if self.chunk is None else {CHUNK: self.chunk})}
        return (Need("main", "project", asks=asks),)

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `sample.1`: the conditions -> one projection each."""
        network, conditions = networks["main"], Conditions(spec, networks)
        b = mb.function("sample.1")
        b.output(call(b, network, "forward", conditions.operands(b, conditions.inputs(b)), out="x"))
        mb.entries["sample.1"] = b.finish("Integrates densities along the rays of a beam.")
        return Program("sample.1", self.kind, 1, 1, conditions.sources())

    def programs(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Program, ...]:
        """`sample`, `volume` and `density`; `render` and `field` if there is a chunk."""
        sample, network = self.build(mb, networks, spec), networks["main"]
        taken = tuple(port.name for port in network.methods["volume"].inputs_of("condition"))
        names = tuple(n for n, c in spec.conditions.items() if c.ports(n, spec)[0].name in taken)
        conditions = Conditions(spec, networks, names)
        b = mb.function("volume")
        b.output(call(b, network, "volume", conditions.operands(b, conditions.inputs(b)), out="volume"))
        mb.entries["volume"] = b.finish("Evaluates densities on a grid.")
        grid = DataField(shape=(1, *(self.resolution,) * 3), axes=("channel", "x", "y", "z"))
        output = (OutputField("volume", grid),)
        volume = Program("volume", self.kind, 1, 1, conditions.sources(), name="volume", outputs=output)
        b = mb.function("density")
        point = b.input("point", network.methods["density_of"].input("state").type)
        operands = conditions.operands(b, conditions.inputs(b))
        b.output(call(b, network, "density_of", operands, state=point, out="density"))
        mb.entries["density"] = b.finish("Evaluates densities at points.")
        given = (Condition("point", "array", (3,), "f32", ("axis",)),)
        sources = {"point": ConditionSource("point"), **conditions.sources()}
        output = (OutputField("density", DataField(shape=(1,), axes=("channel",))),)
        density = Program("density", self.kind, 1, 1, sources, name="density", outputs=output, conditions=given)
        if self.chunk is None:
            return sample, volume, density
        render = self._of_rows(mb, networks, Conditions(spec, networks), "render")
        return sample, volume, density, render, self._of_rows(mb, networks, conditions, "field")

    def _of_rows(
        self, mb: ModuleBuilder, networks: Mapping[str, Network], conditions: Conditions, name: str
    ) -> Program:
        """Integrals along the rays through places of the detector, or densities at points: [B, N, 1]."""
        assert self.chunk is not None
        row, given, method, made, grid = {
            "render": ("pixel", "pixels", "render_at", "integrals", Grid(("height", "width"))),
            "field": ("point", "points", "density_at", "density", Grid(("x", "y", "z"), middles=True)),
        }[name]
        b, of = mb.function(name), networks["main"].methods[method].input("state").type
        rows = b.input(given, of)
        operands = conditions.operands(b, conditions.inputs(b))
        b.output(call(b, networks["main"], method, operands, state=rows, out=made))
        what = "Integrates densities along rays" if name == "render" else "Evaluates densities at points"
        mb.entries[name] = b.finish(f"{what}, any number of which a request gives.")
        asked = Condition(given, "array", (self.chunk, 2 if name == "render" else 3), "f32", (row, "coordinate"))
        field = DataField(shape=(self.chunk, 1), axes=(row, "channel"))
        return Program(
            name,
            self.kind,
            1,
            1,
            {given: ConditionSource(given), **conditions.sources()},
            name=name,
            outputs=(OutputField(made, field),),
            conditions=(asked,),
            chunk=Chunk(self.chunk, (given,), grid),
        )
