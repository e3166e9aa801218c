"""Base classes of the parts a backbone is composed from, and what they have in common.

Symbols: B batch, T tokens, D (`dim`) width, H heads.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Closed, Component
from latentc.components.contract import (
    Capability,
    Draw,
    Method,
    Need,
    Network,
    Port,
    Program,
    Role,
    Rounds,
    Update,
)
from latentc.components.first_stage import Codes
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, module_class
from latentc.ir.types import Named, TensorType, f32
from latentc_runtime.sources import Condition as Requested
from latentc_runtime.sources import Setting

if TYPE_CHECKING:
    from latentc.components.processes.process import Parameterization
    from latentc.spec.schema import Spec

# How the weights of a network's linear layers start; biases start at zero.
Fraction = Annotated[float, Field(ge=0, le=1)]
Weights = Literal["xavier", "normal"]
Init = Literal["xavier", "normal", "unit_normal", "zeros"]
_INITS: dict[str, tuple[str, dict[str, Any]]] = {
    "xavier": ("xavier_uniform", {}),
    "normal": ("normal", {"std": 0.02}),
    "unit_normal": ("normal", {}),
    "zeros": ("zeros", {}),
}


def dense(b: Builder, name: str, x: Var, features: int, bias: bool, init: str, out: str = "") -> Var:
    """A Linear whose weight starts as `init` (an `Init`) says and whose bias starts at zero."""
    kind, args = _INITS[init]
    return b.dense(name, x, features, bias, kind, out, **args)


def table(b: Builder, name: str, rows: Any, width: Any, init: str) -> Var:
    """A weight f32[rows, width] that starts as `init` (an `Init`) says."""
    kind, args = _INITS[init]
    return b.param(name, f32(rows, width), kind, **args)


@dataclass(frozen=True)
class Problem:
    """What a component finds wrong with the rest of the spec: `path` is relative to the component."""

    path: tuple[str | int, ...]
    message: str
    help: str | None = None


class Part(Component):
    """A component that may object to the spec it stands in."""

    def problems(self, spec: Spec) -> Iterator[Problem]:
        """What does not fit, each a diagnostic at the component's place in the spec."""
        yield from ()


class Norm(Part):
    """A normalisation over the last axis."""

    @abstractmethod
    def apply(self, b: Builder, name: str, x: Var) -> Var: ...


class Mixer(Part):
    """Mixes tokens: x [B, T, D] -> [B, T, D]. `static` are the sizes its emitted class is constructed with."""

    @property
    @abstractmethod
    def head_count(self) -> int:
        """Heads that `dim` is divided among."""

    @abstractmethod
    def static(self, dim: int) -> dict[str, Any]: ...

    @abstractmethod
    def apply(
        self,
        b: Builder,
        name: str,
        x: Var,
        rotary: tuple[Var, ...],
        init: str,
        mask: Var | None = None,
        **static: Any,
    ) -> Var:
        """`mask` bool[B, 1, 1, T] is true for the tokens that may be seen; None: all."""

    @abstractmethod
    def decode(
        self, b: Builder, name: str, x: Var, state: DecodeState, rotary: tuple[Var, ...], init: str, **static: Any
    ) -> tuple[Var, Var, Var]:
        """One token x [B, 1, D] against a cache: (output, new key cache, new value cache)."""


@dataclass(frozen=True)
class DecodeState:
    """What one decoding step of a mixer gets: where the token stands, which positions it sees, its caches."""

    position: Var  # i64[]
    mask: Var  # bool[1, 1, 1, T], true where a position is visible
    keys: Var  # f32[B, H_kv, T, D / H]
    values: Var
    temperature: Var | None = None  # f32[B], divides the scores


class FeedForward(Part):
    """Works on each token alone: x [B, T, D] -> [B, T, D]."""

    @abstractmethod
    def static(self, dim: int) -> dict[str, Any]: ...

    @abstractmethod
    def apply(self, b: Builder, name: str, x: Var, init: str, **static: Any) -> Var: ...


