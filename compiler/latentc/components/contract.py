"""The contract between parts of a lowered spec: networks with typed ports, losses with their draws, programs.

`lower` builds a `Lowered`, from which the emitter writes a training project and the exporter a bundle. No code outside
the components depends on a kind: parts are matched by capabilities (`Need`) and by the roles and types of ports.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from latentc.components.capabilities import Capability, Role
from latentc.components.fields import Field
from latentc.ir.core import Function, Module, networks_called
from latentc.ir.types import Sym, TensorType
from latentc_runtime.chunks import Chunk
from latentc_runtime.sources import Condition, Input, Setting, Source

if TYPE_CHECKING:
    from latentc.components.samplers.script import Script


@dataclass(frozen=True)
class Need:
    """A capability that an objective or sampler requires of `network`.

    `outputs` names the outputs it reads; `place` is the part of the component that requires it, and `who` the name of
    that part in diagnostics. `asks`: what the network builds for it beyond what the capability always has, by name,
    with a parameter (`{"averages": 0.999}`); networks read it by `asked`.
    """

    network: str
    capability: Capability
    outputs: tuple[str, ...] = ()
    place: tuple[str | int, ...] = ()
    who: str | None = None
    asks: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Port:
    """An input or output of a method. `state` is the sample itself; `logits` score a discrete output.

    Integers are 0 to `values` - 1; `null` is the null value. `distribution` is the noise distribution, a row of
    `latentc_runtime.distributions.DISTRIBUTIONS`, if the capability lets the network choose it.
    """

    name: str
    type: TensorType
    role: Role
    values: int | None = None
    null: int | None = None
    distribution: str | None = None


@dataclass(frozen=True)
class Method:
    """A method of a network: its function in the module, with its input and output ports."""

    function: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    def input(self, role: Role) -> Port:
        """The only input of this role; KeyError unless there is exactly one."""
        return _only(self.inputs, role)

    def output(self, role: Role = "output") -> Port:
        """The only output of this role; KeyError unless there is exactly one."""
        return _only(self.outputs, role)

    def inputs_of(self, role: Role) -> tuple[Port, ...]:
        """The inputs of a role, in order."""
        return tuple(port for port in self.inputs if port.role == role)


def _only(ports: tuple[Port, ...], role: Role) -> Port:
    found = [port for port in ports if port.role == role]
    if len(found) != 1:
        raise KeyError(f"{len(found)} ports have the role {role}, not one")
    return found[0]


@dataclass(frozen=True)
class CopiedProgram:
    """A program that others contain, which draws a condition or decodes codes: its function, the source of each input.

    Others copy its nodes; it is no entry.
    """

    function: Function
    sources: Mapping[str, Source]
    settings: tuple[Setting, ...]
    evaluations: int


Sizes = Mapping[str, float | tuple[float, ...]]
"""Numbers, or lists of them, by the names that name maps give them."""


@dataclass(frozen=True)
class Network:
    """A network of a spec: its methods by name, and its capabilities.

    Weights of network `main` live under state-dict prefix `main.` in programs that call it, without prefix in its own
    file. `sizes` are numbers, or lists with one per level, that name maps may use besides the constructor arguments of
    its class. `drawn` maps condition names to the programs that draw them. `adapters` are the networks that compute its
    inputs of role `control`, in order. `reading` is the order of its tokens, as cell numbers of a grid counted row by
    row; None means row by row. `in_turn` are conditions of which training gives each sample one.
    """

    name: str
    methods: Mapping[str, Method]
    provides: frozenset[Capability]
    sizes: Sizes = field(default_factory=dict)
    drawn: Mapping[str, CopiedProgram] = field(default_factory=dict)
    adapters: tuple[Network, ...] = ()
    reading: tuple[int, ...] | None = None
    in_turn: tuple[str, ...] = ()

    @property
    def main_method(self) -> str:
        """The method used for verification and costs: `forward`, or the first if there is none."""
        return "forward" if "forward" in self.methods else next(iter(self.methods))

    @property
    def main(self) -> Method:
        return self.methods[self.main_method]

    @property
    def discrete(self) -> bool:
        """Whether its main method returns logits; its error is then measured by agreement and perplexity."""
        return any(port.role == "logits" for port in self.main.outputs)

    @property
    def functions(self) -> tuple[str, ...]:
        """The functions of its methods."""
        return tuple(method.function for method in self.methods.values())


@dataclass(frozen=True)
class Draw:
    """A random input of a loss: a row of `latentc_runtime.distributions.DISTRIBUTIONS` and its parameters.

    `meaning`: what its values do, for those who give them; empty if the name says it.
    """

    name: str
    distribution: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    meaning: str = ""


@dataclass(frozen=True)
class Rollout:
    """Samples that an update learns from, drawn by program `program` before its optimiser steps, without gradients.

    `group` samples are drawn per sample of the batch, with conditions from its fields: `given` maps (request condition,
    "value" or "mask") to the field. After the batch, the loss takes the inputs named in `gives`: outputs of the program
    as [B, group, ...], and `reward` f32[B, group], the objective's rewards for the output `samples`.
    """

    program: str
    group: int
    gives: tuple[str, ...]
    given: Mapping[tuple[str, str], str]


@dataclass(frozen=True)
class Update:
    """One optimiser update in a training step: minimises output 0 of entry `loss` over the weights of `networks`.

    The loss takes the batch (`x` f32[B, C, H, W] or `tokens` i64[B, T]; `y` i64[B]; no data if it is empty), then
    the draws. All outputs are scalars to log, named by `metrics`. Weights of other networks it calls are unchanged, but
    state that a training forward pass writes (running statistics, spectral vectors) is updated in every network called.
    `partial`: some of these weights get no gradient. `name`, an identifier, distinguishes several updates and prefixes
    their metrics (`generator/loss`). `repeats` is the number of optimiser steps, each on new samples (with a
    `rollout`, all on the same).
    `batch_multiple` is the batch size as a multiple of `train.batch_size`; it is 1 if the loss reads data.
    The loss gets `reference` times as many data samples as draws, and trains on the first of them. The update runs from
    step `start` on, counted from 0, in the first `span` of every `every` steps; if it `rests`, in all
    steps but these. A loss with an input `training_step` i64[] gets the step. `climbs` is the output of the loss, a
    part of output 0, that an optimiser's `sam` climbs and whose gradient it takes at the top; the gradient of the rest
    is taken at the weights.
    """

    loss: str
    networks: tuple[str, ...]
    batch: tuple[str, ...]
    draws: tuple[Draw, ...]
    metrics: tuple[str, ...] = ()
    name: str = ""
    repeats: int = 1
    batch_multiple: int = 1
    reference: int = 1
    partial: bool = False
    rollout: Rollout | None = None
    start: int = 0
    every: int = 1
    span: int = 1
    rests: bool = False
    climbs: int = 0


CLUSTERED = "clustered"
"""Entry of a module: the features f32[B, D] of a batch that training clusters."""


@dataclass(frozen=True)
class Clustering:
    """Training whose labels `y` are clusters of the data, by features of `network` (the entry CLUSTERED).

    They are found before the first step, and again every `every` steps after step `start`, from `samples` of the data
    (None: all). No label is read from the data.
    """

    network: str
    every: int
    start: int
    samples: int | None


@dataclass(frozen=True)
class Rounds:
    """Training in `count` rounds of equal length.

    At the start of every round but the first, network `teacher` takes the weights of network `student` (its moving
    average, if there is one), the student continues from the same weights, and optimisers and learning rates restart.
    Losses with an input `round` i64[] get the round, counted from 0.
    """

    count: int
    teacher: str
    student: str


@dataclass(frozen=True)
class OutputField:
    """An output of a program: its name, and the data field or description of its samples.

    None means plain numbers. `latents`: the latents behind the first stage's codes, if these are tokens. `effort`: work
    counters, which rounding may change, so they are not verified.
    """

    name: str
    field: str | Field | None = None
    latents: bool = False
    effort: bool = False


@dataclass(frozen=True)
class Program:
    """A program over the networks: entry `entry` of the module, with the source of each of its inputs, in order.

    `steps` is the user-visible count (evaluation points, tokens); `evaluations` counts network calls.
    `settings` are those that its sources name, `conditions` those that only this program asks a request for. `outputs`
    say what the entry's outputs are; none: samples of the field that the network models. `name` is `sample` for what
    draws samples, or says what else it does (`inpaint`); programs of one name differ in steps.
    `branches`: of a step from predictions, the numbers of those that each step takes under guidance. `encoded`: the
    inputs that are samples of what the network models; if that is codes of a first stage, requests give what it
    encodes. `schedule()`: the tables of its steps as formulas, or None. `chunk`: of a program that requests give any
    number of rows, such as points or rays, in some of `conditions`; a row's outputs depend on that row and on inputs of
    the whole sample.
    """

    entry: str
    solver: str
    steps: int
    evaluations: int
    sources: Mapping[str, Source]
    settings: tuple[Setting, ...] = ()
    name: str = "sample"
    outputs: tuple[OutputField, ...] = ()
    conditions: tuple[Condition, ...] = ()
    branches: tuple[tuple[int, ...], ...] = ()
    encoded: tuple[str, ...] = ()
    chunk: Chunk | None = None
    schedule: Callable[[], Script | None] | None = field(default=None, compare=False, repr=False)

    @property
    def draws_data(self) -> bool:
        """True if its first output is samples of the data, rather than other numbers such as logits."""
        return not self.outputs or self.outputs[0].field is not None

    def inputs(self, module: Module) -> tuple[Input, ...]:
        """The inputs of the program's entry in order, as `latentc_runtime.sources` makes them."""
        return tuple(
            Input(v.name, v.type.dtype, tuple("B" if isinstance(d, Sym) else int(d) for d in v.type.shape), source)  # type: ignore[arg-type]
            for v in module.entry(self.entry).inputs
            for source in (self.sources[v.name],)
        )


@dataclass(frozen=True)
class Lowered:
    """A spec as IR. `module.entries` has each network's methods as `main.forward`, the losses, the programs.

    The first program is the sampler. `conditions` are those of the spec, then those that programs add.
    """

    module: Module
    networks: Mapping[str, Network]
    updates: tuple[Update, ...]
    programs: tuple[Program, ...]
    conditions: tuple[Condition, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)  # schedule facts that reports and emitted comments print

    def program(self, name: str, steps: int) -> Program:
        """The program of this name and number of steps."""
        return next(p for p in self.programs if (p.name, p.steps) == (name, steps))

    @property
    def sampled(self) -> tuple[str, ...]:
        """The networks that samples are drawn with, in the spec's order; all where there is no sampler."""
        called = {
            call
            for program in self.programs
            for call in networks_called(self.module, self.module.entries[program.entry])
        }
        return tuple(name for name in self.networks if name in called or not self.programs)
