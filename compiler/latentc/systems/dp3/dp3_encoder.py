"""DP3's observation encoder: a PointNet over a point cloud, and an MLP over the robot's state.

Symbols: B batch, S observation steps, P points, G features of an observation.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Size
from latentc.components.backbone import Backbone, add_method
from latentc.components.blocks.norms.layer_norm import LayerNorm
from latentc.components.capabilities import Capability
from latentc.components.contract import Network, Port
from latentc.components.fields import AxisName
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, module_class
from latentc.ir.types import B, TensorType

_NORM = LayerNorm(kind="layer_norm", eps=1e-5, affine=True)


class Dp3Encoder(Backbone):
    """Encodes observations of 3D Diffusion Policy (Ze et al. 2024, arXiv:2403.03954).

    Takes a point cloud f32[B, P, C], or one per observation step f32[B, S, P, C], and the robot's state f32[B, D] or
    f32[B, S, D]; returns the features of all steps f32[B, S * G].
    """

    kind: Literal["dp3_encoder"]
    points: AxisName = Field("point_cloud", description="data field of the point cloud: [points, coordinates]")
    state: AxisName | None = Field("agent_pos", description="data field of the robot's state; null: none")
    widths: tuple[Size, ...] = Field(
        (64, 128, 256), min_length=1, max_length=64, description="widths of the layers applied to each point"
    )
    features: int = Field(64, gt=0, le=65_536, description="dimension of a point cloud's features")
    state_widths: tuple[Size, ...] = Field(
        (64, 64), min_length=1, max_length=64, description="widths of the layers applied to the robot's state"
    )
    layer_norm: bool = Field(True, description="normalise after each layer on points")
    final_norm: bool = Field(True, description="normalise the features of a point cloud")
    last_relu: bool = Field(
        True, description="ReLU after the last layer on points (disabled by the authors for coloured points)"
    )
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"encode"})
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "dp3_encoder",
        "points": "points",
        "state": None,
        "widths": [8, 16],
        "features": 8,
    }

    @property
    def fields(self) -> tuple[str, ...]:
        """Data fields that are encoded."""
        return (self.points, *([self.state] if self.state else []))

    def problems(self, spec: Spec) -> Iterator[Problem]:
        shapes = []
        for key, rank in (("points", 2), ("state", 1)):
            name = getattr(self, key)
            if name is None:
                continue
            field = spec.data.fields.get(name)
            if field is None:
                known = ", ".join(spec.data.fields) or "none"
                yield Problem((key,), f"the data has no field `{name}`", f"fields of the data: {known}")
            elif len(field.shape) not in (rank, rank + 1) or field.classes:
                wanted = "[points, coordinates]" if key == "points" else "[dimensions]"
                message = (
                    f"field `{name}` has shape {list(field.shape)}, but a dp3_encoder takes "
                    f"{wanted}, or one such array per step"
                )
                yield Problem((key,), message)
            else:
                shapes.append(field.shape[:-rank])
        if len(set(shapes)) > 1:
            message = f"`{self.points}` and `{self.state}` have different numbers of observation steps"
            yield Problem(("state",), message)

    def encoding(self, spec: Spec) -> tuple[tuple[Port, ...], TensorType]:
        shapes = [spec.data.fields[name].shape if name in spec.data.fields else () for name in self.fields]
        ports = tuple(Port(name, f32(B, *shape), "state") for name, shape in zip(self.fields, shapes, strict=True))
        steps = shapes[0][0] if len(shapes[0]) == 3 else 1
        return ports, f32(B, steps * (self.features + (self.state_widths[-1] if self.state else 0)))

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        ports, _ = self.encoding(spec)
        static = {"coordinates": spec.data.fields[self.points].shape[-1], "features": self.features}
        if self.state:
            static["state_dim"] = spec.data.fields[self.state].shape[-1]
        steps = "S " * (len(spec.data.fields[self.points].shape) == 3)
        encode = add_method(mb, name, "encode", _network(self, steps), ports, static)
        return Network(name, {"encode": encode}, self.PROVIDES)


@cache
def _network(config: Dp3Encoder, steps: str) -> BlockBody:
    shapes = (f"B {steps}P coordinates", f"B {steps}state_dim")

    @module_class("Dp3Encoder", "encode", **dict(zip(config.fields, shapes, strict=False)))
    def encode(b: Builder, *observed: Var, coordinates: int, features: int, **static: Any) -> Var:
        """Encodes the point cloud and the robot's state of each observation step; one vector per sample."""
        points, *state = observed
        found = [b.sub("extractor", _point_net(config, steps), points, coordinates=coordinates, features=features)]
        for h in state:
            for i, width in enumerate(config.state_widths):
                h = b.dense(f"state_mlp.{i}", b.relu(h) if i else h, width, out="state")
            found.append(h)
        x = b.concat(*found, axis=-1 % found[0].type.rank, out="x") if state else found[0]
        return x if x.type.rank == 2 else b.reshape(x, shape=(x.shape[0], x.shape[1] * x.shape[2]))

    return encode


@cache
def _point_net(config: Dp3Encoder, steps: str) -> BlockBody:
    @module_class("PointNet", points=f"B {steps}P coordinates")
    def forward(b: Builder, points: Var, *, coordinates: int, features: int) -> Var:
        """Layers applied to each point, the maximum over all points, and a projection."""
        x = points
        for i, width in enumerate(config.widths):
            x = b.dense(f"mlp.{i}", x, width, out="x")
            last = i + 1 == len(config.widths)
            if config.layer_norm and (config.last_relu or not last):
                x = _NORM.apply(b, f"norms.{i}", x)
            x = b.relu(x, out="x") if config.last_relu or not last else x
        x = b.max(x, axes=(x.type.rank - 2,), keepdims=False, out="x")
        if not config.final_norm:
            return b.dense("projection", x, features)
        return _NORM.apply(b, "projection.norm", b.dense("projection.linear", x, features, out="x"))

    return forward
