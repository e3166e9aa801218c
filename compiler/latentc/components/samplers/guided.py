"""One evaluation of a network inside a sampler's step, under guidance.

Symbols: B batch, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from latentc.components.contract import Network
from latentc.components.coupling import Coupling
from latentc.components.guidance.guidance import Array, Contrast, Correction, Guide, Noise, Skips, scale_at
from latentc.components.kit import Conditions, Operands, call, guided_call
from latentc.components.samplers._thresholds import Bound, bounded
from latentc.components.samplers.memory import Branches, names, remembered
from latentc.components.samplers.table import DATA, DATA_PART
from latentc.components.sums import Coefficient, weighted_sum
from latentc.ir.builder import Builder, Var
from latentc.ir.var import as_tuple


@dataclass(frozen=True)
class Request:
    """What a sampler is asked for: the operands of the conditions, and the scales f32[B] of guidance by input name.

    `null(b, operands, names)` gives the operands without conditions `names`; `nullable` are those it can leave out.
    `like` [B, ...] gives the size of the batch; it does not change over the steps, so neither does what only it sizes.
    `coupling` says where the sample starts, if not from noise alone.
    """

    operands: Operands
    null: Callable[[Builder, Operands, tuple[str, ...]], Operands]
    nullable: tuple[str, ...]
    like: Var
    scales: Mapping[str, Var] = field(default_factory=dict)
    coupling: Coupling | None = None


class Change(Protocol):
    """A change of the conditions of an evaluation; compared by identity."""

    @property
    def noise(self) -> tuple[Noise, ...]:
        """The random numbers that it draws."""

    def columns(self, progress: Sequence[float], which: int) -> dict[str, Array]:
        """Its coefficients in evaluation `which` of each step, by the progress of these evaluations."""

    def operands(
        self, b: Builder, operands: Operands, row: Mapping[str, Coefficient], noise: Mapping[str, Var], which: int
    ) -> Operands:
        """The changed operands of evaluation `which` of a step."""


@dataclass(frozen=True)
class Evaluation:
    """The network that evaluates, the terms of guidance that apply, and a change of its conditions, if any."""

    network: Network
    guides: tuple[Guide, ...] = ()
    change: Change | None = None

    @property
    def contrasts(self) -> list[tuple[Guide, Contrast]]:
        """The terms that change the prediction."""
        return [(guide, guide.how) for guide in self.guides if isinstance(guide.how, Contrast)]

    @property
    def corrections(self) -> list[tuple[Guide, Correction]]:
        """The terms that change the guided prediction."""
        return [(guide, guide.how) for guide in self.guides if isinstance(guide.how, Correction)]

    @property
    def noise(self) -> tuple[Noise, ...]:
        """What it draws beside the noise of the step."""
        drawing = [guide.how for guide in self.guides if not isinstance(guide.how, Correction)]
        of_guides = (noise for how in drawing for noise in how.noise)
        own = self.change.noise if self.change is not None else ()
        return tuple(dict.fromkeys((*own, *of_guides)))

    @property
    def degrades(self) -> bool:
        """Whether a term evaluates at another state."""
        return any(contrast.degrade is not None for _, contrast in self.contrasts)

    @property
    def slopes(self) -> list[Guide]:
        """The terms that change the score."""
        return [guide for guide in self.guides if not isinstance(guide.how, Contrast | Correction)]


class Around:
    """Changes the evaluations of a sampling program; by default none."""

    def evaluation(self, progress: float, usual: Evaluation) -> Evaluation:
        """The evaluation at a progress in place of the usual one."""
        return usual

    def request(self, b: Builder, conditions: Conditions, request: Request) -> Request:
        """The request of the program, with what the evaluations need besides."""
        return request


@dataclass(frozen=True)
class Replaced(Around):
    """Another network evaluates wherever `network(progress)` returns one."""

    network: Callable[[float], Network | None]

    def evaluation(self, progress: float, usual: Evaluation) -> Evaluation:
        other = self.network(progress)
        return usual if other is None else replace(usual, network=other)


def weight_column(guide: Guide, which: int) -> str:
    """Name of the table column that holds the guide's weight in evaluation `which` of a step."""
    return f"{guide.input}_weight" + ("", "_2")[which]


