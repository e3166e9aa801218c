"""Sampling that leaves a network after some of its blocks: by a plan, or when a prediction is certain enough.

By a plan, each step of the sampler's loop evaluates as many blocks as it says. At run time the host decides: programs
`exit_1`, `exit_2`, … each run the blocks up to the next exit, and `exit_step` makes the sampler's step
(`latentc_runtime.exits`). Under classifier-free guidance a sample has branches, the predictions with and without
conditions: a row of `exit_1` is one branch of a sample, and `exit_step` combines them. Symbols: B batch, N steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components import Index
from latentc.components.contract import Need, Network, OutputField, Program
from latentc.components.guidance.guidance import Contrast, Guide
from latentc.components.kit import Conditions, call, first_channels
from latentc.components.parts import Problem, Spec
from latentc.components.sampler import Wrapper
from latentc.components.samplers.base import parameterization_of
from latentc.components.samplers.guided import Replaced, column, extrapolated
from latentc.components.samplers.table import LINEAR, Table
from latentc.ir.builder import Builder, ModuleBuilder, Var, f32
from latentc.ir.types import B, TensorType
from latentc.systems.deediff.cuts import Cuts, exit_methods, left, stage, with_exits
from latentc.systems.deediff.early_exits import EarlyExits
from latentc_runtime.sources import Condition, ConditionSource, Setting, SettingSource, Source

if TYPE_CHECKING:
    from latentc.components.samplers.base import ArraySampler

NAME, STEP, BRANCH = "exit", "step", "branch"


class Exit(Wrapper):
    """Leaves the denoiser through exits after some of its blocks (DeeDiff, Tang et al. 2023, arXiv:2309.17074)."""

    kind: Literal["exit"]
    network: str = Field("exits", description="one of `networks`, of kind `early_exits`")
    after: tuple[Index, ...] | None = Field(
        None,
        max_length=100_000,
        description="number of blocks each evaluation runs, from noise to data; null: all",
    )
    dynamic: bool = Field(
        False, description="also compile the programs with which `latentc_runtime.exits` decides at run time"
    )

    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "exit", "dynamic": True}

    @property
    def around(self) -> bool:
        return self.after is not None

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return (Need(self.network, "exit", place=("network",), who="sampling with early exits"),)

    def mismatches(self, spec: Spec, sampler: ArraySampler) -> Iterator[Problem]:
        target = parameterization_of(spec.objective)
        assert target is not None  # otherwise the sampler has a problem
        table, terms = sampler.table(target), [term for _, term in sampler.terms()]
        if spec.optimize.stitch is not None or spec.optimize.cache is not None:
            message = "early exits cannot be combined with stitching or caching"
            yield Problem((), message, "keep only one of program `exit`, `optimize.stitch` and `optimize.cache`")
        exits = spec.networks.get(self.network)
        numbers = exits.after if isinstance(exits, EarlyExits) else None
        evaluations = len(table.all_progress)
        if self.after is not None and len(self.after) != evaluations:
            message = f"{len(self.after)} block numbers for {evaluations} evaluations"
            yield Problem(("after",), message, "give one for each evaluation")
        for i, number in enumerate(self.after or ()):
            if number == 0 or (numbers is not None and number < max(numbers, default=0) and number not in numbers):
                after = "each" if numbers is None else ", ".join(map(str, numbers))
                yield Problem(("after", i), f"there is no exit after block {number}", f"exits follow {after}")
        plain = table.body is LINEAR and not table.history and table.tail is None
        if self.dynamic and (table.stochastic or not plain or table.clip is not None):
            message = "exits can be chosen at run time only in first-order steps without noise"
            yield Problem(
                ("dynamic",), f"{message}, not in steps of `{table.solver}`", "use `ddim` or `euler`, or `after`"
            )
        for term in terms if self.dynamic else ():
            if not term.OF_CONDITIONS:
                message = "exits can be chosen at run time only under classifier-free guidance"
                mend = "use `classifier_free` or `guidance: null`, or `after`"
                yield Problem(("dynamic",), f"{message}, not with `{term.kind}`", mend)
            elif term.name in (STEP, BRANCH):
                message = f"a guidance scale cannot be named `{term.name}` if exits are chosen at run time"
                yield Problem(("dynamic",), message, "choose another `name` for it")

    def _cut(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Cuts:
        exits = spec.networks[self.network]
        assert isinstance(exits, EarlyExits)
        return with_exits(mb, networks["main"], exits.after)

    def wrapped(
        self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec, sampler: ArraySampler
    ) -> Replaced | None:
        target = parameterization_of(spec.objective)
        if self.after is None or target is None:
            return None
        table = sampler.table(target)
        cut, main = self._cut(mb, networks, spec), networks["main"]
        own = [number for number in dict.fromkeys(self.after) if number < len(cut.blocks)]
        views = {number: left(mb, main, networks[self.network], cut, number) for number in own}
        at = dict(zip(map(float, table.all_progress), self.after, strict=True))
        return Replaced(lambda progress: views.get(at[progress]))

    # ---- at run time

    def programs(
        self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec, sampler: ArraySampler
    ) -> tuple[Program, ...]:
        """`exit_1`, …: the state (or the features after the exit before), the step f32[B] -> those after the
        next exit, its prediction and uncertainty; the last: the prediction. `exit_step`: predictions -> state."""
        target = parameterization_of(spec.objective)
        if not self.dynamic or target is None:
            return ()
        conditions, table = Conditions(spec, networks), sampler.table(target)
        guides = sampler.guides(mb, networks, target.process)
        cut = self._cut(mb, networks, spec)
        ends = (*cut.after, len(cut.blocks))
        absent = _branches(guides, conditions)
        stages = [
            self._stage(mb, networks, conditions, table, absent, cut, i, first, last)
            for i, (first, last) in enumerate(zip((0, *cut.after), ends, strict=True))
        ]
        return (*stages, _step(mb, networks["main"], table, guides, conditions))

    def _stage(
        self, mb: ModuleBuilder, networks: Mapping[str, Network], conditions: Conditions, table: Table,
        absent: Sequence[frozenset[str]], cut: Cuts, i: int, first: int, last: int,
    ) -> Program:  # fmt: skip
        main, exits, name = networks["main"], networks[self.network], f"{NAME}_{i + 1}"
        b = mb.function(f"{name}.{table.steps}")
        method = stage(mb, main, cut, first, last)
        own = Network(main.name, {name: method}, main.provides)
        sources: dict[str, Source] = {}
        settings: list[Setting] = []
        asked: list[Condition] = []

        def array(key: str, type: TensorType) -> Var:
            sources[key] = ConditionSource(key)
            asked.append(_array(key, type))
            return b.input(key, type)

        if first:
            given = {port.name: array(f"behind_{port.name}", port.type) for port in method.inputs}
        else:
            state = main.methods["forward"].input("state")
            x, cond = array(state.name, state.type), conditions.operands(b, conditions.inputs(b))
            sources |= conditions.sources()
            if len(absent) > 1:
                branch = _index(b, BRANCH, sources, settings, len(absent))
                cond = _of_branch(b, branch, absent, conditions, cond)
        step = _index(b, STEP, sources, settings, table.steps)
        time = b.take(b.constant(table.columns["t"], out="t_table"), step, axis=0, out="t")
        outs = " ".join(port.name for port in method.outputs)
        if first:
            made = b.call(method.function, main.name, *given.values(), out=outs)
        else:
            scale = table.columns.get("c_in", np.ones(table.rows)) * _prior(table)
            made = call(b, own, name, cond, state=_scaled(b, x, scale, step, "scaled"), time=time, out=outs)
        values = made if isinstance(made, tuple) else (made,)
        fields = [OutputField(f"behind_{port.name}") for port in method.outputs]
        results = list(values)
        if last < len(cut.blocks):
            found = dict(zip((port.name for port in method.outputs), values, strict=True))
            found = {**(given if first else {}), **found}
            functions = exit_methods(mb, exits, cut, last)
            features = [found[v.name] for v in cut.features(last)]
            context = [found[v.name] for v in cut.context]
            results.append(b.call(functions[0], exits.name, *features, *context, out="prediction"))
            results.append(b.call(functions[1], exits.name, *features, time, out="uncertainty"))
            fields += [OutputField("prediction"), OutputField("uncertainty")]
        else:
            fields = [OutputField("prediction")]
        b.output(*results)
        mb.entries[b.name] = b.finish(doc=f"Blocks {first + 1} to {last}, and the exit after them.")
        return Program(b.name, name, table.steps, 1, sources, tuple(settings), name, tuple(fields), tuple(asked))


def _branches(guides: Sequence[Guide], conditions: Conditions) -> list[frozenset[str]]:
    """The conditions left out of each prediction that guidance combines; the first is with all."""
    found = [frozenset[str]()]
    for guide in guides:
        found += [absent for absent in _pair(guide, conditions) if absent not in found]
    return found


def _pair(guide: Guide, conditions: Conditions) -> tuple[frozenset[str], frozenset[str]]:
    """The conditions left out of a term's better prediction, and of its worse."""
    assert isinstance(guide.how, Contrast) and guide.how.left_out is not None  # `mismatches` has looked
    return guide.how.left_out(tuple(name for name, condition in conditions.items() if condition.nullable))