class Positions(Part):
    """Tells tokens where they stand: added once to the input, or as rotary tables to every attention."""

    def add(self, b: Builder, x: Var, dim: int, grid: int) -> Var:
        return x

    def rotary(self, b: Builder, head_dim: int, grid: int, prefix: int) -> tuple[Var, ...]:
        """(cos, sin), each f32[prefix + grid * grid, head_dim / 2], or nothing."""
        return ()


class TimeEmbedding(Part):
    """How networks are told the time of a noisy sample; stands under `conditioning.time`."""

    ROLE: ClassVar[Role] = "time"

    @abstractmethod
    def vector(self, b: Builder, name: str, t: Var, width: Any) -> Var:
        """Embeds t f32[B]: f32[B, width], its params under `name`."""


class TimeFeatures(TimeEmbedding):
    """A time embedding by fixed features, which networks may also take as they are."""

    @abstractmethod
    def static(self) -> dict[str, Any]:
        """The numbers `features` is built from, which the emitted class is constructed with; F is `frequencies`."""

    @abstractmethod
    def features(self, b: Builder, t: Var, **static: Any) -> Var:
        """Features of t f32[B], without trained weights: f32[B, F]."""

    def vector(self, b: Builder, name: str, t: Var, width: Any) -> Var:
        return b.sub(name, _time_embedder(self), t, dim=width, **self.static())  # type: ignore[no-any-return]


@cache
def _time_embedder(time: TimeFeatures) -> BlockBody:
    @module_class("TimestepEmbedder")
    def embedder(b: Builder, t: Var, *, dim: int, **static: Any) -> Var:
        """Embeds times: sinusoids, then two linear layers."""
        x = time.features(b, t, **static)
        x = b.silu(b.dense("fc1", x, dim, init="normal", std=0.02), out="x")
        return b.dense("fc2", x, dim, init="normal", std=0.02)

    return embedder


Form = Literal["vector", "tokens", "map", "array"]
"""How a condition can enter a network: one vector, a sequence of embedded tokens, channels beside the state, or the
array itself."""


class Condition(Part):
    """What networks are told beside the sample and its time; stands under `conditioning.NAME`.

    Its operands go by name: that of the condition, but `y` for the class, as papers write it.
    """

    ROLE: ClassVar[Role] = "condition"
    FORMS: ClassVar[tuple[Form, ...]]

    field: str | None = Field(None, description="field of the data it comes from; null: the one of its own name")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="probability of training without it; 0: always given, so no guidance"
    )

    def problems_as(self, name: str, spec: Spec) -> Iterator[Problem]:
        """What does not fit if it is the condition called `name`."""
        for given in self.inputs(name, spec):
            if isinstance(given, GivenInput) and given.field not in spec.data.fields:
                known = ", ".join(spec.data.fields) or "none"
                message = f"condition `{name}` comes from field `{given.field}`, which the data does not have"
                yield Problem((), message, f"fields of the data: {known}; name one in `conditioning.{name}.field`")

    @property
    def networks(self) -> tuple[str, ...]:
        """The networks that compute its operands."""
        return ()

    @property
    def nullable(self) -> bool:
        """Whether networks are trained to do without it."""
        return self.dropout > 0

    @abstractmethod
    def ports(self, name: str, spec: Spec) -> tuple[Port, ...]:
        """What a network that is told it takes."""

    @abstractmethod
    def null_operands(self, b: Builder, name: str, operands: tuple[Var, ...], spec: Spec) -> tuple[Var, ...]:
        """What stands for none in the place of each operand: of its type, or of one that broadcasts to it."""

    def inputs(self, name: str, spec: Spec) -> tuple[GivenInput | DrawnInput, ...]:
        """What a loss reads from the data (or draws) and a request supplies; by default the first operand."""
        port = self.ports(name, spec)[0]
        return (GivenInput(port.name, port.type, self.field or operand_name(name), name),)

    @abstractmethod
    def requests(self, name: str, spec: Spec) -> tuple[Requested, ...]:
        """What a request says of it."""

    def stored(self, type: TensorType) -> TensorType:
        """The type that the data has for an input of this type."""
        return type

    def from_stored(self, b: Builder, value: Var, type: TensorType) -> Var:
        """An input of this type, from what the data has."""
        return value

    def operands(
        self, b: Builder, name: str, given: tuple[Var, ...], networks: Mapping[str, Network]
    ) -> tuple[Var, ...]:
        """The operands of networks, made of the inputs."""
        return given

    def sizes(self, name: str, spec: Spec) -> dict[str, int]:
        """The sizes its embedding is built from, by the names of the emitted class's arguments."""
        return {}

    def vector(
        self, b: Builder, prefix: str, name: str, operands: tuple[Var, ...], width: Any, sizes: Mapping[str, Any]
    ) -> Var:
        """Its embedding f32[B, width], params under `prefix`. For conditions whose FORMS have "vector"."""
        raise NotImplementedError

    def tokens(
        self, b: Builder, prefix: str, name: str, operands: tuple[Var, ...], width: Any, sizes: Mapping[str, Any]
    ) -> tuple[Var, Var | None]:
        """Its embedded tokens f32[B, L, width], and which of them count: bool[B, L], or None for all.

        For conditions whose FORMS have "tokens"; by default the vector as one token.
        """
        vector = self.vector(b, prefix, name, operands, width, sizes)
        return b.reshape(vector, shape=(vector.shape[0], 1, width), out="tokens"), None

    def length(self, name: str, spec: Spec) -> int:
        """How many tokens it enters as. For conditions whose FORMS have "tokens"."""
        return 1

    def map(self, b: Builder, name: str, operands: tuple[Var, ...], sizes: Mapping[str, Any], side: Any) -> Var:
        """It as channels beside a state of `side` by `side`: f32[B, C, side, side].

        For conditions whose FORMS have "map".
        """
        raise NotImplementedError


