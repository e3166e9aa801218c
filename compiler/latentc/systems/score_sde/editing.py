"""Samples of which a part is known: inpainting and colourisation (Song et al. 2021, arXiv:2011.13456, appendix I.2).

After every step the known part of the state is replaced by that of the given sample, noised to the step's time. The
part of a difference v is keep * v where pixels are given, and its mean over the channels where the grey image is.
Start and end are those of the authors' code (controllable_generation.py): a colourised image starts from the grey image
and noise in two of the channels, and the last step keeps its noise where nothing is given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from latentc.components.contract import Network, Program
from latentc.components.guidance.guidance import Guide
from latentc.components.kit import Conditions
from latentc.components.parts import Spec
from latentc.components.processes.formulas import Array
from latentc.components.processes.prediction import Point
from latentc.components.samplers.guided import Around
from latentc.components.samplers.program import Impose, Known, sample_program
from latentc.components.samplers.table import Table
from latentc.components.sums import Coefficient, weighted_sum
from latentc.ir.builder import Builder, ModuleBuilder, Var, f32
from latentc.ir.types import B
from latentc_runtime.sources import Condition, ConditionSource, RandomSource, Source

Edit = Literal["inpaint", "colourise"]


@dataclass(frozen=True, eq=False)
class Imposed:
    """When the known part is replaced, and at which noise.

    `point`: the process where the known part stands after each of the N rows of a table; `after` f64[N]: 1 for rows
    after which it is replaced, else 0; `first`: the process [1] where it stands before the first row, or None if it
    is not noised there; `denoise`: whether it ends without noise.
    """

    point: Point
    after: Array
    first: Point | None
    denoise: bool

    @property
    def columns(self) -> dict[str, Array]:
        last = np.append(np.ones(len(self.after) - 1), 0.0 if self.denoise else 1.0)
        return {"known_alpha": self.point.alpha, "known_sigma": self.point.sigma * last, "known": self.after}


def edit_program(
    name: Edit,
    mb: ModuleBuilder,
    network: Network,
    conditions: Conditions,
    table: Table,
    imposed: Imposed,
    spec: Spec,
    guides: Sequence[Guide] = (),
    around: Sequence[Around] = (),
) -> Program:
    """Entry `NAME.STEPS`: as `sample`, and `given` f32[B, C, ...]; `inpaint` takes `keep` f32[B, 1, ...], 1 where it
    stays.
    """
    field = spec.data.fields[network.methods["forward"].input("state").name]
    assert field.shape is not None
    own = [Condition("given", "array", field.shape, "f32", field.axes)]
    if name == "inpaint":
        own.append(Condition("keep", "array", (1, *field.shape[1:]), "f32", field.axes))
    sources: dict[str, Source] = {c.name: ConditionSource(c.name) for c in own}
    rows = table.rows + (imposed.first is not None)
    sources["known_noise"] = RandomSource("normal", "known", rows)

    def known(b: Builder) -> Known:
        data = network.methods["forward"].input("state").type
        given = b.input("given", data)
        keep = (b.input("keep", f32(B, 1, *data.shape[2:])),) if name == "inpaint" else ()
        noise, impose, enter = b.input("known_noise", f32(rows, *data.shape)), _PARTS[name], _STARTS[name]
        if imposed.first is None:
            return Known(given, noise, impose, lambda b, x: enter(b, x, keep, given), keep)
        of_data, of_noise = float(imposed.first.alpha[0]), float(imposed.first.sigma[0])
        drawn = b.reshape(b.slice(noise, axis=0, start=0, stop=1), shape=given.shape, out="drawn")
        target = weighted_sum(b, "target", (of_data, given), (of_noise, drawn))
        noise = b.slice(noise, axis=0, start=1, stop=rows, out="known_noise")

        def start(b: Builder, x: Var) -> Var:
            return impose(b, enter(b, x, keep, given), target, keep, 1.0)

        return Known(given, noise, impose, start, keep)

    edited = replace(table, columns={**table.columns, **imposed.columns})
    entry = f"{name}.{table.steps}"
    program = sample_program(mb, network, conditions, edited, guides=guides, around=around, entry=entry, known=known)
    return replace(program, name=name, sources={**program.sources, **sources}, conditions=tuple(own))


def _kept_pixels(b: Builder, x: Var, target: Var, keep: tuple[Var, ...], share: Coefficient = 1.0) -> Var:
    return weighted_sum(b, "x", (1.0, x), (share, b.mul(target - x, keep[0], out="part")))


def _grey(b: Builder, x: Var, target: Var, keep: tuple[Var, ...], share: Coefficient = 1.0) -> Var:
    return weighted_sum(b, "x", (1.0, x), (share, _mean(b, target - x)))


def _with_kept(b: Builder, x: Var, keep: tuple[Var, ...], target: Var) -> Var:
    return _kept_pixels(b, x, target, keep)


def _with_grey(b: Builder, x: Var, keep: tuple[Var, ...], target: Var) -> Var:
    """The grey image of `target`, and x in all channels but the first."""
    others = b.constant(np.array([0.0, 1.0, 1.0]).reshape(1, 3, *[1] * (x.type.rank - 2)), "f32", out="others")
    return b.add(b.mul(x, others, out="x"), _mean(b, target), out="x")


def _mean(b: Builder, v: Var) -> Var:
    return b.mean(v, axes=(1,), keepdims=True, out="part")


_PARTS: dict[Edit, Impose] = {"inpaint": _kept_pixels, "colourise": _grey}
_STARTS: dict[Edit, Callable[..., Var]] = {"inpaint": _with_kept, "colourise": _with_grey}
