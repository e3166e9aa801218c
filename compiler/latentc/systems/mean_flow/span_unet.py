"""MeanFlow's U-Net."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from latentc.components.capabilities import Capability
from latentc.components.condition import Entry, Pair
from latentc.components.networks.unet import UnetDenoiser
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Var


class SpanUnet(UnetDenoiser):
    """A unet that concatenates the features of the time and those of the span before its linear layers
    (MeanFlow, Geng et al. 2025, arXiv:2505.13447)."""

    kind: Literal["span_unet"]  # type: ignore[assignment]
    EXAMPLE: ClassVar[dict[str, Any]] = {**UnetDenoiser.EXAMPLE, "kind": "span_unet"}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        spans = [entry.name for entry in self.entries(spec) if _is_time(entry)]
        if not spans:
            message = "this network takes no span whose features could join those of the time"
            yield Problem((), message, "use `kind: unet`, or add `conditioning.span: {kind: span}`")
        elif not self.time_embedding:
            yield Problem(("time_embedding",), "the features of the span join those of the time", "leave it out")
        for i, name in enumerate(self.early):
            if name in spans:
                message = f"the features of `{name}` are already concatenated with those of the time"
                yield Problem(("early", i), message, f"leave out `{name}`")

    def provides(self, spec: Spec) -> frozenset[Capability]:
        return super().provides(spec) - {"embed_conditions"}

    def times(self, pairs: list[Pair]) -> tuple[list[Var], list[Pair]]:
        spans = [operands[0] for entry, operands in pairs if _is_time(entry)]
        return spans, [pair for pair in pairs if not _is_time(pair[0])]


def _is_time(entry: Entry) -> bool:
    return any(port.role == "time" for port in entry.ports)
