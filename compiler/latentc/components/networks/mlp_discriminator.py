"""A discriminator that is a multilayer perceptron.

Symbols: B batch, D numbers of a sample.
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
from latentc.components.networks._gan import problems_of_index
from latentc.components.networks._mlp import Mlp, flat
from latentc.components.parts import Problem, Spec, dense
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, module_class
from latentc.ir.types import B


class MlpDiscriminator(Mlp):
    """Scores samples of any shape, such as vectors of features, by a multilayer perceptron of x and its conditions.

    Takes x f32[B, ...]; returns `score` f32[B, 1], linear in the last hidden layer.
    """

    kind: Literal["mlp_discriminator"]
    state_width: int | None = Field(
        None, gt=0, le=65_536, description="width of a layer of x alone, before conditions join; null: x joins as it is"
    )
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"discriminate"})
    OUTPUTS: ClassVar[tuple[str, ...]] = ("score",)
    TRAINING_ONLY: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {
        **{"kind": "mlp_discriminator", "state_width": 6, "condition_width": 5, "widths": [8]}
    }

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        yield from problems_of_index(self, spec)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        entries = self.entries(spec)
        static = {"size": self.size(spec), **self.static(spec)}
        static |= {"state_width": self.state_width} if self.state_width is not None else {}
        ports = (Port("x", f32(B, *spec.data.shape), "state"), *ports_of(entries))
        forward = add_method(mb, name, "forward", _network(self, entries), ports, static)
        return Network(name, {"forward": forward}, self.PROVIDES)


@cache
def _network(config: MlpDiscriminator, entries: tuple[Entry, ...]) -> BlockBody:
    @module_class("MlpDiscriminator")
    def forward(b: Builder, x: Var, *conditions: Var, size: int, **static: Any) -> Var:
        """Scores how much samples x look like data."""
        h = flat(b, x, size)
        h = h if config.state_width is None else config.layer(b, "state", h, static["state_width"], static)
        h = config.hidden(b, config.joined(b, h, entries, conditions, static), static)
        return dense(b, "score", h, 1, True, config.weights, out="score")

    return forward