@dataclass(frozen=True)
class GivenInput:
    """An input of losses and programs that data and requests supply: its name and type, and the data field.

    A request gives it as `request`, of which it is the value or the mask.
    """

    name: str
    type: TensorType
    field: str
    request: str
    part: Literal["value", "mask"] = "value"


@dataclass(frozen=True)
class DrawnInput:
    """An input of losses and programs that training draws at random, as `draw`, and that a request sets: `setting`."""

    name: str
    type: TensorType
    draw: Draw
    setting: Setting


@dataclass(frozen=True)
class Entry:
    """How one condition enters a network: in which form, by which operands."""

    name: str
    condition: Condition
    form: Form
    ports: tuple[Port, ...]

    def vector(self, b: Builder, prefix: str, operands: tuple[Var, ...], width: Any, sizes: Mapping[str, Any]) -> Var:
        """Its embedding f32[B, width], params under `prefix`."""
        return self.condition.vector(b, prefix, self.name, operands, width, sizes)

    def tokens(
        self, b: Builder, prefix: str, operands: tuple[Var, ...], width: Any, sizes: Mapping[str, Any]
    ) -> tuple[Var, Var | None]:
        """Its embedded tokens f32[B, L, width], and which of them count; see `Condition.tokens`."""
        return self.condition.tokens(b, prefix, self.name, operands, width, sizes)

    def map(self, b: Builder, operands: tuple[Var, ...], sizes: Mapping[str, Any], side: Any) -> Var:
        """It as channels beside the state; see `Condition.map`."""
        return self.condition.map(b, self.name, operands, sizes, side)


def ports_of(entries: tuple[Entry, ...]) -> tuple[Port, ...]:
    """The operands of all entries, in order."""
    return tuple(port for entry in entries for port in entry.ports)


def with_operands(entries: tuple[Entry, ...], operands: Sequence[Var]) -> Iterator[tuple[Entry, tuple[Var, ...]]]:
    """Each entry with its part of the operands, which come in the order of `ports_of`."""
    rest = list(operands)
    for entry in entries:
        count = len(entry.ports)
        yield entry, tuple(rest[:count])
        rest = rest[count:]


