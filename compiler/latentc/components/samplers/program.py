"""From a table to IR: a program of loops over the table's rows (see `loop`), and its inputs and their sources."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import groupby

from latentc.components.contract import Network, Program
from latentc.components.coupling import Coupling
from latentc.components.guidance.guidance import Contrast, Guide, Noise
from latentc.components.kit import Conditions
from latentc.components.parts import Refusal
from latentc.components.processes.process import Kernel
from latentc.components.samplers.guided import (
    Around,
    Evaluation,
    Request,
    output_channels,
    prediction,
    state_channels,
)
from latentc.components.samplers.loop import Known, loop
from latentc.components.samplers.memory import empty_memory, per_branch, twice
from latentc.components.samplers.table import Table
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.types import B, f32
from latentc_runtime.sources import RandomSource, Setting, SettingSource, Source


def sample_program(
    module: ModuleBuilder,
    network: Network,
    conditions: Conditions,
    table: Table,
    *,
    guides: Sequence[Guide] = (),
    around: Sequence[Around] = (),
    coupling: Coupling | None = None,
    entry: str = "sample",
    known: Callable[[Builder], Known] | None = None,
    kernel: Kernel | None = None,
) -> Program:
    """Adds entry `entry`: x f32[B, C, ...] of normals, the conditions, a scale f32[B] for each of `guides`, noise
    f32[N, B, C, ...] for the table's N stochastic steps, if any, and what evaluations draw -> x f32[B, C, ...].

    Consecutive steps whose evaluations have the same network and the same terms of guidance are one loop. `known` adds
    inputs for a part of the sample that is given; their sources are up to the caller. `kernel` makes the first noise.

    ValueError: guidance without a condition that may be left out, or of more channels than the data has; a learned
    variance of a network without the channels for it.
    """
    _check(network, conditions, table, guides)
    data = network.methods["forward"].input("state").type
    b = module.function(entry)
    x = b.input("x", data)
    request = request_of(b, conditions, x, guides, around, coupling)
    x = x if coupling is None else coupling.base(b, x, request.operands)
    total = stochastic_rows(table)
    noise = b.input("noise", f32(total, *data.shape)) if total else None
    x = x if kernel is None else kernel.apply(b, x, b.input(kernel.draw.name, f32(B)))
    drawn = evaluation_noise(table, partial(_evaluation_at, network, guides, around))
    kicks = {name: b.input(name, f32(rows, *of.type.shape)) for name, (of, rows) in drawn.items()}
    part = known(b) if known is not None else None
    b.output(denoise(b, entry, table, network, request, x, noise, guides, around, kicks, part))
    module.entries[entry] = b.finish(doc=f"{table.solver}, {table.steps} steps")
    sources = {"x": RandomSource("normal", "x"), **sources_of(conditions, guides)}
    if total:
        sources["noise"] = RandomSource("normal", "step", total)
    sources |= {name: RandomSource(of.distribution, name, rows) for name, (of, rows) in drawn.items()}
    if kernel is not None:
        draw = kernel.draw
        sources[draw.name] = RandomSource(draw.distribution, draw.name, parameters=dict(draw.parameters))
    settings = tuple({guide.input: Setting(guide.setting, guide.default) for guide in guides}.values())
    return Program(entry, table.solver, table.steps, table.all_progress.size, sources, settings)


def denoise(
    b: Builder,
    name: str,
    table: Table,
    network: Network,
    request: Request,
    x: Var,
    noise: Var | None,
    guides: Sequence[Guide] = (),
    around: Sequence[Around] = (),
    kicks: Mapping[str, Var] | None = None,
    known: Known | None = None,
) -> Var:
    """Runs a table over `network` in a function, or in the body of a loop: x [rows, C, ...] of normals -> samples.

    `noise` [N, rows, C, ...] is for the table's N stochastic steps, if any. The loops are called `name` with the
    solver. For the others see `sample_program`.
    """
    total, taken = stochastic_rows(table), 0
    rest = dict(kicks or {})  # drawn for evaluations, but not yet used by a step
    at = partial(_evaluation_at, network, guides, around)
    if table.prior != 1.0:
        x = b.mul(x, table.prior, out="x")
    if known is not None:
        x = known.start(b, x)
    memory: list[Var] = []
    before = None
    for part in table.parts():
        state = _first_state(b, part, x)
        for first, last, evaluations in _segments(part, at):
            rows = part.split(first, last)
            if evaluations[0].network is not before:
                before = evaluations[0].network
                memory = empty_memory(b, x, before)
            memory = per_branch(b, memory, any(one.contrasts for one in evaluations), x)
            z = None
            if part.stochastic and noise is not None:
                z = noise if rows.rows == total else b.slice(noise, axis=0, start=taken, stop=taken + rows.rows)
                taken += rows.rows
            kick = {}
            for key in (of.input(which) for which, one in enumerate(evaluations) for of in one.noise):
                left = rest[key]
                count = int(left.shape[0])
                kick[key] = left if count == rows.rows else b.slice(left, axis=0, start=0, stop=rows.rows, out=key)
                if count > rows.rows:
                    rest[key] = b.slice(left, axis=0, start=rows.rows, stop=count, out=key)
            own = known
            if known is not None and rows.rows != part.rows:
                own = known.split(b, first, last)
            made = loop(b, f"{name}.{part.solver}", rows, evaluations, request, state, z, kick, memory, own)
            state, memory = made[: len(state)], list(made[len(state) :])
        x = state[0]
    return x


def evaluation_noise(table: Table, at: Callable[[float], Evaluation]) -> dict[str, tuple[Noise, int]]:
    """{input: what the evaluations `at` the table's progress draw, and how many do}, over all parts of the table."""
    found: dict[str, tuple[Noise, int]] = {}
    for which in (0, 1):
        for progress in (p for part in table.parts() for p in part.progress[:, which : which + 1].ravel()):
            for noise in at(float(progress)).noise:
                found[noise.input(which)] = (noise, found.get(noise.input(which), (noise, 0))[1] + 1)
    return found


def stochastic_rows(table: Table) -> int:
    """N, the number of steps that take noise, over all parts of a table."""
    return sum(part.rows for part in table.parts() if part.stochastic)


def evaluation(
    module: ModuleBuilder, network: Network, conditions: Conditions, entry: str, guides: Sequence[Guide] = ()
) -> dict[str, Source]:
    """Adds entry `entry`, one evaluation: the state x, its time t f32[B], the conditions, a scale f32[B] per guide.

    All of `guides` act with their full weight, and change the prediction. Returns the sources of all inputs but x, t.
    """
    b = module.function(entry)
    x, t = b.input("x", network.methods["forward"].input("state").type), b.input("t", f32(B))
    request = request_of(b, conditions, x, guides)
    how, memory = Evaluation(network, tuple(guides)), empty_memory(b, x, network)
    memory = [twice(b, m) for m in memory] if how.contrasts else memory
    b.output(prediction(b, how, request, {}, x, t, 0, memory))
    module.entries[entry] = b.finish()
    return sources_of(conditions, guides)


def request_of(
    b: Builder,
    conditions: Conditions,
    x: Var,
    guides: Sequence[Guide],
    around: Sequence[Around] = (),
    coupling: Coupling | None = None,
) -> Request:
    """Adds the inputs of a request to a program whose first input is x."""
    operands = conditions.operands(b, conditions.inputs(b))
    like = next(iter(operands.values())) if operands else b.full(x, shape=(), value=0.0, dtype="f32", out="batch")
    nullable = tuple(name for name, condition in conditions.items() if condition.nullable)
    scales = {name: b.input(name, f32(B)) for name in dict.fromkeys(guide.input for guide in guides)}
    request = Request(operands, conditions.null, nullable, like, scales, coupling)
    for one in around:
        request = one.request(b, conditions, request)
    return request


def sources_of(conditions: Conditions, guides: Sequence[Guide]) -> dict[str, Source]:
    """The sources of what `request_of` adds."""
    return {**conditions.sources(), **{guide.input: SettingSource(guide.setting) for guide in guides}}


def _check(network: Network, conditions: Conditions, table: Table, guides: Sequence[Guide]) -> None:
    channels = state_channels(network)
    nullable = any(condition.nullable for _, condition in conditions.items())
    for contrast in (guide.how for guide in guides if isinstance(guide.how, Contrast)):
        if contrast.left_out is not None and not nullable:
            message = f"guidance needs a condition that can be dropped, but network `{network.name}` takes none"
            raise Refusal(message, "leave out the guidance, or give the network a condition", ("guidance",))
        if contrast.channels is not None and contrast.channels > channels:
            message = f"{contrast.channels} channels are guided, but the data has {channels}"
            raise Refusal(message, f"use at most {channels}", ("guidance",))
    if table.body.variance and output_channels(network) != 2 * channels:
        found = output_channels(network)
        message = f"a learned variance needs {2 * channels} output channels of the network, not {found}"
        raise Refusal(message, "let the objective train it: set `objective.variance: learned_range`")


def _evaluation_at(network: Network, guides: Sequence[Guide], around: Sequence[Around], progress: float) -> Evaluation:
    found = Evaluation(network, tuple(guide for guide in guides if guide.acts(progress)))
    for one in around:
        found = one.evaluation(progress, found)
    return found


def _segments(table: Table, at: Callable[[float], Evaluation]) -> list[tuple[int, int, tuple[Evaluation, ...]]]:
    """Runs of rows (first, last + 1) whose evaluations are alike, and what each of a row's evaluations is."""
    every = [tuple(at(float(progress)) for progress in row) for row in table.progress]
    keys = [
        tuple((one.network.main.function, tuple((g.input, g.part) for g in one.guides), one.noise) for one in row)
        for row in every
    ]
    runs = [list(run) for _, run in groupby(range(table.rows), key=keys.__getitem__)]
    return [(run[0], run[-1] + 1, every[run[0]]) for run in runs]


def _first_state(b: Builder, table: Table, x: Var) -> tuple[Var, ...]:
    """x, the corrected state where the body has one (x itself at first), and empty estimates."""
    if not table.history:
        return (x,)
    zeros = b.mul(x, 0.0, out="h")
    return (x, *[x] * table.body.corrects, *[zeros] * table.history)
