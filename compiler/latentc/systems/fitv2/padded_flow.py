"""Flow matching on padded sequences of patches.

Symbols: B batch, C channels, L patches of a padded sequence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.condition import field_of
from latentc.components.contract import Network, Update
from latentc.components.objectives.flow import Flow
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import ModuleBuilder
from latentc.systems.fitv2.fit_transformer import size_conditions
from latentc.systems.fitv2.patch_grid import places


class PaddedFlow(Flow):
    """Flow matching whose squared error is the mean over the real patches of each sequence (FiTv2, Wang et al. 2024,
    arXiv:2410.13925). Their number follows from the condition with the size of the image, which a `fit_transformer`
    takes.
    """

    kind: Literal["padded_flow"]  # type: ignore[assignment]
    predicts: Literal["velocity"] = Field("velocity", description="dx/dt, the quantity that the network predicts")
    weighting: Literal["none"] = Field("none", description="all times weigh the same")
    coupling: None = Field(None, description="the path starts from noise")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "padded_flow"}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if len(size_conditions(spec.conditions, spec)) != 1 or len(spec.data.shape or ()) != 2:
            message = "`padded_flow` needs padded sequences of patches and one condition with the size of their images"
            yield Problem((), message, "add `conditioning.size: {kind: array}` with two numbers, or use `{kind: flow}`")

    def says(self) -> str:
        return "The squared error of the velocity, a mean over the real patches of each sequence."

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        b = mb.function("loss.terms")
        denoised = self.denoised(b, networks, spec)
        ((name, condition),) = size_conditions(spec.conditions, spec).items()
        size, x = b.given(field_of(name, condition)), denoised.at.x0
        assert size is not None
        channels, length = x.shape[1:]
        found = places(b, size, length)
        error = denoised.at.error(denoised.prediction)
        squared = error * error * b.reshape(found.real, shape=(x.shape[0], 1, length))
        total = b.reshape(b.sum(squared, axes=(1, 2), keepdims=False), shape=(x.shape[0], 1), out="total")
        loss = b.reshape(total / (found.number * float(int(channels))), shape=(x.shape[0],), out="loss")
        return self.published(mb, denoised, {"loss": loss}, spec)
