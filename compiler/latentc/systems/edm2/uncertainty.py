"""The log-variance of a denoiser's error as a function of the time: a head that only training reads.

Symbols: B batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone, add_method
from latentc.components.capabilities import Capability
from latentc.components.condition import TimeFeatures
from latentc.components.contract import Network, Port
from latentc.components.layers import mp_linear
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, module_class
from latentc.ir.types import B
from latentc.systems.edm2.phased_fourier import PhasedFourier


class Uncertainty(Backbone):
    """A linear function of features of the time t f32[B]: f32[B] (Karras et al. 2024, arXiv:2312.02696, equation 21).

    An objective that uses it divides its loss by the variance it estimates, which balances noise levels.
    """

    kind: Literal["uncertainty"]
    conditions: tuple[str, ...] | None = Field((), description="always empty: it takes only the time")
    frequencies: int = Field(128, gt=0, le=65_536, multiple_of=2, description="number of timestep features")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"uncertainty"})
    TIME: ClassVar[bool] = True
    TRAINING_ONLY: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "uncertainty", "frequencies": 8}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from self.problems_of_conditions(spec)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        features = PhasedFourier(kind="phased_fourier", frequencies=self.frequencies)
        method = add_method(mb, name, "forward", _network(features), (Port("t", f32(B), "time"),), features.static())
        return Network(name, {"forward": method}, self.PROVIDES)


@cache
def _network(time: TimeFeatures) -> BlockBody:
    @module_class("Uncertainty")
    def forward(b: Builder, t: Var, *, frequencies: int) -> Var:
        """The log-variance of the error at time t."""
        x = time.features(b, t, frequencies=frequencies)
        return b.reshape(mp_linear(b, "linear", x, 1, size=frequencies), shape=(t.shape[0],))

    return forward
