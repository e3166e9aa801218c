"""A conditional flow of vectors of a few numbers: autoregressive splines, as NeuralCSA has two of.

Beside transformer_flow, whose tokens are patches of images and whose maps are affine.

Symbols: B batch, D numbers of a sample, C numbers of the conditions, K bins.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone, add_method
from latentc.components.capabilities import Capability, Role
from latentc.components.condition import Entry, Form, ports_of
from latentc.components.contract import Network, Port
from latentc.components.parts import Problem, Spec, dense
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, module_class
from latentc.ir.types import B
from latentc.systems.neural_csa.arrays import joined, problems_of_arrays, size_of
from latentc.systems.neural_csa.splines import parameters, spline


class SplineFlow(Backbone):
    """Linear rational splines, parameterised by a multilayer perceptron of the conditions and the previous dimensions.

    `forward`: x f32[B, D], conditions -> z f32[B, D], log-determinant per dimension f32[B]. `inverse`: z, conditions ->
    x. `shift`: z, conditions -> x, log-determinant f32[B]. Durkan et al. 2019, arXiv:1906.04032, with the splines of
    Dolatabadi et al. 2020, arXiv:2001.05168.
    """

    kind: Literal["spline_flow"]
    width: int = Field(gt=0, le=65_536, description="width of the hidden layers")
    depth: int = Field(2, gt=0, le=64, description="number of hidden layers")
    bins: int = Field(8, gt=1, le=1_024, description="bins per spline (K)")
    bound: float = Field(3.0, gt=0, le=1_000, description="bound beyond which values are unchanged")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "spline_flow", "width": 8, "bins": 4}

    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"flow", "shift"})
    TAKES: ClassVar[tuple[Form, ...]] = ("array",)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if spec.data.shape is None or len(spec.data.shape) != 1:
            yield Problem((), f"a spline_flow models vectors, but the data has {spec.data.words}")
        yield from problems_of_arrays(self, spec)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        (size,) = spec.data.shape
        entries = self.entries(spec)
        static = {"size": size, "conditions": size_of(entries), "width": self.width, "bins": self.bins}
        cond = ports_of(entries)
        x, z = Port("x", f32(B, size), "state"), Port("z", f32(B, size), "noise")
        signatures: dict[str, tuple[tuple[Port, ...], tuple[Role, ...]]] = {
            "forward": ((x, *cond), ("output", "log_det")),
            "inverse": ((z, *cond), ("output",)),
            "shift": ((z, *cond), ("output", "log_det")),
        }
        methods = {
            method: add_method(mb, name, method, _method(self, entries, method), ports, static, outputs)
            for method, (ports, outputs) in signatures.items()
        }
        return Network(name, methods, self.PROVIDES)


@cache
def _dimension(config: SplineFlow, inverse: bool) -> BlockBody:
    @module_class("ConditionalSpline", *(("invert",) if inverse else ()), seen="B inputs")
    def mapped(b: Builder, x: Var, seen: Var, *, inputs: int, width: int, bins: int) -> tuple[Var, Var]:
        """A spline that depends on the numbers `seen`: values [B, 1], and logarithms of slopes."""
        for i in range(config.depth):
            seen = b.relu(dense(b, f"layers.{i}", seen, width, True, "xavier"), out="seen")
        numbers = dense(b, f"layers.{config.depth}", seen, parameters(bins), True, "xavier", out="numbers")
        return spline(b, x, numbers, bins, config.bound, inverse)

    if inverse:
        mapped.body.__doc__ = (
            "What a spline that depends on the numbers `seen` maps to x, and logarithms of the inverse's slopes."
        )
    return mapped


@cache
def _method(config: SplineFlow, entries: tuple[Entry, ...], method: str) -> BlockBody:
    to_latent = method == "forward"
    dimension = _dimension(config, to_latent)

    def mapped(b: Builder, given: Var, conditions: tuple[Var, ...], static: Mapping[str, Any]) -> tuple[Var, Var]:
        """Both ways, splines depend on latents: (mapped numbers f32[B, D], log-determinant f32[B])."""
        context, size = joined(b, entries, conditions), int(given.shape[1])
        columns = b.split(given, axis=1, sizes=(1,) * size, out="number") if size > 1 else (given,)
        latents: list[Var] = []
        made: list[Var] = []
        slopes: list[Var] = []
        for i, column in enumerate(columns):
            seen = b.concat(context, *latents, axis=1, out="seen") if latents else context
            sizes = {"inputs": static["conditions"] + i, "width": static["width"], "bins": static["bins"]}
            value, slope = b.sub(f"dims.{i}", dimension, column, seen, out="value slope", **sizes)
            latents.append(value if to_latent else column)
            made.append(value)
            slopes.append(slope)
        every = b.concat(*made, axis=1, out="mapped") if size > 1 else made[0]
        slope = b.concat(*slopes, axis=1, out="slopes") if size > 1 else slopes[0]
        return every, b.sum(slope, axes=(1,), keepdims=False, out="log_det")

    @module_class("SplineFlow")
    def forward(b: Builder, x: Var, *conditions: Var, **static: Any) -> tuple[Var, Var]:
        """The latent of a sample, and the log-determinant per dimension."""
        z, log_det = mapped(b, x, conditions, static)
        return z, b.mul(log_det, 1 / int(x.shape[1]), out="log_det") if int(x.shape[1]) > 1 else log_det

    @module_class("SplineFlow", "inverse")
    def inverse(b: Builder, z: Var, *conditions: Var, **static: Any) -> Var:
        """The sample of a latent."""
        return mapped(b, z, conditions, static)[0]

    @module_class("SplineFlow", "shift")
    def shift(b: Builder, z: Var, *conditions: Var, **static: Any) -> tuple[Var, Var]:
        """The sample of a latent, and the log-determinant."""
        return mapped(b, z, conditions, static)

    return {"forward": forward, "inverse": inverse, "shift": shift}[method]
