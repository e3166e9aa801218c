"""Samples of which a part is known: inpainting and colourisation (Song et al. 2021, arXiv:2011.13456, appendix I.2).

After every step the known part of the state is replaced by that of the given sample, noised to the step's time. The
part of a difference v is keep * v where pixels are given, and its mean over the channels where the grey image is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from latentc.components.contract import Network, Program
from latentc.components.guidance.annealing import Annealing
from latentc.components.guidance.guidance import Guide
from latentc.components.kit import Conditions
from latentc.components.processes.prediction import Point
from latentc.components.samplers.loop import Known, Project
from latentc.components.samplers.program import sample_program
from latentc.components.samplers.table import Table
from latentc.ir.builder import Builder, ModuleBuilder, Var, f32
from latentc.ir.types import B
from latentc_runtime.sources import Condition, ConditionSource, RandomSource, Source

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


Edit = Literal["inpaint", "colourise"]


def edit_program(
    name: Edit,
    mb: ModuleBuilder,
    network: Network,
    conditions: Conditions,
    table: Table,
    point: Point,
    spec: Spec,
    guides: Sequence[Guide] = (),
    annealing: Annealing | None = None,
) -> Program:
    """Entry `NAME.STEPS`: as `sample`, and `given` f32[B, C, ...]; `inpaint` takes `keep` f32[B, 1, ...], 1 where it
    stays. `point` is the process at the time of each row of the table.
    """
    field = spec.data.fields[network.methods["forward"].input("state").name]
    assert field.shape is not None
    own = [Condition("given", "array", field.shape, "f32", field.axes)]
    if name == "inpaint":
        own.append(Condition("keep", "array", (1, *field.shape[1:]), "f32", field.axes))
    noisy = float(table.columns["noise"][-1] != 0.0)
    last = np.append(np.ones(table.rows - 1), noisy)  # without noise in the last step, the known part has none either
    columns = {"known_alpha": point.alpha, "known_sigma": point.sigma * last}
    sources: dict[str, Source] = {c.name: ConditionSource(c.name) for c in own}
    sources["known_noise"] = RandomSource("normal", "known", table.rows)

    def known(b: Builder) -> Known:
        data = network.methods["forward"].input("state").type
        given = b.input("given", data)
        keep = (b.input("keep", f32(B, 1, *data.shape[2:])),) if name == "inpaint" else ()
        return Known(given, b.input("known_noise", f32(table.rows, *data.shape)), _PARTS[name], keep)

    edited = replace(table, columns={**table.columns, **columns})
    entry = f"{name}.{table.steps}"
    program = sample_program(
        mb, network, conditions, edited, guides=guides, annealing=annealing, entry=entry, known=known
    )
    return replace(program, name=name, sources={**program.sources, **sources}, conditions=tuple(own))


def _kept_pixels(b: Builder, v: Var, keep: tuple[Var, ...]) -> Var:
    return b.mul(v, keep[0], out="part")  # type: ignore[no-any-return]


def _grey(b: Builder, v: Var, keep: tuple[Var, ...]) -> Var:
    return b.mean(v, axes=(1,), keepdims=True, out="part")  # type: ignore[no-any-return]


_PARTS: dict[str, Project] = {"inpaint": _kept_pixels, "colourise": _grey}

__all__ = ["Edit", "edit_program"]
