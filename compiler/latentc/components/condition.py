"""What networks are told: base classes of conditions and of time embeddings, and how they enter a network."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from latentc.components.capabilities import Role
from latentc.components.contract import Draw, Network, Port, Program
from latentc.components.parts import Init, Part, Problem, dense
from latentc.components.prior import Prior
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, module_class
from latentc.ir.types import TensorType
from latentc_runtime.sources import Condition as Requested
from latentc_runtime.sources import Setting, Source

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class TimeEmbedding(Part):
    """How networks are told the time of a noisy sample; stands under `conditioning.time`."""

    ROLE: ClassVar[Role] = "time"

    @abstractmethod
    def vector(self, b: Builder, name: str, t: Var, width: Any) -> Var:
        """Embeds t f32[B]: f32[B, width], its params under `name`."""


class TimeFeatures(TimeEmbedding):
    """A time embedding by fixed features, which networks may also take as they are."""

    DRAWN: ClassVar[bool] = False
    """Whether its frequencies are drawn at random, and kept with the weights."""

    @abstractmethod
    def static(self) -> dict[str, Any]:
        """The numbers `features` is built from, which the emitted class is constructed with, `frequencies` of them."""

    def count(self, frequencies: Any) -> Any:
        """F, the number of features, of so many `frequencies`."""
        return frequencies

    @abstractmethod
    def features(self, b: Builder, t: Var, **static: Any) -> Var:
        """Features of t f32[B], without trained weights: f32[B, F]."""

    def vector(self, b: Builder, name: str, t: Var, width: Any, init: Init = "normal") -> Var:
        """As of every time embedding; its linear layers start as `init` says."""
        return b.sub(name, _time_embedder(self, init), t, dim=width, **self.static())  # type: ignore[no-any-return]


@cache
def _time_embedder(time: TimeFeatures, init: Init) -> BlockBody:
    @module_class("TimestepEmbedder")
    def embedder(b: Builder, t: Var, *, dim: int, **static: Any) -> Var:
        """Embeds times: sinusoids, then two linear layers."""
        x = time.features(b, t, **static)
        x = b.silu(dense(b, "fc1", x, dim, True, init), out="x")
        return dense(b, "fc2", x, dim, True, init)

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
    CARRIED: ClassVar[bool] = False
    """Whether losses and sampling programs compute it, so that neither data nor requests give it."""

    field: str | None = Field(None, description="data field that it is read from; null: the field of the same name")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="probability that training drops it; 0: never, so it cannot be guided"
    )
    prior: Prior | None = Field(
        None, description="a model of the condition, from which programs draw it; null: requests pass it"
    )

    def problems_as(self, name: str, spec: Spec) -> Iterator[Problem]:
        """What does not fit if it is the condition called `name`."""
        for given in self.inputs(name, spec):
            if not isinstance(given, GivenInput) or given.drawn is not None:
                continue
            field = spec.data.fields.get(given.field)
            if field is None:
                known = ", ".join(spec.data.fields) or "none"
                message = f"condition `{name}` reads field `{given.field}`, which the data does not have"
                yield Problem((), message, f"fields of the data: {known}; name one in `conditioning.{name}.field`")
            elif given.type.dtype == "bool" and field.dtype != "bool":
                message = f"condition `{name}` reads its mask from field `{given.field}`, which has dtype {field.dtype}"
                yield Problem((), message, f"set `data.fields.{given.field}.dtype: bool`")
        if self.prior is not None:
            yield from self.prior.problems(name, spec)

    def programs(
        self, mb: ModuleBuilder, name: str, spec: Spec, networks: Mapping[str, Network]
    ) -> tuple[Program, ...]:
        """Programs of its own, which prepare requests."""
        return ()

    def cached_features(self, name: str, spec: Spec) -> CachedFeatures | None:
        """What training reads instead of encoding its field in each step; None: training encodes, or nothing does."""
        return None

    @property
    def forms(self) -> tuple[Form, ...]:
        """How it can enter a network."""
        return self.FORMS

    @property
    def networks(self) -> tuple[str, ...]:
        """The networks that compute its operands."""
        return ()

    @property
    def dropped(self) -> bool:
        """Whether training leaves it out now and then."""
        return self.dropout > 0

    @property
    def nullable(self) -> bool:
        """Whether networks can do without it."""
        return self.dropped

    @abstractmethod
    def ports(self, name: str, spec: Spec) -> tuple[Port, ...]:
        """What a network that is told it takes."""

    @abstractmethod
    def null_operands(self, b: Builder, name: str, operands: tuple[Var, ...], spec: Spec) -> tuple[Var, ...]:
        """What stands for none in the place of each operand: of its type, or of one that broadcasts to it."""

    def encoded_null(
        self, b: Builder, name: str, spec: Spec, networks: Mapping[str, Network], known: Var | None = None
    ) -> tuple[Var, ...]:
        """What stands for none in the place of each operand, [1, ...], if a network computes it; otherwise nothing.

        `known`: the features, if they were computed before.
        """
        return ()

    def inputs(self, name: str, spec: Spec) -> tuple[GivenInput | DrawnInput, ...]:
        """What a loss reads from the data (or draws) and a request supplies; by default the first operand."""
        port = self.ports(name, spec)[0]
        return (GivenInput(port.name, port.type, self.field or operand_name(name), name),)

    @abstractmethod
    def requests(self, name: str, spec: Spec) -> tuple[Requested, ...]:
        """What a request says of it."""

    def searched(self, name: str, spec: Spec) -> Searched | None:
        """What training searches for it in a database, if it does; None: the data holds it."""
        return None

    def stored(self, type: TensorType) -> TensorType:
        """The type that the data has for an input of this type."""
        return type

    def from_stored(self, b: Builder, value: Var, type: TensorType) -> Var:
        """An input of this type, from what the data has."""
        return value

    def from_drawn(self, b: Builder, value: Var, type: TensorType) -> Var:
        """An input of this type, from what training draws for it."""
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

    def counts(self, b: Builder, mask: Var) -> Var:
        """bool[B, L]: the mask that `tokens` returns, for methods of a network that are told the mask alone."""
        return mask

    def length(self, name: str, spec: Spec) -> int:
        """How many tokens it enters as. For conditions whose FORMS have "tokens"."""
        return 1

    def masked(self, name: str, spec: Spec) -> bool:
        """Whether some of its tokens may not count. For conditions whose FORMS have "tokens"."""
        return False

    def token_width(self, name: str, spec: Spec) -> int | None:
        """Width of its tokens if that is its own, whatever the network's; None: they are embedded."""
        return None

    def map(self, b: Builder, name: str, operands: tuple[Var, ...], sizes: Mapping[str, Any], side: Any) -> Var:
        """It as channels beside a state of `side` by `side`: f32[B, C, side, side].

        For conditions whose FORMS have "map".
        """
        raise NotImplementedError


