"""One evaluation of a network inside a sampler's step, under guidance.

Symbols: B batch, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from latentc.components.contract import Network
from latentc.components.coupling import Coupling
from latentc.components.guidance.guidance import Contrast, Guide, scale_at
from latentc.components.kit import Operands, call, guided_call
from latentc.components.samplers.memory import names, remembered
from latentc.components.samplers.table import DATA_PART
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


@dataclass(frozen=True)
class Evaluation:
    """The network that evaluates, the terms of guidance that apply, and whether its conditions are annealed."""

    network: Network
    guides: tuple[Guide, ...] = ()
    annealed: bool = False

    @property
    def contrasts(self) -> list[tuple[Guide, Contrast]]:
        """The terms that change the prediction."""
        return [(guide, guide.how) for guide in self.guides if isinstance(guide.how, Contrast)]

    @property
    def degrades(self) -> bool:
        """Whether a term evaluates at another state."""
        return any(contrast.degrade is not None for _, contrast in self.contrasts)

    @property
    def slopes(self) -> list[Guide]:
        """The terms that change the score."""
        return [guide for guide in self.guides if not isinstance(guide.how, Contrast)]


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
) -> Var:
    """The output of `how.network` at x [B, C, ...] and time f32[B] (or times), guided; a variance beside it is not.

    `row` holds the weights of the terms whose weight is not 1 (see `weight_column`). `memory` is what a network with
    memory is given, of which guidance keeps one per branch, [2 B, ...]; it becomes what the network returns.

    ValueError: a network with memory, and guidance other than by one term of classifier-free guidance.
    """
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
        null = request.null(b, told, tuple(sorted(_left_out(contrast, request.nullable)[1])))
        first = contrast.channels or state_channels(how.network)
        channels = None if first == output_channels(how.network) else first
        out = names("guided", memory) if memory else ""
        by_role = {"state": x, "time": time, "memory": memory or ()}
        return remembered(guided_call(b, how.network, "forward", told, null, scale, channels, out, **by_role), memory)
    if memory:
        raise ValueError(f"network {how.network.name} has a memory, so that one term of guidance can act")

    known: dict[tuple[str, frozenset[str]], tuple[Var, ...]] = {}
    asked = [(_left_out(c, request.nullable)[0], c.degrade.METHOD) for _, c in contrasts if c.degrade is not None]
    shown = {absent: method for absent, method in asked if method != "forward"}

    def predicted(network: Network, absent: frozenset[str], state: Var = x, mark: str = "") -> tuple[Var, ...]:
        """The prediction, then what else its method returns."""
        key = (network.name + mark, absent)
        if key not in known:
            operands = request.null(b, told, tuple(sorted(absent))) if absent else told
            name = "_".join(["output", *(["by", network.name] * (network is not how.network)), *[mark] * bool(mark)])
            name += "".join(f"_without_{condition}" for condition in sorted(absent))
            method = "forward" if mark or network is not how.network else shown.get(absent, "forward")
            others = [port.name for port in network.methods[method].outputs[1:]]
            made = call(b, network, method, operands, state=state, time=time, out=" ".join([name, *others]))
            known[key] = as_tuple(made)
        return known[key]

    output, channels = predicted(how.network, frozenset())[0], state_channels(how.network)
    guided = _first(b, output, channels)
    for guide, contrast in contrasts:
        absent, without = _left_out(contrast, request.nullable)
        better, *seen = predicted(how.network, absent)
        if contrast.degrade is None:
            worse = predicted(contrast.network or how.network, without)[0]
        else:
            z_x, z_output = (row[name] for name in DATA_PART[which])
            data = weighted_sum(b, "data", (z_x, x), (z_output, _first(b, better, channels)))
            state = contrast.degrade(b, x, data, seen)
            worse = predicted(how.network, absent, state, guide.input.removesuffix("_scale"))[0]
        gain, weight = request.scales[guide.input] - 1.0, row.get(weight_column(guide, which), 1.0)
        gain = gain if isinstance(weight, float) else b.mul(gain, weight, out="gain")
        gain = b.reshape(gain, shape=(gain.shape[0], *(1,) * (x.type.rank - 1)), out="gain")
        guided = _extrapolated(b, guided, better, worse, gain, contrast.channels or channels)
    return _with_rest(b, guided, output)


def _is_plain(contrast: Contrast) -> bool:
    """Whether it is classifier-free guidance by the network that samples, which is one `guided` call."""
    return contrast.network is None and not contrast.absent and contrast.degrade is None


def state_channels(network: Network) -> int:
    """Channels of the network's state, or of that of the network whose blocks it reads."""
    while not network.main.inputs_of("state"):
        (network, *_) = network.adapters
    return int(network.main.input("state").type.shape[1])  # type: ignore[arg-type]


def output_channels(network: Network) -> int:
    """Channels of the network's output; a learned variance doubles those of the state."""
    return int(network.methods["forward"].output().type.shape[1])  # type: ignore[arg-type]


def _left_out(contrast: Contrast, nullable: tuple[str, ...]) -> tuple[frozenset[str], frozenset[str]]:
    """The conditions left out of the better prediction, and of the worse."""
    without = nullable if contrast.without is None else contrast.without
    return frozenset(contrast.absent), frozenset((*contrast.absent, *without))


def _extrapolated(b: Builder, x: Var, better: Var, worse: Var, gain: Var, channels: int) -> Var:
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
