"""A learned array, the same for every sample: the mean of what a denoiser is to predict.

No other network gives an output that depends on nothing. Symbols: B batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone, add_method
from latentc.components.capabilities import Capability
from latentc.components.contract import Network, Port
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, ModuleBuilder, Var, f32, module_class
from latentc.ir.types import B


class Constant(Backbone):
    """Returns f32[B, C, ...], one learned array of the data's shape for all samples, initially zero.

    As a denoiser without state or time input, it learns the mean of its targets.
    """

    kind: Literal["constant"]
    conditions: tuple[str, ...] | None = Field((), description="always empty: it takes no conditions")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"denoise"})
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "constant"}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if spec.data.shape is None:
            yield Problem(
                (), f"a constant needs data with a shape, but the data has {spec.data.words}", "use data with a `shape`"
            )

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        channels, *space = spec.data.shape
        ports = Port("x", f32(B, channels, *space), "state"), Port("t", f32(B), "time")
        method = add_method(mb, name, "forward", forward, ports, {"shape": (out_channels, *space)})
        return Network(name, {"forward": method}, self.PROVIDES)


@module_class("Constant")
def forward(b: Builder, x: Var, t: Var, *, shape: tuple[int, ...]) -> Var:
    """The same array for every sample, whatever its state x and time t."""
    value = b.param("value", f32(*shape), "zeros")
    return b.broadcast_to(b.reshape(value, shape=(1, *shape)), x, shape=(x.shape[0], *shape), out="value")
