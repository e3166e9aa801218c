"""A field of densities, modulated per patient, and its integrals along rays.

Symbols: B batch, H rows and columns of the detector, P rays (one per pixel), N points per ray, M points, K patients,
R points of a grid per axis, W channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.backbone import Backbone, add_method, asked
from latentc.components.capabilities import TRAINING, Capability
from latentc.components.condition import Form
from latentc.components.contract import Network, Port
from latentc.components.kit import rays
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, items, module_class
from latentc.ir.types import B

RESOLUTION = "resolution"
"""The sampler's request: the points of the grid of `volume`, per axis."""
CHUNK = "chunk"
"""The sampler's request: the rays of a call of `render_at`, and the points of a call of `density_at`."""


class ModulatedField(Backbone):
    """A SIREN of points in [-1, 1]^3, the inputs of whose layers are scaled and shifted for each patient, the class
    (conditional neural fields; Papa et al. 2023, arXiv:2307.08351).

    Patients and angles of the beam f32[B, 1], in radians, -> projections x f32[B, 1, H, H]: integrals of the density
    along rays from a source that circles around the y axis. In training, points are at random places of their parts of
    the rays.
    """

    kind: Literal["modulated_field"]
    width: int = Field(32, gt=0, le=65_536, description="channels of the field's layers (W)")
    depth: int = Field(2, ge=0, le=64, description="layers after the first one, before that of the density")
    omega: float = Field(30.0, gt=0, le=1e6, description="frequency of the sines")
    modulation: Literal["film", "additive"] = Field("film", description="scale and shift, or shift alone")
    code_dim: int = Field(8, gt=0, le=65_536, description="dimension of the learned code of a patient")
    own_width: int | None = Field(
        None,
        gt=0,
        le=65_536,
        description="channels of the field that each patient has instead of a code, whose output at each point "
        "modulates there (neural modulation fields); null: a code",
    )
    points: int = Field(32, gt=0, le=4_096, description="points per ray (N)")
    distance: float = Field(
        4.0, gt=1.8, description="distance of the source from the centre, in halves of the volume's side"
    )
    fov: float = Field(45.0, gt=0, lt=180, description="angle in degrees between the first and the last column of rays")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"project"})
    TAKES: ClassVar[tuple[Form, ...]] = ("array", "vector")
    CLASS: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "modulated_field", "width": 6, "depth": 1, "code_dim": 3, "points": 4}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        shape, taken = spec.data.shape, self.takes(spec)
        patient = taken.get("class")
        if shape is None or len(shape) != 3 or shape[0] != 1 or shape[1] != shape[2]:
            yield Problem((), f"a {self.kind} makes projections [1, H, H], but the data has {spec.data.words}")
        yield from self.problems_of_conditions(spec)
        if patient is None and "class" in spec.conditions:
            message = f"a {self.kind} takes the patient, but `conditions` lacks `class`"
            yield Problem(("conditions",), message, "add `class` to the list, or leave the list out")
        if patient is not None and (patient.nullable or patient.ports("class", spec)[0].type.is_float):
            message = f"a {self.kind} takes the patient as the index of a class that is never dropped"
            yield Problem((), message, "write `conditioning.class: {kind: label, dropout: 0}`")
        others = {name: one for name, one in taken.items() if name != "class"}
        ports = [port for name, one in others.items() for port in one.ports(name, spec)]
        if len(ports) != 1 or ports[0].type.shape[1:] != (1,):
            message = f"a {self.kind} takes the class and one angle, but got {', '.join(others) or 'no angle'}"
            help = "add a field `angle: {shape: [1]}` to the data, and `conditioning.angle: {kind: array}`"
            yield Problem((), message, help)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        entries = self.entries(spec)
        (patient,) = (entry.ports[0] for entry in entries if entry.name == "class")
        (angle,) = (entry.ports[0] for entry in entries if entry.name != "class")
        static = {"patients": patient.values, "width": self.width}
        static |= {"code_dim": self.code_dim} if self.own_width is None else {"own_width": self.own_width}
        side, resolution, chunk = spec.data.shape[1], asked(spec, name, RESOLUTION), asked(spec, name, CHUNK)
        forward, train_forward, density_at, density_of, volume, render_at = _methods(self, side, resolution)
        places = Port("places", f32(B, side * side, self.points), "noise", distribution="uniform")
        points = Port("points", f32(B, chunk or self.points, 3), "state")
        methods = {
            "forward": add_method(mb, name, "forward", forward, (patient, angle), static),
            TRAINING: add_method(mb, name, TRAINING, train_forward, (places, patient, angle), static),
            "density_at": add_method(mb, name, "density_at", density_at, (points, patient), static),
        }
        if resolution is not None:
            methods["volume"] = add_method(mb, name, "volume", volume, (patient,), static)
            point = Port("point", f32(B, 3), "state")
            methods["density_of"] = add_method(mb, name, "density_of", density_of, (point, patient), static)
        if chunk is not None:
            pixels = Port("pixels", f32(B, chunk, 2), "state")
            methods["render_at"] = add_method(mb, name, "render_at", render_at, (pixels, patient, angle), static)
        return Network(name, methods, self.PROVIDES, sizes={"depth": self.depth})


