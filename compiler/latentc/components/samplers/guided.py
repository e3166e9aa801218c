"""One evaluation of a network inside a sampler's step, under guidance, and the memory that a network carries between
evaluations, one per branch of guidance.

Symbols: B batch, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from latentc.components.contract import Network
from latentc.components.coupling import Coupling
from latentc.components.guidance.guidance import Array, Change, Contrast, Guide, Noise, Skips, Slope, scale_at
from latentc.components.kit import Conditions, Operands, call, guided_call
from latentc.components.samplers.table import DATA, DATA_PART, Bound, bounded
from latentc.components.sums import Coefficient, weighted_sum
from latentc.ir.builder import Builder, Var, as_tuple


def empty_memory(b: Builder, x: Var, network: Network) -> list[Var]:
    """The first memory of a network: zeros."""
    types = [port.type for port in network.methods["forward"].inputs_of("memory")]
    return [b.full(x, shape=type.shape[1:], value=0.0, dtype=type.dtype, out="memory") for type in types]


def per_branch(b: Builder, memory: list[Var], guided: bool, x: Var) -> list[Var]:
    """Memory [B, ...], or if the next evaluations are guided [2 B, ...], one per branch."""
    if not memory or guided == (memory[0].shape[0] != x.shape[0]):
        return memory
    return [twice(b, m) if guided else first_half(b, m) for m in memory]


@contextmanager
def branched(b: Builder, memory: list[Var], guided: bool, doubled: bool) -> Iterator[list[Var]]:
    """The part of `memory` that an evaluation takes; afterwards `memory` is the one that the evaluation returned.

    An evaluation without guidance in a step that is guided elsewhere (`doubled`) has one memory for both branches.
    """
    apart = doubled and not guided
    own = [first_half(b, m) for m in memory] if apart else list(memory)
    yield own
    memory[:] = [twice(b, m) for m in own] if apart else own


class Branches:
    """The memory of the branch with conditions and of the one without, in an evaluation that calls each by itself.

    ValueError (of `call`): another network, another method, or conditions left out otherwise than in that branch.
    """

    def __init__(self, b: Builder, network: Network, memory: list[Var]) -> None:
        self.b, self.network = b, network
        half = memory[0].shape[0] // 2
        halves = [b.split(m, axis=0, sizes=(half, half), out="memory null_memory") for m in memory]
        self.known: dict[frozenset[str], list[Var]] = {}
        self.given = {which: [pair[which] for pair in halves] for which in (False, True)}

    def call(
        self,
        network: Network,
        method: str,
        operands: Operands,
        absent: frozenset[str],
        forgets: bool,
        out: str,
        by_role: Mapping[str, Any],
    ) -> tuple[Var, ...]:
        """The results of a call but the memory, which the branch keeps unless the call `forgets` it."""
        apart = [left_out for left_out in self.known if left_out and left_out != absent]
        if network is not self.network or method != "forward" or (absent and apart):
            raise ValueError(
                f"network {network.name} keeps a memory between steps, but this guidance needs a memory of its own"
            )
        memory = self.given[bool(absent)]
        if forgets:
            memory = [self.b.mul(m, 0.0, out="empty") for m in memory]
        output, *made = call(self.b, network, method, operands, memory=memory, out=out, **by_role)
        if not forgets:
            self.known[absent] = made
        return (output,)

    def left(self) -> list[Var]:
        """The memory [2 B, ...] after the evaluation; a branch without a call of its own has the other's."""
        own = self.known[frozenset()]
        null = next((made for absent, made in self.known.items() if absent), own)
        return [self.b.concat(m, n, axis=0, out="memory") for m, n in zip(own, null, strict=True)]


def twice(b: Builder, memory: Var) -> Var:
    """The same memory for both branches of guidance."""
    return b.concat(memory, memory, axis=0, out="memory")


def first_half(b: Builder, memory: Var) -> Var:
    """The memory of the branch with conditions."""
    half = memory.shape[0] // 2
    return b.split(memory, axis=0, sizes=(half, half), out="memory null_memory")[0]


def names(output: str, memory: list[Var] | None) -> str:
    """Names of the results of a call: the prediction, then the memory."""
    return " ".join([output, *["memory"] * len(memory or ())])


def remembered(made: Any, memory: list[Var] | None) -> Var:
    """The prediction among the results of a call; `memory` becomes the others."""
    if not memory:
        return made
    output, *memory[:] = made
    return output