def add_method(
    mb: ModuleBuilder,
    network: str,
    method: str,
    body: BlockBody,
    ports: Sequence[Port],
    static: Mapping[str, Any],
    outputs: Sequence[Role] = ("output",),
) -> Method:
    """Builds a method of a network as entry `NETWORK.METHOD`: its inputs are `ports`, its outputs have these roles."""
    fn = mb.functions[mb.define(body, [p.type for p in ports], static, [p.name for p in ports])]
    mb.entries[f"{network}.{method}"] = fn.name
    results = tuple(Port(v.name, _public(v.type), role) for v, role in zip(fn.outputs, outputs, strict=True))
    return Method(fn.name, tuple(replace(port, type=_public(port.type)) for port in ports), results)


def _public(type: TensorType) -> TensorType:
    """The type without the names that sizes have inside a network; capitalised ones (`T`) mean the same everywhere."""
    return type.with_shape(int(d) if isinstance(d, Named) and not d.expr.isupper() else d for d in type.shape)


def operand_name(condition: str) -> str:
    """What papers call the operand of a condition: `y` for the class."""
    return "y" if condition == "class" else condition


class BlockCondition(Part):
    """How the condition enters a block; composes a block from its parts."""

    @abstractmethod
    def block(self, mixer: Mixer, feed_forward: FeedForward, norm: Norm, init: str) -> BlockBody: ...


class Backbone(Part):
    """A network architecture. `build` adds its functions to a module; `out_channels` is what the objective predicts."""

    PROVIDES: ClassVar[frozenset[Capability]]
    TAKES: ClassVar[tuple[Form, ...]] = ()
    """How conditions can enter it, the preferred form first; none: it is told nothing."""
    TIME: ClassVar[bool] = False
    """Whether it is told the time."""
    CLASS: ClassVar[bool] = False
    """Whether it cannot do without the class."""
    TRAINING_ONLY: ClassVar[bool] = False
    """Whether only training has a use for it."""

    conditions: tuple[str, ...] | None = Field(
        None, description="names of the conditions it is told; null: all that it has a place for"
    )

    copy_of: str | None = Field(
        None,
        description="network whose weights training starts from; null: none. Weights it lacks are initialised as usual",
    )
    pretrained: str | None = Field(
        None, description="weights file (.safetensors) that training starts from; null: initialised at random"
    )
    frozen: bool | None = Field(
        None, description="whether training leaves its weights as they are; null: if there are `pretrained` ones"
    )

    @property
    def average_of(self) -> str | None:
        """The network whose weights it averages, if it does."""
        return None

    @property
    def trainable(self) -> bool:
        """Whether an optimiser may move its weights."""
        return not (self.pretrained is not None if self.frozen is None else self.frozen)

    def provides(self, spec: Spec) -> frozenset[Capability]:
        """What it can do."""
        return self.PROVIDES

    def outputs(self, spec: Spec) -> tuple[str, ...]:
        """Names of the outputs that a `Need` may ask for, in order; none if it has only the one of its capability."""
        return ()

    def told(self, spec: Spec) -> dict[str, Condition]:
        """The conditions it is told, by name, in the spec's order."""
        named = self.conditions
        return {
            name: condition
            for name, condition in spec.conditions.items()
            if (self.TAKES if named is None else name in named)
        }

    def entries(self, spec: Spec) -> tuple[Entry, ...]:
        """How each condition that it is told enters it."""
        return tuple(
            Entry(name, condition, self.form_of(condition) or self.TAKES[0], condition.ports(name, spec))
            for name, condition in self.told(spec).items()
        )

    def condition_sizes(self, spec: Spec) -> dict[str, int]:
        """The static arguments of the conditions' embeddings."""
        return {k: v for name, condition in self.told(spec).items() for k, v in condition.sizes(name, spec).items()}

    def encoding(self, spec: Spec) -> tuple[tuple[Port, ...], TensorType]:
        """What its method `encode` takes, fields of the data by name, and what it gives. For those that provide it."""
        raise NotImplementedError

    def codes(self, spec: Spec) -> Codes:
        """What its method `decode` takes. For those that autoencode."""
        raise NotImplementedError

    def form_of(self, condition: Condition) -> Form | None:
        """The form in which a condition enters, or None if there is none that both know."""
        return next((form for form in self.TAKES if form in condition.FORMS), None)

    def problems_of_conditions(self, spec: Spec) -> Iterator[Problem]:
        """What it is not told and must be, and what it is told and has no place for."""
        if self.TIME and spec.time is None:
            yield Problem((), f"a {self.kind} needs the time", "add `conditioning.time: {kind: timestep}`")
        if self.CLASS and "class" not in spec.conditions:
            yield Problem((), f"a {self.kind} needs the class", "add `conditioning.class: {kind: label}`")
        for i, name in enumerate(self.conditions or ()):
            if name not in spec.conditions:
                known = ", ".join(spec.conditions) or "none"
                yield Problem(("conditions", i), f"no condition `{name}`", f"conditions of this spec: {known}")
        for name, condition in self.told(spec).items():
            if self.form_of(condition) is None:
                taken = " or ".join(self.TAKES) or "no conditions"
                message = (
                    f"a {self.kind} takes {taken}, and condition `{name}` enters as {' or '.join(condition.FORMS)}"
                )
                yield Problem((), message, "list the conditions it is told in `conditions`")

    def problems_of_time(self, spec: Spec) -> Iterator[Problem]:
        """A time embedding without features, for networks that take those."""
        if spec.time is not None and not isinstance(spec.time, TimeFeatures):
            message = f"a {self.kind} takes features of the time, and a {spec.time.kind} has none"
            yield Problem((), message, "use `conditioning.time: {kind: timestep}` or `fourier`")

    @abstractmethod
    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network: ...


