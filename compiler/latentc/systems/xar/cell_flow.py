"""Flow matching of cells, each at a time of its own.

Symbols: B batch, K cells, G = sqrt(K).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import OneOfThese
from latentc.components.contract import Draw, Network, Update
from latentc.components.kit import Conditions, call, per_sample_mean
from latentc.components.objective import Objective
from latentc.components.objectives._common import publish
from latentc.components.parts import Spec
from latentc.components.processes.formulas import Symbolic
from latentc.components.processes.interpolant import Interpolant
from latentc.components.processes.process import Parameterization
from latentc.components.sums import weighted_sum
from latentc.ir.builder import ModuleBuilder
from latentc.systems.xar.cells import spread
from latentc.systems.xar.whole_time_path import WholeTimePath


class CellFlow(Objective):
    """Mean squared error of the velocity of cells, each at a time of its own and given the noisy cells before it (xAR,
    Ren et al. 2025, arXiv:2502.20388).
    """

    kind: Literal["cell_flow"]
    process: Annotated[Interpolant, OneOfThese("processes", classes=(WholeTimePath, Interpolant))] = Field(
        WholeTimePath(kind="whole_time_path", times="logit_normal"),
        description="path from noise to data, and the distribution of the time of a cell",
    )
    NEEDS: ClassVar[Any] = "denoise_cells"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "cell_flow"}

    def parameterization(self) -> Parameterization:
        return Parameterization(self.process, "flow_velocity")

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        network, conditions, process = networks["main"], Conditions(spec, networks), self.process
        forward = network.methods["forward"]
        times = forward.input("time").type
        grid, draw = isqrt(int(times.shape[1])), process.draw()  # type: ignore[arg-type]
        b = mb.function("loss.terms")
        x = b.input("x", forward.input("state").type)
        cond = conditions.dropped(b, conditions.operands(b, conditions.inputs(b, by_field=True)))
        m = Symbolic(b, x.type.rank)
        t = process.training_time(m, b.input(draw.name, times), "flow_velocity")
        noise = b.input("noise", x.type)
        time = spread(b, t, x, grid, "time")
        x_t = weighted_sum(b, "x_t", (process.alpha(m, time), x), (process.sigma(m, time), noise))
        d_alpha, d_sigma = process.derivatives(m, time)
        target = weighted_sum(b, "target", (d_alpha, x), (d_sigma, noise))
        prediction = call(b, network, "forward", cond, state=x_t, time=process.network_time(m, t), out="prediction")
        error = b.op("sub", prediction, target, out="error")
        b.output(per_sample_mean(b, error * error, out="loss"))
        b.finish("The mean squared error of the velocity, one value per sample.")
        draws = (draw, Draw("noise", "normal"), *conditions.drawn(), *conditions.draws())
        return publish(mb, ("loss",), ("x", *conditions.fields), draws, self.trained(spec))