@cache
def _methods(config: ModulatedField, side: int, resolution: int | None) -> tuple[BlockBody, ...]:
    field, modulations = _field(config.depth, config.omega), _modulations(config)

    def densities(b: Builder, points: Var, patient: Var, sizes: dict[str, Any]) -> Var:
        """f32[B, M, 1], from 0 to 1, at points [B, M, 3]."""
        shift = modulations(b, points, patient, sizes)
        return b.sub("field", field, points, *shift, out="density", width=sizes["width"])  # type: ignore[no-any-return]

    def integrals(b: Builder, of_pixels: Var | None, places: Var, given: tuple[Var, ...], sizes: dict[str, Any]) -> Var:
        """f32[B, P, 1], along rays [B, P, 3] in the space of the beam; None: those of the detector."""
        patient, angle = given
        batch, n = patient.shape[0], config.points
        count = side * side if of_pixels is None else of_pixels.shape[1]
        rotation, away = rays.orbit(b, angle * 0.0 + math.pi / 2, angle)
        origin = b.mul(away, config.distance, out="origin")
        if of_pixels is None:
            of_pixels = b.constant(rays.pinhole(side, config.fov)[None], "f32", out="of_pixels")
        directions = b.matmul(of_pixels, rotation, out="directions")  # [B, P, 3]
        near, length = rays.through_cube(b, origin, directions)
        index = b.constant(np.arange(n)[None, None], "f32", out="index")
        depths = b.add(near, (places + index) * length * (1 / n), out="depths")  # [B, P, N]
        points = b.reshape(rays.along(b, origin, directions, depths), shape=(batch, count * n, 3), out="points")
        density = b.reshape(densities(b, points, patient, sizes), shape=(batch, count, n), out="density")
        return b.mean(density, axes=(2,), keepdims=True) * length  # type: ignore[no-any-return]

    def projected(b: Builder, places: Var, given: tuple[Var, ...], sizes: dict[str, Any]) -> Var:
        integral = integrals(b, None, places, given, sizes)
        return b.reshape(integral, shape=(given[0].shape[0], 1, side, side), out="x")  # type: ignore[no-any-return]

    @module_class("ModulatedField")
    def forward(b: Builder, *given: Var, **sizes: Any) -> Var:
        """Projections of patients at angles, from the middle of each part of the rays."""
        return projected(b, b.constant(np.full((1, 1, 1), 0.5), "f32", out="middle"), given, sizes)

    @module_class("ModulatedField", TRAINING)
    def train_forward(b: Builder, places: Var, *given: Var, **sizes: Any) -> Var:
        """Projections for training, from random places of the parts of the rays."""
        return projected(b, places, given, sizes)

    @module_class("ModulatedField", "density_at", points="B M 3")
    def density_at(b: Builder, points: Var, *given: Var, **sizes: Any) -> Var:
        """Densities of patients at points."""
        return densities(b, points, given[0], sizes)

    @module_class("ModulatedField", "density_of")
    def density_of(b: Builder, point: Var, *given: Var, **sizes: Any) -> Var:
        """Densities [B, 1] of patients at one point each."""
        batch = point.shape[0]
        density = densities(b, b.reshape(point, shape=(batch, 1, 3), out="points"), given[0], sizes)
        return b.reshape(density, shape=(batch, 1), out="density")  # type: ignore[no-any-return]

    @module_class("ModulatedField", "volume")
    def volume(b: Builder, *given: Var, **sizes: Any) -> Var:
        """Densities of patients at the middles of the cells of a grid over [-1, 1]^3, by x, y and z."""
        assert resolution is not None
        (patient,) = given
        line = (np.arange(resolution) * 2 + 1) / resolution - 1
        grid = np.stack(np.meshgrid(line, line, line, indexing="ij"), axis=-1).reshape(1, -1, 3)
        batch, count = patient.shape[0], resolution**3
        points = b.broadcast_to(b.constant(grid, "f32", out="grid"), patient, shape=(batch, count, 3), out="points")
        shape = (batch, 1, resolution, resolution, resolution)
        return b.reshape(densities(b, points, patient, sizes), shape=shape, out="volume")  # type: ignore[no-any-return]

    @module_class("ModulatedField", "render_at", pixels="B P 2")
    def render_at(b: Builder, pixels: Var, *given: Var, **sizes: Any) -> Var:
        """Integrals [B, P, 1] along the rays through places of the detector (down and right, from -1 to 1)."""
        middle = b.constant(np.full((1, 1, 1), 0.5), "f32", out="middle")
        of_pixels = rays.through_pixels(b, pixels, config.fov)
        return integrals(b, of_pixels, middle, given, sizes)

    return forward, train_forward, density_at, density_of, volume, render_at