def prediction(
    b: Builder,
    how: Evaluation,
    request: Request,
    row: Mapping[str, Coefficient],
    x: Var,
    time: Var | list[Var],
    which: int,
    memory: list[Var] | None = None,
    noise: Mapping[str, Var] | None = None,
    clip: Bound | None = None,
) -> Var:
    """The output of `how.network` at x [B, C, ...] and time f32[B] (or times), guided; a variance beside it is not.

    `row` holds the weights of the terms whose weight is not 1 (see `weight_column`). `memory` is what a network with
    memory is given, of which guidance keeps one per branch, [2 B, ...]; it becomes what the network returns. `noise`
    has what the evaluation draws, by the names of inputs. `clip` bounds the data of the states that terms degrade.

    ValueError: a network with memory, and guidance that would need another branch, or another network.
    """
    guided = _contrasted(b, how, request, row, x, time, which, memory, noise or {}, clip)
    for guide, correction in how.corrections:
        mean = call(b, correction.network, "forward", request.operands, state=x, time=time, out="mean")
        first, scale = _first(b, guided, state_channels(how.network)), column(b, request.scales[guide.input], x)
        if correction.kept is None:
            change = b.mul(scale, b.op("sub", mean, first), out="correction")
        else:
            change = weighted_sum(b, "correction", (correction.kept - 1.0, first), (1.0, b.mul(scale, mean)))
        change = weighted_sum(b, "correction", (row.get(weight_column(guide, which), 1.0), change))
        guided = _with_rest(b, b.add(first, change, out="corrected"), guided)
    return guided


def _contrasted(
    b: Builder,
    how: Evaluation,
    request: Request,
    row: Mapping[str, Coefficient],
    x: Var,
    time: Var | list[Var],
    which: int,
    memory: list[Var] | None,
    noise: Mapping[str, Var],
    clip: Bound | None,
) -> Var:
    """The prediction under the terms that are contrasts; see `prediction`."""
    told, contrasts = request.operands, how.contrasts
    if not contrasts:
        made = call(
            b, how.network, "forward", told, state=x, time=time, memory=memory or (), out=names("output", memory)
        )
        return remembered(made, memory)
    if len(contrasts) == 1 and _is_plain(contrasts[0][1]):
        ((guide, contrast),) = contrasts
        weight, scale = row.get(weight_column(guide, which), 1.0), request.scales[guide.input]
        scale = scale if isinstance(weight, float) else scale_at(b, scale, weight)
        null = request.null(b, told, tuple(sorted(left_out(contrast, request.nullable)[1])))
        first = contrast.channels or state_channels(how.network)
        channels = None if first == output_channels(how.network) else first
        out = names("guided", memory) if memory else ""
        by_role = {"state": x, "time": time, "memory": memory or ()}
        return remembered(guided_call(b, how.network, "forward", told, null, scale, channels, out, **by_role), memory)
    branches = Branches(b, how.network, memory or []) if memory else None

    known: dict[tuple[str, frozenset[str]], tuple[Var, ...]] = {}
    asked = [(left_out(c, request.nullable)[0], c.degrade.METHOD) for _, c in contrasts if c.degrade is not None]
    shown = {absent: method for absent, method in asked if method != "forward"}
    sampled = next((c for _, c in contrasts if c.better is not None), Contrast())
    usual, base = sampled.better, left_out(sampled, request.nullable)[0]

    def predicted(
        network: Network,
        absent: frozenset[str],
        state: Var = x,
        mark: str = "",
        skips: Skips | None = None,
        forgets: bool = False,
    ) -> tuple[Var, ...]:
        """The prediction, then what else its method returns but the memory."""
        own = network is how.network
        skips = usual if own and skips is None else skips
        marks = [mark, *["skipping"] * (skips is not usual), *["without_memory"] * forgets]
        key = (" ".join([network.name, *marks, "" if skips is None else skips.method]), absent)
        if key not in known:
            operands = request.null(b, told, tuple(sorted(absent))) if absent else told
            name = "_".join(["output", *(["by", network.name] * (not own)), *filter(None, marks)])
            name += "".join(f"_without_{condition}" for condition in sorted(absent))
            method = "forward" if mark or not own else shown.get(absent, "forward")
            by_role = {"state": state, "time": time}
            if skips is not None:
                method, by_role["noise"] = skips.method, [noise[one.input(which)] for one in skips.noise]
            others = [port.name for port in network.methods[method].outputs[1:]]
            out = " ".join([name, *others])
            if branches is None:
                known[key] = as_tuple(call(b, network, method, operands, **by_role, out=out))
            else:
                known[key] = branches.call(network, method, operands, absent, forgets, out, by_role)
        return known[key]

    output, channels = predicted(how.network, base)[0], state_channels(how.network)
    guided = _first(b, output, channels)
    for guide, contrast in contrasts:
        absent, without = left_out(contrast, request.nullable)
        better, *seen = predicted(how.network, absent)
        if contrast.degrade is None:
            by = contrast.network or how.network
            worse = predicted(by, without, skips=contrast.worse, forgets=contrast.forgets)[0]
        else:
            z_x, z_output = (row[name] for name in DATA_PART[which])
            data = weighted_sum(b, "data", (z_x, x), (z_output, _first(b, better, channels)))
            seen_x = x
            if clip is not None:
                unit = row[DATA[which][0]]
                clipped = b.mul(bounded(b, b.div(data, unit, out="x0"), clip, "x0"), unit, out="clipped")
                seen_x, data = b.add(x, b.op("sub", clipped, data, out="change"), out="clipped_x"), clipped
            state = contrast.degrade(b, seen_x, data, seen)
            worse = predicted(how.network, absent, state, guide.input.removesuffix("_scale"))[0]
        gain, weight = request.scales[guide.input] - 1.0, row.get(weight_column(guide, which), 1.0)
        gain = gain if isinstance(weight, float) else b.mul(gain, weight, out="gain")
        guided = extrapolated(b, guided, better, worse, column(b, gain, x, "gain"), contrast.channels or channels)
    if branches is not None and memory is not None:
        memory[:] = branches.left()
    return _with_rest(b, guided, output)


