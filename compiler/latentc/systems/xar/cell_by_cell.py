"""One cell after the other, each denoised by a sampler of arrays: xAR's sampler.

Symbols: B batch, C channels, K cells, S noisy steps of a cell.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import isqrt
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from latentc.components import OneOfThese
from latentc.components.contract import Network, Program
from latentc.components.guidance.guidance import (
    Guide,
    ScheduledGuidance,
    asked_scale,
    guidance_problems,
    of_conditions,
)
from latentc.components.kit import Conditions, guided_call
from latentc.components.parts import Problem, Spec, under
from latentc.components.processes.process import Parameterization
from latentc.components.sampler import Sampler
from latentc.components.samplers.base import ArraySampler, inner_problems, parameterization_of
from latentc.components.samplers.euler import Euler
from latentc.components.samplers.euler_maruyama import EulerMaruyama
from latentc.components.samplers.guided import Request, first_half
from latentc.components.samplers.program import denoise, stochastic_rows
from latentc.ir.builder import ModuleBuilder, Var, as_tuple
from latentc.ir.types import f32
from latentc.systems.xar.cells import cell_of, joined
from latentc_runtime.sources import RandomSource, Source


class CellByCell(Sampler):
    """Draws cells one after the other, row by row, each by `solver` given the cells before it (xAR, Ren et al. 2025,
    arXiv:2502.20388).

    The progress of the guidance is the number of the cell, from 0 for the first to 1 for the last.
    """

    kind: Literal["cell_by_cell"]
    solver: Annotated[ArraySampler, OneOfThese("samplers", classes=(EulerMaruyama, Euler))] = Field(
        EulerMaruyama(kind="euler_maruyama", steps=40), description="sampler that denoises a cell"
    )
    guidance: ScheduledGuidance | None = Field(None, description="classifier-free guidance; null: none")
    NEEDS = "denoise_cells"
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "cell_by_cell",
        "solver": {"kind": "euler_maruyama", "steps": 3},
        "guidance": {"scale": 2.0, "schedule": "linear"},
    }

    def problems(self, spec: Spec) -> Iterator[Problem]:
        target = parameterization_of(spec.objective)
        if target is None or spec.objective.NEEDS != self.NEEDS:  # type: ignore[union-attr]
            message = f"`{self.kind}` needs a network trained on cells with times of their own"
            yield Problem(("kind",), message, "use `objective: {kind: cell_flow}`")
            return
        if self.solver.guidance is not None:
            message = "the sampler sets the guidance of this solver, with one scale per cell"
            yield Problem(("solver", "guidance"), message, "leave it out, and set `sampler.guidance` instead")
        yield from under("solver", problems=inner_problems(self.solver, "this one denoises cells"))
        try:
            self.solver.table(target)
        except ValueError as error:
            yield Problem(("solver",), str(error))
        if self.guidance is not None:
            yield from under("guidance", problems=guidance_problems(self.guidance, spec))

    def with_steps(self, steps: int) -> CellByCell:
        return self.model_copy(update={"solver": self.solver.with_steps(steps)})

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `sample.STEPS`: x f32[B, C, H, W] of normals, the conditions, scale f32[B] with guidance, for
        each cell `noise_0`, … f32[S, B, C, h, w] if the solver takes noise -> x f32[B, C, H, W].
        """
        network, conditions, target = networks["main"], Conditions(spec, networks), parameterization_of(spec.objective)
        assert target is not None
        table, forward = self.solver.table(target), network.methods["forward"]
        count = int(forward.input("time").type.shape[1])  # type: ignore[arg-type]
        grid, entry = isqrt(count), f"sample.{table.steps}"
        b = mb.function(entry)
        x = b.input("x", forward.input("state").type)
        operands = conditions.operands(b, conditions.inputs(b))
        sources: dict[str, Source] = {"x": RandomSource("normal", "x"), **conditions.sources()}
        scale, settings = asked_scale(b, self.guidance, sources)
        noisy, cell = stochastic_rows(table), network.methods["cell_0"].input("state").type
        noise = [b.input(f"noise_{i}", f32(noisy, *cell.shape)) for i in range(count)] if noisy else []
        sources |= {z.value.name: RandomSource("normal", f"cell_{i}", noisy) for i, z in enumerate(noise)}
        null = conditions.null(b, operands) if scale is not None else {}
        like = next(iter(operands.values())) if operands else b.full(x, shape=(), value=0.0, dtype="f32", out="batch")
        clean = b.full(like, shape=(), value=_clean_time(target), dtype="f32", out="clean")
        nullable = tuple(name for name, condition in conditions.items() if condition.nullable)
        request = Request(operands, conditions.null, nullable, like, {} if scale is None else {"scale": scale})
        caches, cells = list[Var](), list[Var]()
        for number in range(count):
            guides = self._guides(number / (count - 1) if count > 1 else 1.0)
            # Caches hold both branches of guidance.
            known = caches if guides or scale is None else [first_half(b, c) for c in caches]
            at = replace(network, methods={"forward": network.methods[f"cell_{number}"]})
            start = cell_of(b, x, number, grid, "start")
            own = replace(request, cache=tuple(known))
            cells.append(
                denoise(b, f"{entry}.cell_{number}", table, at, own, start, noise[number] if noise else None, guides)
            )
            if number < count - 1:
                method = f"remember_{number}"
                names = " ".join("cache" for _ in network.methods[method].outputs)
                by_role: dict[str, Any] = {"state": cells[-1], "time": clean, "cache": caches}
                caches = list(as_tuple(guided_call(b, network, method, operands, null, scale, out=names, **by_role)))
        b.output(joined(b, cells, grid))
        mb.entries[entry] = b.finish(doc=f"{count} cells, each in {table.steps} steps.")
        evaluations = count * table.all_progress.size + count - 1
        return Program(entry, self.kind, table.steps, evaluations, sources, settings)

    def _guides(self, progress: float) -> list[Guide]:
        """The guidance of a cell, if there is any."""
        if self.guidance is None:
            return []
        weight = float(self.guidance.weights([progress])[0])

        def weights(progress: Sequence[float]) -> NDArray[np.float64]:
            return np.full(len(progress), weight)

        return [Guide("scale", "guidance", self.guidance.scale, weights, of_conditions())] if weight else []


def _clean_time(target: Parameterization) -> float:
    """The time that networks are given with data."""
    process = target.process
    return float(np.asarray(process.point(process.last if process.data is None else process.data).time))
