"""HPDM's sampler: all tiles of all levels are denoised together, and the finest make the video."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

from latentc.components.contract import Need, Network, OutputField, Program
from latentc.components.guidance.guidance import Guidance
from latentc.components.parts import Problem, Spec
from latentc.components.processes.process import Process
from latentc.components.samplers.ddim import Ddim
from latentc.ir.builder import ModuleBuilder, Rewriter, Var


class TiledDdim(Ddim):
    """DDIM over a pyramid of tiles; the video is that of the finest level, whose tiles lie side by side.

    Contexts are read from whole levels, so tokens at the edge of a tile also see beyond it.
    """

    kind: Literal["tiled_ddim"]  # type: ignore[assignment]
    WRAPPABLE: ClassVar[bool] = False
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "tiled_ddim", "steps": 3, "clip": 1.0}

    @classmethod
    def variants(cls, process: Process) -> list[dict[str, Any]]:
        return []  # no other sampler draws pyramids, nor does it draw anything else

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        main, *others = super().needs(spec)
        return (replace(main, capability="denoise_pyramid"), *others)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        shape = spec.data.shape
        if shape is None or len(shape) != 4:
            message = f"`{self.kind}` draws video [C, F, H, W], which the data is not"
            yield Problem(("kind",), message, "use `ddim`")
            return
        yield from super().problems(spec)
        # The first axis of a pyramid is that of its tiles.
        reason = "channels of a pyramid's tiles are not handled apart"
        if self.clip_per_channel:
            yield Problem(("clip_per_channel",), reason, "leave it out")
        for path, term in self.terms():
            if isinstance(term, Guidance) and term.channels is not None:
                yield Problem((*path, "channels"), reason, "leave it out")

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        program = super().build(mb, networks, spec)
        fn = mb.functions[mb.entries[program.entry]]
        b = Rewriter(mb, fn)
        for node in fn.nodes:
            b.append(node)
        x = Var(fn.outputs[0], b)
        assert spec.data.shape is not None
        batch, tiles, channels, frames, side, _ = x.shape
        across = spec.data.shape[-1] // int(side)  # type: ignore[arg-type]
        x = b.slice(x, axis=1, start=int(tiles) - across**2, stop=int(tiles), out="finest")  # type: ignore[arg-type]
        x = b.reshape(x, shape=(batch, across, across, channels, frames, side, side))
        x = b.transpose(x, perm=(0, 3, 4, 1, 5, 2, 6), out="video")
        b.output(b.reshape(x, shape=(batch, *spec.data.shape), out="video"))
        b.finish(fn.doc)
        return replace(program, outputs=(OutputField("samples", "x"),))