def column(b: Builder, v: Var, like: Var, out: str = "scale") -> Var:
    """v f32[B] as [B, 1, ...], of the rank of `like`."""
    return b.reshape(v, shape=(v.shape[0], *(1,) * (like.type.rank - 1)), out=out)  # type: ignore[no-any-return]


def _is_plain(contrast: Contrast) -> bool:
    """Whether it is classifier-free guidance by the network that samples, which is one `guided` call."""
    changed = contrast.absent or contrast.degrade or contrast.better or contrast.worse or contrast.forgets
    return contrast.network is None and not changed


def state_channels(network: Network) -> int:
    """Channels of the network's state, or of that of the network whose blocks it reads."""
    while not network.main.inputs_of("state"):
        (network, *_) = network.adapters
    return int(network.main.input("state").type.shape[1])  # type: ignore[arg-type]


def output_channels(network: Network) -> int:
    """Channels of the network's output; a learned variance doubles those of the state."""
    return int(network.methods["forward"].output().type.shape[1])  # type: ignore[arg-type]


def left_out(contrast: Contrast, nullable: tuple[str, ...]) -> tuple[frozenset[str], frozenset[str]]:
    """The conditions left out of the better prediction, and of the worse."""
    without = nullable if contrast.without is None else contrast.without
    return frozenset(contrast.absent), frozenset((*contrast.absent, *without))


def extrapolated(b: Builder, x: Var, better: Var, worse: Var, gain: Var, channels: int) -> Var:
    """x + gain * (better - worse), in the first `channels` channels."""
    contrast = _first(b, better, channels) - _first(b, worse, channels)
    guided = b.add(_first(b, x, channels), b.mul(gain, contrast, out="change"), out="guided")
    return _with_rest(b, guided, x)


def _first(b: Builder, v: Var, channels: int) -> Var:
    """The first `channels` channels."""
    return v if v.shape[1] == channels else b.slice(v, axis=1, start=0, stop=channels)  # type: ignore[no-any-return]


def _with_rest(b: Builder, first: Var, v: Var) -> Var:
    """`first`, then the channels that v has beyond it."""
    if first.shape[1] == v.shape[1]:
        return first
    rest = b.slice(v, axis=1, start=first.shape[1], stop=v.shape[1])
    return b.concat(first, rest, axis=1, out="guided")  # type: ignore[no-any-return]
