"""Flow matching in pixels given the codes of one step.

Symbols: B batch, Q codes, n codes of a group, G = Q / n groups.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Draw, Network, Update
from latentc.components.kit import call, per_sample_mean
from latentc.components.objective import Objective
from latentc.components.objectives._common import publish
from latentc.components.parts import Spec
from latentc.ir.builder import Builder, ModuleBuilder, Var, f32
from latentc.ir.types import B


class SequentialDiffusion(Objective):
    """Squared error of the velocity given the group of codes at its time, and the codebook's losses of the codes up to
    that group (D-AR, Gao and Shou 2025, arXiv:2505.23660).
    """

    kind: Literal["sequential_diffusion"]
    commitment: float = Field(0.25, ge=0, description="weight of the error that moves latents towards their rows")
    NEEDS: ClassVar[Any] = "sequential_codes"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "sequential_diffusion"}

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        network = networks["main"]
        method, scale, shift = network.methods["train_forward"], network.sizes["scale"], network.sizes["shift"]
        assert isinstance(scale, float) and isinstance(shift, float)
        queries, group = (int(network.methods[m].input(r).type.shape[1]) for m, r in _PORTS)  # type: ignore[arg-type]
        b = mb.function("loss.terms")
        x = b.input("x", method.inputs_of("state")[0].type)
        u, noise = b.input("u", f32(B)), b.input("noise", x.type)
        data = b.mul(x, scale, out="data")
        t = b.div(u, u + (1.0 - u) * shift, out="t")
        column = b.reshape(t, shape=(B, 1, 1, 1), out="column")
        x_t = b.add(column * data, (1.0 - column) * noise, out="x_t")
        first = first_code(b, u, queries, group)
        made = call(
            b, network, "train_forward", {}, state=[x, x_t], time=t, position=first, out="velocity pull commit number"
        )
        velocity, pull, commit, number = made
        error = b.op("sub", velocity, b.op("sub", data, noise), out="error")
        flow = b.mul(per_sample_mean(b, error * error), 1 / scale**2, out="flow")
        total = b.mean(number, axes=(0,), keepdims=True, out="total")
        pull, commit = b.div(pull, total, out="pull"), b.div(commit * self.commitment, total, out="commitment")
        b.output(b.add(b.add(flow, pull), commit, out="loss"), flow, pull, commit)
        b.finish("The error of the velocity and the codebook's losses, one value per sample.")
        draws = (Draw("u", "uniform"), Draw("noise", "normal"))
        return publish(mb, ("loss", "flow", "pull", "commitment"), ("x",), draws, self.trained(spec))


_PORTS = (("conditions", "token"), ("forward", "condition"))


def first_code(b: Builder, u: Var, queries: int, group: int) -> Var:
    """i64[B]: the first code of the group at a time u f32[B] before its shift."""
    groups = queries // group
    number = b.floor(u * float(groups) + 0.5, out="number")
    first = b.cast(b.clamp(number * float(group), low=0.0, high=float(queries - group)), to="i64", out="first")
    return first