def _modulations(config: ModulatedField) -> Any:
    """The function from points and patients to the scales of layers, if they are scaled, and then their shifts."""

    def of_code(b: Builder, points: Var, patient: Var, sizes: dict[str, Any]) -> tuple[Var, ...]:
        codes = b.param("codes", f32(sizes["patients"], sizes["code_dim"]), "normal")
        code, width = b.embedding(codes, patient, out="code"), sizes["width"]
        own = {"code_dim": sizes["code_dim"], "width": width}
        if config.modulation == "additive":
            found = [b.sub("modulation", _shift, code, out="shift", **own)]
        else:
            found = list(b.sub("modulation", _film, code, out="scale shift", **own))
        return tuple(b.reshape(x, shape=(x.shape[0], 1, width), out=x.value.name) for x in found)

    def of_field(b: Builder, points: Var, patient: Var, sizes: dict[str, Any]) -> tuple[Var, ...]:
        patients, width, own = sizes["patients"], sizes["width"], sizes["own_width"]
        tables = {
            "own_enter_weight": ((3, own), "linear_default", 3),
            "own_enter_bias": ((1, own), "linear_default", 3),
            "own_shift_weight": ((own, width), "linear_default", own),
            "own_shift_bias": ((1, width), "zeros", None),
        }
        if config.modulation == "film":
            tables["own_scale_weight"] = ((own, width), "linear_default", own)
            tables["own_scale_bias"] = ((1, width), "ones", None)
        rows = {}
        for name, (shape, init, fan_in) in tables.items():
            args = {} if fan_in is None else {"fan_in": fan_in}
            rows[name] = b.take(b.param(name, f32(patients, *shape), init, **args), patient, axis=0, out=name[4:])
        h = b.add(b.matmul(points, rows["own_enter_weight"]), rows["own_enter_bias"], out="h")
        h = b.leaky_relu(h, slope=0.01, out="h")
        names = ("scale", "shift") if config.modulation == "film" else ("shift",)
        return tuple(
            b.add(b.matmul(h, rows[f"own_{name}_weight"]), rows[f"own_{name}_bias"], out=name) for name in names
        )

    return of_code if config.own_width is None else of_field


@module_class("AdditiveModulation", code="B code_dim")
def _shift(b: Builder, code: Var, *, code_dim: int, width: int) -> Var:
    """The shifts of layers, from codes of patients."""
    h = b.relu(b.dense("layers.0", code, width), out="h")
    h = b.relu(b.dense("layers.1", h, width), out="h")
    return b.dense("layers.2", h, width, out="shift")


@module_class("FilmModulation", code="B code_dim")
def _film(b: Builder, code: Var, *, code_dim: int, width: int) -> tuple[Var, ...]:
    """The scales and shifts of layers, from codes of patients."""
    h = b.gelu(b.dense("shared.0", code, width), approximate="none", out="h")
    h = b.gelu(b.dense("shared.1", h, width * 2), approximate="none", out="h")
    found = []
    for name, part in zip(("scale", "shift"), b.split(h, axis=1, sizes=(width, width), out="scale shift"), strict=True):
        part = b.gelu(b.dense(f"{name}.0", part, width), approximate="none", out=name)
        found.append(b.gelu(b.dense(f"{name}.1", part, width), approximate="none", out=name))
    return tuple(found)


@cache
def _field(depth: int, omega: float) -> BlockBody:
    bound: dict[str, Any] = {"init": "kaiming_uniform", "gain": math.sqrt(2) / omega}  # up to sqrt(6 / inputs) / omega

    def layer(b: Builder, name: str, x: Var, features: Any, init: str, **args: Any) -> Var:
        weight = b.param(f"{name}.weight", f32(features, x.shape[-1]), init, **args)
        bias = b.param(f"{name}.bias", f32(features), "linear_default", fan_in=x.shape[-1])
        return b.linear(x, weight, bias, out="h")

    @module_class("DensityField", points="B M 3")
    def field(b: Builder, points: Var, *modulation: Var, width: int) -> Var:
        """Densities [B, M, 1] at points [B, M, 3]."""
        *scale, shift = modulation

        def modulated(h: Var) -> Var:
            return b.add(b.mul(h, scale[0], out="h") if scale else h, shift, out="h")  # type: ignore[no-any-return]

        h = b.sin(layer(b, "enter", points, width, "uniform", bound=1 / 3) * omega, out="h")
        for name in items("layers", depth):
            h = b.sin(layer(b, name, modulated(h), width, **bound) * omega, out="h")
        return b.sigmoid(layer(b, "leave", modulated(h), 1, **bound), out="density")  # type: ignore[no-any-return]

    return field