class Objective(Part):
    """What is learned, and by which losses."""

    DENOISES: ClassVar[bool] = False  # whether it has a parameterization
    DISTILS: ClassVar[bool] = False
    """Whether networks learn from a teacher. Conditions are never dropped; the guidance scale may be one of them."""

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        """The networks it trains or reads, and what they must be able to do."""
        return ()

    def trained(self, spec: Spec) -> tuple[str, ...]:
        """The names of the networks it trains: `main`, and those that encode its conditions unless they are frozen."""
        encoders = (name for condition in spec.conditions.values() for name in condition.networks)
        named = ("main", *dict.fromkeys(encoders))
        return tuple(n for n in named if getattr(spec.networks.get(n), "trainable", True))

    def parameterization(self) -> Parameterization | None:
        """The forward process and what the network predicts of it; None if it trains no denoiser."""
        return None

    def out_channels(self, channels: int) -> int:
        """Channels a network returns for data of `channels`."""
        return channels

    @property
    def in_rounds(self) -> Rounds | None:
        """The rounds in which it trains; None for one."""
        return None

    @abstractmethod
    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        """Adds the losses to the module as entries `loss` (and `loss.terms`, one value per sample)."""


class Guidance(Closed):
    """Classifier-free guidance (Ho and Salimans 2022): u + scale (c - u), c with the class and u without."""

    scale: float = Field(1.0, ge=0, description="default scale; 1 is no guidance. An input of the engine")
    interval: tuple[Fraction, Fraction] = Field(
        (0.0, 1.0),
        description="part of the way from noise (0) to data (1) where it acts (Kynkäänniemi et al. 2024)",
    )
    channels: int | None = Field(
        None, gt=0, description="guides only the first so many channels (3 in the DiT paper's code); null: all"
    )

    def acts(self, progress: float) -> bool:
        """Whether it guides an evaluation that far from noise (0) to data (1)."""
        low, high = self.interval
        return low <= progress <= high


class Sampler(Part):
    """How samples are drawn: adds a whole sampling program to the module."""

    guidance: Guidance | None

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        """The networks it calls, and what they must be able to do."""
        return ()

    @abstractmethod
    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `sample` (named `sample.STEPS`), which calls the networks under their names (`main`)."""

    def programs(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Program, ...]:
        """Adds all programs that it offers, the sampler first."""
        return (self.build(mb, networks, spec),)

    @abstractmethod
    def with_steps(self, steps: int) -> Sampler:
        """The same sampler with another number of steps."""
