"""LFDM's sampler: motion, drawn by DDIM, and the image moved by it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Need, Network, OutputField, Program
from latentc.components.kit import call
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import ModuleBuilder, Rewriter, Var
from latentc.systems.lfdm.latent_flow import IMAGE, problems_of_image
from latentc.systems.lfdm.shifted_ddim import ShiftedDdim


class FlowDdim(ShiftedDdim):
    """Draws motion, and returns the video that it makes of the image in a request."""

    kind: Literal["flow_ddim"]  # type: ignore[assignment]
    autoencoder: str = Field("autoencoder", description="one of `networks`, which moves the image")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "flow_ddim", "steps": 3, "eta": 1.0, "clip": 1.0}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return (*super().needs(spec), Need(self.autoencoder, "animate"))

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if spec.data.shape is None or len(spec.data.shape) != 4:
            message = f"`{self.kind}` draws video [C, F, H, W], which the data is not"
            yield Problem(("kind",), message, "use `ddim`")
            return
        yield from super().problems(spec)
        yield from problems_of_image(spec)

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        program = super().build(mb, networks, spec)
        fn = mb.functions[mb.entries[program.entry]]
        b = Rewriter(mb, fn)
        for node in fn.nodes:
            b.append(node)
        (image,) = (value for value in fn.inputs if value.name == IMAGE)
        given = [Var(image, b), Var(fn.outputs[0], b)]
        b.output(call(b, networks[self.autoencoder], "animate", {}, state=given, out="video"))
        b.finish(fn.doc)
        return replace(program, outputs=(OutputField("samples", "x"),))