@dataclass(frozen=True)
class GivenInput:
    """An input of losses and programs that data and requests supply: its name and type, and the data field.

    A request gives it as `request`, of which it is the value or the mask. Where training draws it, instead of reading
    it, `drawn` says how, and the type of what it is made of (`Condition.from_drawn`). Where programs draw it, too,
    `random` says how.
    """

    name: str
    type: TensorType
    field: str
    request: str
    part: Literal["value", "mask"] = "value"
    drawn: tuple[Draw, TensorType] | None = None
    random: Source | None = None


@dataclass(frozen=True)
class CachedFeatures:
    """Features f32[B, ...] that a frozen network encodes from a data field once, before training.

    `field`: their name in a batch. `reads`: the field that network `network` encodes. `mask`: the field of the tokens
    that count, which the network takes if it is `masked`. `empty`: the tokens, followed by `pad`, whose features, in
    the field `empty_field`, stand for none; null: no features do.
    """

    field: str
    type: TensorType
    network: str
    reads: str
    mask: str | None
    masked: bool
    empty: tuple[int, ...] | None
    pad: int

    @property
    def empty_field(self) -> str:
        return f"empty_{self.field}"

    @property
    def types(self) -> dict[str, TensorType]:
        """The fields of a batch with their types."""
        fields = (self.field,) if self.empty is None else (self.field, self.empty_field)
        return dict.fromkeys(fields, self.type)


@dataclass(frozen=True)
class Searched:
    """Neighbours that training searches for each sample, by the embedding in data field `field`.

    `database`: where, null for the training data; then `itself` says whether a sample may be its own neighbour.
    `around`: rather, one of the neighbours is the sample, given with the embedding of what they are neighbours of.
    """

    field: str
    count: int
    database: str | None
    metric: str
    itself: bool
    around: bool = False


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

    def counts(self, b: Builder, mask: Var) -> Var:
        """bool[B, L]: which of its embedded tokens count; see `Condition.counts`."""
        return self.condition.counts(b, mask)

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


def embedded_sum(
    b: Builder,
    entries: tuple[Entry, ...],
    operands: Sequence[Var],
    width: Any,
    sizes: Mapping[str, Any],
    out: str = "c",
) -> Var:
    """f32[B, width]: the sum of the embeddings of all conditions, of which there is at least one."""
    vectors = [
        entry.vector(b, f"{entry.ports[0].name}_embedder", own, width, sizes)
        for entry, own in with_operands(entries, operands)
    ]
    return reduce(lambda total, vector: b.op("add", total, vector, out=out), vectors)


def operand_name(condition: str) -> str:
    """What papers call the operand of a condition: `y` for the class."""
    return "y" if condition == "class" else condition
