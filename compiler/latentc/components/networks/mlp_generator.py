"""A generator that is a multilayer perceptron.

Symbols: B batch, Z dimension of the latent z, D numbers of a sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import add_method
from latentc.components.capabilities import Capability
from latentc.components.condition import Entry, ports_of
from latentc.components.contract import Network, Port
from latentc.components.networks._gan import problems_of_dropping, problems_of_index
from latentc.components.networks._mlp import Mlp
from latentc.components.parts import Problem, Spec, dense
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, module_class
from latentc.ir.types import B


class MlpGenerator(Mlp):
    """Makes samples of any shape, such as vectors of features, from z f32[B, Z] and conditions.

    Mirza and Osindero 2014 (arXiv:1411.1784): z and the class each pass through a layer of their own, then join.
    """

    kind: Literal["mlp_generator"]
    latent_dim: int = Field(gt=0, le=65_536, description="dimension of the latent z (Z)")
    latent_width: int | None = Field(
        None, gt=0, le=65_536, description="width of a layer of z alone, before conditions join; null: z joins as it is"
    )
    output: Literal["tanh", "sigmoid", "relu", "linear"] = Field("tanh", description="function of the last layer")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"generate"})
    EXAMPLE: ClassVar[dict[str, Any]] = {
        **{"kind": "mlp_generator", "latent_dim": 4, "latent_width": 6, "condition_width": 5, "widths": [8]}
    }

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        yield from problems_of_index(self, spec)
        yield from problems_of_dropping(self, spec)

    def latent(self, b: Builder, z: Var) -> Var:
        """The noise f32[B, Z] that enters the first layer."""
        return z

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        entries = self.entries(spec)
        static = {"latent_dim": self.latent_dim, **self.static(spec)}
        static |= {"latent_width": self.latent_width} if self.latent_width is not None else {}
        ports = (Port("z", f32(B, self.latent_dim), "noise"), *ports_of(entries))
        shape = spec.data.shape
        body = _network(self, entries, shape)
        if len(shape) == 1:
            static |= {"channels": shape[0]}
        forward = add_method(mb, name, "forward", body, ports, static)
        return Network(name, {"forward": forward}, self.PROVIDES)


@cache
def _network(config: MlpGenerator, entries: tuple[Entry, ...], shape: tuple[int, ...]) -> BlockBody:
    size = 1
    for side in shape:
        size *= side

    @module_class("MlpGenerator", z="B latent_dim")
    def forward(b: Builder, z: Var, *conditions: Var, **static: Any) -> Var:
        """Makes samples out of noise z."""
        h = config.latent(b, z)
        h = h if config.latent_width is None else config.layer(b, "latent", h, static["latent_width"], static)
        h = config.hidden(b, config.joined(b, h, entries, conditions, static), static)
        x = dense(b, "output", h, static.get("channels", size), True, config.weights, out="x")
        x = x if config.output == "linear" else getattr(b, config.output)(x, out="x")
        return x if len(shape) == 1 else b.reshape(x, shape=(z.shape[0], *shape))

    return forward