def _of_branch(
    b: Builder, branch: Var, absent: Sequence[frozenset[str]], conditions: Conditions, cond: Mapping[str, Var]
) -> dict[str, Var]:
    """The operands of each row's branch i64[B]."""
    found = dict(cond)
    for number, names in enumerate(absent[1:], 1):
        own = b.equal(branch, number, out="own")
        for key, null in conditions.null(b, cond, sorted(names)).items():
            x = found[key]
            if null is not cond[key]:
                chosen = b.reshape(own, shape=(own.shape[0], *[1] * (x.type.rank - 1))) if x.type.rank > 1 else own
                found[key] = b.where(chosen, null, x, out=key)
    return found


def _step(mb: ModuleBuilder, main: Network, table: Table, guides: Sequence[Guide], conditions: Conditions) -> Program:
    """The program that makes a step of the sampler, from the prediction of every branch."""
    b, name = mb.function(f"{NAME}_step.{table.steps}"), f"{NAME}_step"
    forward = main.methods["forward"]
    state, made = forward.input("state"), forward.output()
    absent = _branches(guides, conditions)
    types = {state.name: state.type} | {f"prediction_{i}" if i else "prediction": made.type for i in range(len(absent))}
    x, *predictions = (b.input(key, type) for key, type in types.items())
    sources: dict[str, Source] = {key: ConditionSource(key) for key in types}
    settings: list[Setting] = []
    row = _index(b, STEP, sources, settings, table.steps)
    progress = [float(p) for p in table.progress[:, 0]]
    taken: list[set[int]] = [{0} for _ in progress]
    output = first_channels(b, predictions[0], x)
    for guide in guides:
        better, worse = (absent.index(one) for one in _pair(guide, conditions))
        weights = guide.weights(progress)
        for branches, weight in zip(taken, weights, strict=True):
            branches |= {better, worse} if weight != 0.0 else set()
        if guide.input not in sources:
            sources[guide.input] = SettingSource(guide.setting)
            settings.append(Setting(guide.setting, guide.default))
        scale = b.given(guide.input) or b.input(guide.input, f32(B))
        weight = b.take(b.constant(weights, out="weights"), row, axis=0)
        gain = column(b, b.mul(scale - 1.0, weight, out="gain"), x, "gain")
        assert isinstance(guide.how, Contrast)
        channels = guide.how.channels or int(x.shape[1])
        output = extrapolated(b, output, predictions[better], predictions[worse], gain, channels)
    k = table.columns
    of_x = _scaled(b, x, (k["x"] + k["d"] * k["d_x"]) * _prior(table), row, "of_x")
    b.output(b.add(of_x, _scaled(b, output, k["d"] * k["d_output"], row, "of_output"), out="x"))
    mb.entries[b.name] = b.finish(doc=f"A step of {table.solver}, from the prediction of every branch.")
    asked = tuple(_array(key, type) for key, type in types.items())
    every = tuple(tuple(sorted(one)) for one in taken) if guides else ()
    outputs = (OutputField("x"),)
    return Program(b.name, name, table.steps, 1, sources, tuple(settings), name, outputs, asked, every)


def _index(b: Builder, name: str, sources: dict[str, Source], settings: list[Setting], count: int) -> Var:
    """Adds an input i64[B] from 0 to `count` - 1, which is a setting of this name."""
    sources[name] = SettingSource(name)
    settings.append(Setting(name, 0.0, 0.0, count - 1.0))
    return b.cast(b.input(name, f32(B)), to="i64", out="row" if name == STEP else name)


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
    return b.mul(x, b.reshape(factor, shape=(x.shape[0], *[1] * (x.type.rank - 1))), out=out)