@dataclass(frozen=True)
class Request:
    """A request to a sampler: the operands of the conditions, and the scales f32[B] of guidance by input name.

    `null(b, operands, names)` gives the operands without conditions `names`; `nullable` are those it can leave out.
    `like` [B, ...] gives the size of the batch; it is the same in all steps, so values of its size are, too.
    `coupling`: where the sample starts, if not from noise alone. `cache`: keys and values that every evaluation reads,
    with guidance those of both branches.
    """

    operands: Operands
    null: Callable[[Builder, Operands, tuple[str, ...]], Operands]
    nullable: tuple[str, ...]
    like: Var
    scales: Mapping[str, Var] = field(default_factory=dict)
    coupling: Coupling | None = None
    cache: tuple[Var, ...] = ()


class Conditioning(Protocol):
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
    conditions: Conditioning | None = None

    @property
    def contrasts(self) -> list[tuple[Guide, Contrast]]:
        """The terms that combine predictions."""
        return [(guide, guide.how) for guide in self.guides if isinstance(guide.how, Contrast)]

    @property
    def of_data(self) -> bool:
        """True if a prediction is made at a state whose data was changed."""
        return any(contrast.of_data for _, contrast in self.contrasts)

    @property
    def noise(self) -> tuple[Noise, ...]:
        """The random numbers that it draws besides the noise of the step."""
        of_guides = (noise for guide in self.guides for noise in guide.how.noise)
        own = self.conditions.noise if self.conditions is not None else ()
        return tuple(dict.fromkeys((*own, *of_guides)))

    @property
    def slopes(self) -> list[tuple[Guide, Slope]]:
        """The terms that change the score."""
        return [(guide, guide.how) for guide in self.guides if isinstance(guide.how, Slope)]


