"""Sampling that leaves a network behind some of its blocks: by a plan, or when a prediction is certain enough.

By a plan, each step of the sampler's loop evaluates as many blocks as it says. At run time the host decides: programs
`exit_1`, `exit_2`, … each run the blocks up to the next exit, and `exit_step` makes the sampler's step
(`latentc_runtime.exits`). Symbols: B batch, N steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from latentc.components import Closed, Index
from latentc.components.backbone import Backbone
from latentc.components.contract import Need, Network, OutputField, Program
from latentc.components.kit import Conditions, call, first_channels
from latentc.components.kit.exits import Cuts, exit_methods, left, stage, with_exits
from latentc.components.parts import Problem
from latentc.components.samplers.table import LINEAR, Table
from latentc.ir.builder import Builder, ModuleBuilder, Var, f32
from latentc.ir.types import B, TensorType
from latentc_runtime.sources import Condition, ConditionSource, Setting, SettingSource, Source

if TYPE_CHECKING:
    from latentc.components.samplers.program import Early
    from latentc.spec.schema import Spec

NAME = "exit"


class EarlyExit(Closed):
    """Where the denoiser is left: early exits (DeeDiff, Tang et al. 2023, arXiv:2309.17074)."""

    network: str = Field("exits", description="one of `networks`, of kind `early_exits`")
    after: tuple[Index, ...] | None = Field(
        None,
        max_length=100_000,
        description="number of blocks each evaluation runs, from noise to data; null: all",
    )
    dynamic: bool = Field(
        False, description="also compile the programs with which `latentc_runtime.exits` decides at run time"
    )

    def needs(self) -> tuple[Need, ...]:
        return (Need(self.network, "exit", place=("exit", "network"), who="sampling with early exits"),)

    def problems(self, spec: Spec, table: Table, guided: bool) -> Iterator[Problem]:
        """What does not fit; paths relative to this section."""
        if spec.optimize.stitch is not None or spec.optimize.cache is not None:
            message = "early exits cannot be combined with stitching or caching"
            yield Problem((), message, "keep only one of `exit`, `optimize.stitch` and `optimize.cache`")
        numbers = getattr(spec.networks.get(self.network), "after", None)
        evaluations = len(table.all_progress)
        if self.after is not None and len(self.after) != evaluations:
            message = f"{len(self.after)} block numbers for {evaluations} evaluations"
            yield Problem(("after",), message, "give one for each evaluation")
        for i, number in enumerate(self.after or ()):
            if number == 0 or (numbers is not None and number < max(numbers, default=0) and number not in numbers):
                behind = "each" if numbers is None else ", ".join(map(str, numbers))
                yield Problem(("after", i), f"there is no exit after block {number}", f"exits follow {behind}")
        plain = table.body is LINEAR and not table.history and table.tail is None and table.clip_state is None
        if self.dynamic and (guided or table.stochastic or not plain or table.clip is not None):
            what = "with guidance" if guided else f"in steps of `{table.solver}`"
            message = f"exits can be chosen at run time only in first-order steps without noise, not {what}"
            yield Problem(("dynamic",), message, "use `ddim` or `euler` and `guidance: null`, or `after`")

    def _cut(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Cuts:
        backbone = spec.networks[self.network]
        assert isinstance(backbone, Backbone)
        return with_exits(mb, networks["main"], getattr(backbone, "after", None))

    def early(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec, table: Table) -> Early | None:
        """The network that evaluates at a progress in place of the whole; None if each evaluation runs all blocks."""
        if self.after is None:
            return None
        cut, main = self._cut(mb, networks, spec), networks["main"]
        own = [number for number in dict.fromkeys(self.after) if number < len(cut.blocks)]
        views = {number: left(mb, main, networks[self.network], cut, number) for number in own}
        at = dict(zip(map(float, table.all_progress), self.after, strict=True))
        return lambda progress: views.get(at[progress])

    # ---- at run time

    def programs(
        self, mb: ModuleBuilder, networks: Mapping[str, Network], conditions: Conditions, table: Table, spec: Spec
    ) -> list[Program]:
        """`exit_1`, …: the state (or the tokens after the exit before), the step f32[B] -> the tokens after the
        next exit, its prediction and uncertainty; the last: the prediction. `exit_step`: state, prediction -> state."""
        cut = self._cut(mb, networks, spec)
        ends = (*cut.after, len(cut.blocks))
        stages = [
            self._stage(mb, networks, conditions, table, cut, i, first, last)
            for i, (first, last) in enumerate(zip((0, *cut.after), ends, strict=True))
        ]
        return [*stages, _step(mb, networks["main"], table)]

    def _stage(
        self, mb: ModuleBuilder, networks: Mapping[str, Network], conditions: Conditions, table: Table, cut: Cuts,
        i: int, first: int, last: int,
    ) -> Program:  # fmt: skip
        main, exits, name = networks["main"], networks[self.network], f"{NAME}_{i + 1}"
        b = mb.function(f"{name}.{table.steps}")
        method = stage(mb, main, cut, first, last)
        own = Network(main.name, {name: method}, main.provides)
        sources: dict[str, Source] = {}
        asked: list[Condition] = []

        def array(key: str, type: TensorType) -> Var:
            sources[key] = ConditionSource(key)
            asked.append(_array(key, type))
            return b.input(key, type)

        if first:
            given = {port.name: array(f"behind_{port.name}", port.type) for port in method.inputs}
        else:
            state = main.methods["forward"].input("state")
            x, told = array(state.name, state.type), conditions.operands(b, conditions.inputs(b))
            sources |= conditions.sources()
        step = b.cast(b.input("step", f32(B)), to="i64", out="row")
        sources["step"] = SettingSource("step")
        time = b.take(b.constant(table.columns["t"], out="t_table"), step, axis=0, out="t")
        outs = " ".join(port.name for port in method.outputs)
        if first:
            made = b.call(method.function, main.name, *given.values(), out=outs)
        else:
            scale = table.columns.get("c_in", np.ones(table.rows)) * _prior(table)
            made = call(b, own, name, told, state=_scaled(b, x, scale, step, "scaled"), time=time, out=outs)
        values = made if isinstance(made, tuple) else (made,)
        fields = [OutputField(f"behind_{port.name}") for port in method.outputs]
        results = list(values)
        if last < len(cut.blocks):
            found = dict(zip((port.name for port in method.outputs), values, strict=True))
            found = {**(given if first else {}), **found}
            functions = exit_methods(mb, exits, last, i)
            tokens = found[cut.tokens(last).name]
            context = [found[v.name] for v in cut.context]
            results.append(b.call(functions[0], exits.name, tokens, *context, out="prediction"))
            results.append(b.call(functions[1], exits.name, tokens, time, out="uncertainty"))
            fields += [OutputField("prediction"), OutputField("uncertainty")]
        else:
            fields = [OutputField("prediction")]
        b.output(*results)
        mb.entries[b.name] = b.finish(doc=f"Blocks {first + 1} to {last}, and the exit after them.")
        settings = (Setting("step", 0.0, 0.0, table.steps - 1.0),)
        return Program(
            b.name, name, table.steps, 1, sources, settings, name, outputs=tuple(fields), conditions=tuple(asked)
        )


def _step(mb: ModuleBuilder, main: Network, table: Table) -> Program:
    """The program that makes a step of the sampler, from a prediction."""
    b, name = mb.function(f"{NAME}_step.{table.steps}"), f"{NAME}_step"
    forward = main.methods["forward"]
    state, made = forward.input("state"), forward.output()
    x, output = b.input(state.name, state.type), b.input("prediction", made.type)
    row = b.cast(b.input("step", f32(B)), to="i64", out="row")
    k = table.columns
    of_x = _scaled(b, x, (k["x"] + k["d"] * k["d_x"]) * _prior(table), row, "of_x")
    b.output(b.add(of_x, _scaled(b, first_channels(b, output, x), k["d"] * k["d_output"], row, "of_output"), out="x"))
    mb.entries[b.name] = b.finish(doc=f"A step of {table.solver}, from a prediction.")
    types = {state.name: state.type, "prediction": made.type}
    asked = tuple(_array(key, type) for key, type in types.items())
    sources: dict[str, Source] = {**{key: ConditionSource(key) for key in types}, "step": SettingSource("step")}
    settings = (Setting("step", 0.0, 0.0, table.steps - 1.0),)
    return Program(b.name, name, table.steps, 1, sources, settings, name, (OutputField("x"),), asked)


def _array(name: str, type: TensorType) -> Condition:
    """An array of this type that a program is given."""
    shape = tuple(int(d) for d in type.shape[1:])  # type: ignore[arg-type]
    return Condition(name, "array", shape, "f32", tuple(f"axis_{i}" for i, _ in enumerate(shape)))


def _prior(table: Table) -> Any:
    """f64[N]: the scale of the first state, which is drawn as standard normals, and 1."""
    return np.where(np.arange(table.rows) == 0, table.prior, 1.0)


def _scaled(b: Builder, x: Var, column: Any, row: Var, out: str) -> Var:
    """x times the row's number of a column f64[N]."""
    factor = b.take(b.constant(column, out=f"{out}_table"), row, axis=0)
    return b.mul(x, b.reshape(factor, shape=(x.shape[0], *[1] * (x.type.rank - 1))), out=out)  # type: ignore[no-any-return]


__all__ = ["EarlyExit"]