class Around:
    """Changes the evaluations of a sampling program; by default none."""

    def evaluation(self, progress: float, usual: Evaluation) -> Evaluation:
        """The evaluation at a progress in place of the usual one."""
        return usual

    def request(self, b: Builder, conditions: Conditions, request: Request) -> Request:
        """The request of the program, with further inputs of the evaluations."""
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

    `row` holds the weights of the terms whose weight is not 1 (see `weight_column`). `memory` is that of a
    network with memory, with guidance one per branch, [2 B, ...]; it is replaced by the one that the network returns.
    `noise`: random numbers of the evaluation by input name. `clip` bounds the data of the states that terms degrade.

    ValueError: a network with memory, and guidance that would need another branch, or another network.
    """
    contrasts, by_role = how.contrasts, {"state": x, "time": time, "memory": memory or (), "cache": request.cache}
    changes = [(guide, guide.how) for guide in how.guides if isinstance(guide.how, Change)]
    (alone,) = contrasts if len(contrasts) == 1 else [None]
    left_out = alone[1].left_out(request.nullable) if alone and alone[1].left_out else None
    apart = bool(contrasts) and (left_out is None or bool(left_out[0]))
    e = Predictions(b, how, request, row, x, time, which, memory if apart else None, noise or {}, clip)
    if apart:
        output = e(e.base)
    elif alone and left_out:  # one `guided` call
        guide, plain = alone
        weight, scale = e.weight(guide), request.scales[guide.input]
        scale = scale if isinstance(weight, float) else scale_at(b, scale, weight)
        null = request.null(b, request.operands, tuple(sorted(left_out[1])))
        leading = plain.channels or state_channels(how.network)
        channels = None if leading == output_channels(how.network) else leading
        out = names("guided", memory) if memory else ""
        made = guided_call(b, how.network, "forward", request.operands, null, scale, channels, out, **by_role)
        output = remembered(made, memory)
    else:
        made = call(b, how.network, "forward", request.operands, **by_role, out=names("output", memory))
        output = remembered(made, memory)
    if not apart and not changes:
        return output
    guided = first(b, output, state_channels(how.network))
    for guide, contrast in contrasts if apart else []:
        pair = contrast.pair(e)
        gain, weight = request.scales[guide.input] - 1.0, e.weight(guide)
        gain = column(b, gain if isinstance(weight, float) else b.mul(gain, weight, out="gain"), x, "gain")
        guided = extrapolated(b, guided, *pair, gain, contrast.channels or state_channels(how.network))
    for guide, change in changes:
        guided = change(e, guided, request.scales[guide.input], e.weight(guide))
    if memory is not None and e.branches is not None:
        memory[:] = e.branches.left()
    return _with_rest(b, guided, output)


class Predictions:
    """The predictions that the terms of guidance combine in one evaluation, each made once; see `prediction`."""

    def __init__(
        self,
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
    ) -> None:
        self.b, self.network, self.request, self.x, self.time = b, how.network, request, x, time
        self._row, self._which, self._noise, self._clip = row, which, noise, clip
        contrasts = [contrast for _, contrast in how.contrasts]
        self._methods = dict(contrast.method for contrast in contrasts if contrast.method is not None)
        given = [contrast.usual for contrast in contrasts if contrast.usual is not None]
        self._usual: Skips | None
        self.base, self._usual = given[0] if given else (frozenset[str](), None)
        self.branches = Branches(b, how.network, memory) if memory else None
        self._known: dict[tuple[str, frozenset[str]], tuple[Var, ...]] = {}

    def __call__(self, absent: frozenset[str] = frozenset(), **others: Any) -> Var:
        """The prediction without conditions `absent`; for the other arguments see `outputs`."""
        return self.outputs(absent, **others)[0]

    def outputs(
        self,
        absent: frozenset[str] = frozenset(),
        network: Network | None = None,
        state: Var | None = None,
        at: str = "",
        skips: Skips | None = None,
        forgets: bool = False,
    ) -> tuple[Var, ...]:
        """The prediction without conditions `absent`, then the other outputs of its method except the memory.

        `network` makes it, by default the one that samples, at another `state`, which is called `at`. In it tokens skip
        blocks by `skips`, and if it `forgets` the memory is empty.
        """
        own = network is None or network is self.network
        network = self.network if network is None else network
        skips = self._usual if own and skips is None else skips
        marks = [*[at] * bool(at), *["skipping"] * (skips is not self._usual), *["without_memory"] * forgets]
        key = (" ".join([network.name, *marks, "" if skips is None else skips.method]), absent)
        if key in self._known and state is None:
            return self._known[key]
        operands = self.request.operands
        operands = self.request.null(self.b, operands, tuple(sorted(absent))) if absent else operands
        name = "_".join(["output", *(["by", network.name] * (not own)), *marks])
        name += "".join(f"_without_{condition}" for condition in sorted(absent))
        method = self._methods.get(absent, "forward") if own and state is None else "forward"
        by_role: dict[str, Any] = {"state": self.x if state is None else state, "time": self.time}
        if skips is not None:
            method, by_role["noise"] = skips.method, [self._noise[one.input(self._which)] for one in skips.noise]
        out = " ".join([name, *(port.name for port in network.methods[method].outputs[1:])])
        if self.branches is None:
            self._known[key] = as_tuple(call(self.b, network, method, operands, **by_role, out=out))
        else:
            self._known[key] = self.branches.call(network, method, operands, absent, forgets, out, by_role)
        return self._known[key]

    def weight(self, guide: Guide) -> Coefficient:
        """The fraction of a term that applies."""
        return self._row.get(weight_column(guide, self._which), 1.0)

    def data(self, predicted: Var) -> tuple[Var, Var]:
        """The state, and the part of it that is data by a prediction; both as the sampler clips data."""
        b, x = self.b, self.x
        z_x, z_output = (self._row[name] for name in DATA_PART[self._which])
        predicted = first(b, predicted, state_channels(self.network))
        data = weighted_sum(b, "data", (z_x, x), (z_output, predicted))
        if self._clip is None:
            return x, data
        unit = self._row[DATA[self._which][0]]
        clipped = b.mul(bounded(b, b.div(data, unit, out="x0"), self._clip, "x0"), unit, out="clipped")
        return b.add(x, b.op("sub", clipped, data, out="change"), out="clipped_x"), clipped


def column(b: Builder, v: Var, like: Var, out: str = "scale") -> Var:
    """v f32[B] as [B, 1, ...], of the rank of `like`."""
    return b.reshape(v, shape=(v.shape[0], *(1,) * (like.type.rank - 1)), out=out)


def state_channels(network: Network) -> int:
    """Channels of the network's state, or of that of the network whose blocks it reads."""
    while not network.main.inputs_of("state"):
        (network, *_) = network.adapters
    return int(network.main.input("state").type.shape[1])  # type: ignore[arg-type]


def output_channels(network: Network) -> int:
    """Channels of the network's output; a learned variance doubles those of the state."""
    return int(network.methods["forward"].output().type.shape[1])  # type: ignore[arg-type]


def extrapolated(b: Builder, x: Var, better: Var, worse: Var, gain: Var, channels: int) -> Var:
    """x + gain * (better - worse), in the first `channels` channels."""
    contrast = first(b, better, channels) - first(b, worse, channels)
    guided = b.add(first(b, x, channels), b.mul(gain, contrast, out="change"), out="guided")
    return _with_rest(b, guided, x)


def first(b: Builder, v: Var, channels: int) -> Var:
    """The first `channels` channels."""
    return v if v.shape[1] == channels else b.slice(v, axis=1, start=0, stop=channels)


def _with_rest(b: Builder, first: Var, v: Var) -> Var:
    """`first`, then the channels that v has beyond it."""
    if first.shape[1] == v.shape[1]:
        return first
    rest = b.slice(v, axis=1, start=first.shape[1], stop=v.shape[1])
    return b.concat(first, rest, axis=1, out="guided")
