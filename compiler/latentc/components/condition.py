"""Inputs of networks beside the sample: base classes of conditions and time embeddings, and how they enter."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Closed, Component, OneOf
from latentc.components.contract import Draw, Network, Port
from latentc.components.parts import Init, Part, Problem, Refusal, Spec, dense
from latentc.components.sums import summed
from latentc.ir.builder import BlockBody, Builder, Var, module_class
from latentc.ir.types import TensorType
from latentc_runtime.sources import Condition as Requested
from latentc_runtime.sources import Setting, Source

if TYPE_CHECKING:
    from latentc.components.read_fields import CachedFeatures


class TimeEmbedding(Part):
    """Embedding of the time of a noisy sample, under `conditioning.time`."""

    @abstractmethod
    def vector(self, b: Builder, name: str, t: Var, width: Any) -> Var:
        """Embeds t f32[B]: f32[B, width], its params under `name`."""


class TimeFeatures(TimeEmbedding):
    """A time embedding by fixed features, which networks may also take as they are."""

    DRAWN: ClassVar[bool] = False
    """True if its frequencies are drawn at random and kept with the weights."""

    @abstractmethod
    def static(self) -> dict[str, Any]:
        """The numbers `features` is built from, which the emitted class is constructed with, `frequencies` of them."""

    def count(self, frequencies: Any) -> Any:
        """F, the number of features for this number of `frequencies`."""
        return frequencies

    @abstractmethod
    def features(self, b: Builder, t: Var, **static: Any) -> Var:
        """Features of t f32[B], without trained weights: f32[B, F]."""

    def vector(self, b: Builder, name: str, t: Var, width: Any, init: Init = "normal") -> Var:
        """As of every time embedding; its linear layers start as `init` says."""
        return b.sub(name, _time_embedder(self, init), t, dim=width, **self.static())


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


class Prior(Closed):
    """A system of its own that models the data field of a condition.

    Training reads the condition from the data, and trains the prior's network on the same samples. Sampling programs
    draw the condition by the prior's sampler first, so that a request does not give it.
    """

    network: str = Field(description="one of `networks`, which models the condition")
    objective: Annotated[Component, OneOf("objectives")] = Field(description="objective of that network")
    sampler: Annotated[Component, OneOf("samplers")] = Field(description="sampler of the condition")

    def system(self, name: str, spec: Spec) -> Spec:
        """The prior of condition `name` as a spec: its network is `main`, and the condition's field is modelled.

        Its network may take the other conditions that need no prior, and those that are drawn before this one.
        """
        conditions = list(spec.conditions)
        later = conditions[conditions.index(name) :]
        kept: dict[str, Component] = {}
        for other, part in spec.conditioning.items():
            prior = part.prior if isinstance(part, Condition) else None
            if other != name and (prior is None or other not in later):
                kept[other] = part if prior is None else part.model_copy(update={"prior": None})
        encoding = {n for other, part in kept.items() for n in encoders(other, part, spec)}
        networks = {n: network for n, network in spec.networks.items() if n in encoding}
        if self.network in spec.networks:
            networks["main"] = spec.networks[self.network]
        return spec.model_copy(
            update={
                "data": _modelling(spec, field_of(name, spec.conditions[name])),
                "networks": networks,
                "conditioning": kept,
                "objective": self.objective,
                "sampler": self.sampler,
                "programs": (),
                "optimize": spec.optimize.model_copy(update={"cache": None, "stitch": None}),
            }
        )

    def problems(self, name: str, spec: Spec) -> Iterator[Problem]:
        """A network that does not exist or cannot do what the objective and the sampler need."""
        network = spec.networks.get(self.network)
        if network is None or self.network == "main":
            what = (
                f"no network `{self.network}`"
                if network is None
                else "`main` takes the condition, so it cannot generate it"
            )
            yield Problem(
                ("prior", "network"), what, "add a network that generates the condition to `networks`, and name it"
            )
            return
        system = self.system(name, spec)
        provided = network.provides(system)  # type: ignore[attr-defined]
        for section, part in (("objective", self.objective), ("sampler", self.sampler)):
            for need in part.needs(system):  # type: ignore[attr-defined]
                if need.network != "main":
                    message = f"`{part.kind}` also needs a network `{need.network}`, but a prior has only one network"
                    yield Problem(("prior",), message, "choose another objective or sampler")
                elif need.capability not in provided:
                    message = (
                        f"`{part.kind}` needs a network for `{need.capability}`, which "
                        f"`{network.kind}` does not provide"
                    )
                    yield Problem(("prior", "network"), message, "name another network")
                elif lacking := [output for output in need.outputs if output not in network.outputs(system)]:  # type: ignore[attr-defined]
                    message = (
                        f"{need.who or f'`{part.kind}`'} reads the output `{lacking[0]}` of network `{self.network}`"  # type: ignore[attr-defined]
                    )
                    yield Problem(("prior", section, *need.place), f"{message}, which has none", "leave it out")


@dataclass(frozen=True)
class TokenShape:
    """Number of embedded tokens, whether a mask marks the valid ones, and their width; None: that of the network."""

    length: int = 1
    masked: bool = False
    width: int | None = None


class Condition(Part):
    """An input of networks beside the sample and its time, under `conditioning.NAME`.

    Its operands go by name: that of the condition, but `y` for the class, as papers write it.
    """

    FORMS: ClassVar[tuple[Form, ...]]

    field: str | None = Field(None, description="data field that it is read from; null: the field of the same name")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="probability that training drops it; 0: never, so it cannot be guided"
    )
    prior: Prior | None = Field(
        None, description="a model of the condition, from which programs draw it; null: requests pass it"
    )

    def problems_as(self, name: str, spec: Spec) -> Iterator[Problem]:
        """Faults of the condition under this name."""
        for given in self.inputs(name, spec):
            if not isinstance(given, GivenInput) or given.draw is not None:
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

    @property
    def forms(self) -> tuple[Form, ...]:
        """How it can enter a network."""
        return self.FORMS

    @property
    def nullable(self) -> bool:
        """True if networks can do without it."""
        return self.dropout > 0

    @abstractmethod
    def ports(self, name: str, spec: Spec) -> tuple[Port, ...]:
        """The inputs of a network that takes it."""

    def null_operands(self, b: Builder, name: str, operands: tuple[Var, ...], spec: Spec) -> tuple[Var, ...]:
        """The null of each operand, of a type that broadcasts to its own; by default 0 for the only one."""
        return (b.scalar(0.0, operands[0]),)

    def inputs(self, name: str, spec: Spec) -> tuple[GivenInput | DrawnInput, ...]:
        """The inputs that training reads or draws and a request supplies; by default the first operand."""
        port = self.ports(name, spec)[0]
        return (GivenInput(port.name, port.type, self.field or operand_name(name), name),)

    @abstractmethod
    def requests(self, name: str, spec: Spec) -> tuple[Requested, ...]:
        """Its entries in a request."""

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

    def token_shape(self, name: str, spec: Spec) -> TokenShape:
        """The shape of its tokens. For conditions whose FORMS have "tokens"."""
        return TokenShape()

    def map(self, b: Builder, name: str, operands: tuple[Var, ...], sizes: Mapping[str, Any], side: Any) -> Var:
        """It as channels beside a state of `side` by `side`: f32[B, C, side, side].

        For conditions whose FORMS have "map".
        """
        raise NotImplementedError


class Derived(Condition):
    """A condition that is neither read from a field of its own nor dropped; by default requests do not have it."""

    field: None = Field(None, description="not read from the data")
    dropout: float = Field(0.0, ge=0, le=0, description="never dropped")

    def inputs(self, name: str, spec: Spec) -> tuple[GivenInput | DrawnInput, ...]:
        return ()

    def null_operands(self, b: Builder, name: str, operands: tuple[Var, ...], spec: Spec) -> tuple[Var, ...]:
        return operands

    def requests(self, name: str, spec: Spec) -> tuple[Requested, ...]:
        return ()


@dataclass(frozen=True)
class Searched:
    """Neighbours that training searches for each sample, by the embedding in data field `field`.

    `database`: where, None for the training data; then `itself` says whether a sample may be its own neighbour.
    `around`: the sample is instead one of the neighbours of the embedding that it is given with. `queries`: networks
    that encode what a request searches for.
    """

    field: str
    count: int
    database: str | None
    metric: str
    itself: bool
    around: bool = False
    queries: tuple[str, ...] = ()


@dataclass(frozen=True)
class GivenInput:
    """An input of losses and programs that data and requests supply: its name and type, and the data field.

    A request gives it as `request`, of which it is the value or the mask. Training draws it if there is a `draw`, and
    programs if there is a source `random`. What training reads or draws has the type `stored`, by default that of the
    input, which `read` computes from it. Network `encoder` computes an operand from it, in training before the first
    step if there are `cached` features; `null` is the input whose encoding replaces a dropped condition. If it is
    `searched`, it is a field of neighbours, which the data does not have. It may be the null of the operand `null_of`.
    """

    name: str
    type: TensorType
    field: str
    request: str
    part: Literal["value", "mask"] = "value"
    draw: Draw | None = None
    random: Source | None = None
    stored: TensorType | None = None
    read: Callable[[Builder, Var], Var] = lambda b, value: value
    encoder: str | None = None
    cached: CachedFeatures | None = None
    null: Callable[[Builder], Var] | None = None
    searched: Searched | None = None
    null_of: str | None = None

    @property
    def source(self) -> TensorType:
        """The type of what training reads or draws."""
        return self.type if self.stored is None else self.stored


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

    @property
    def prefix(self) -> str:
        """The usual prefix of its embedding's params."""
        return f"{self.ports[0].name}_embedder"

    def vector(self, b: Builder, prefix: str, operands: tuple[Var, ...], width: Any, sizes: Mapping[str, Any]) -> Var:
        """Its embedding f32[B, width], params under `prefix`."""
        return self.condition.vector(b, prefix, self.name, operands, width, sizes)

    def tokens(
        self,
        b: Builder,
        prefix: str,
        operands: tuple[Var, ...],
        width: Any,
        sizes: Mapping[str, Any],
        any_width: bool = False,
    ) -> tuple[Var, Var | None]:
        """Its embedded tokens f32[B, L, width], and which of them count; see `Condition.tokens`.

        Refusal: they have another width, unless the network takes `any_width`.
        """
        x, mask = self.condition.tokens(b, prefix, self.name, operands, width, sizes)
        if int(x.shape[2]) != int(width) and not any_width:
            message = (
                f"tokens of condition `{self.name}` join those of the network, which have {int(width)} channels, but "
                f"have {int(x.shape[2])}"
            )
            raise Refusal(message, "leave out `projection: none` and `embedding: none`")
        return x, mask

    def token_shape(self, spec: Spec) -> TokenShape:
        """The shape of its tokens; see `Condition.token_shape`."""
        return self.condition.token_shape(self.name, spec)

    def map(self, b: Builder, operands: tuple[Var, ...], sizes: Mapping[str, Any], side: Any) -> Var:
        """It as channels beside the state; see `Condition.map`."""
        return self.condition.map(b, self.name, operands, sizes, side)


def ports_of(entries: tuple[Entry, ...]) -> tuple[Port, ...]:
    """The operands of all entries, in order."""
    return tuple(port for entry in entries for port in entry.ports)


Pair = tuple[Entry, tuple[Var, ...]]
"""A condition of a network, and its operands."""


def with_operands(entries: tuple[Entry, ...], operands: Sequence[Var]) -> Iterator[Pair]:
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
    pairs = with_operands(entries, operands)
    return summed(b, out, [entry.vector(b, entry.prefix, own, width, sizes) for entry, own in pairs])


def operand_name(condition: str) -> str:
    """The name of a condition's operand in papers: `y` for the class."""
    return "y" if condition == "class" else condition


def encoders(name: str, part: Any, spec: Spec) -> tuple[str, ...]:
    """The networks that compute operands of condition `name`."""
    inputs = part.inputs(name, spec) if isinstance(part, Condition) else ()
    return tuple(dict.fromkeys(i.encoder for i in inputs if isinstance(i, GivenInput) and i.encoder is not None))


def carried(name: str, condition: Condition, spec: Spec) -> bool:
    """True if losses and programs compute it: neither data nor requests supply it."""
    return not condition.inputs(name, spec) and any(p.role == "condition" for p in condition.ports(name, spec))


def searches(spec: Spec) -> dict[str, Searched]:
    """The searches in a database in training, by condition."""
    given = ((name, i) for name, c in spec.conditions.items() for i in c.inputs(name, spec))
    return {name: i.searched for name, i in given if isinstance(i, GivenInput) and i.searched is not None}


def encoded_null(
    b: Builder, name: str, condition: Condition, spec: Spec, networks: Mapping[str, Network], known: Var | None = None
) -> tuple[Var, ...]:
    """The null of each operand, [1, ...], if a network computes it; otherwise nothing.

    `known`: the features, if they were computed before training.
    """
    nulls = [given.null for given in condition.inputs(name, spec) if isinstance(given, GivenInput) and given.null]
    if not nulls:
        return ()
    made = tuple(known if i == 0 and known is not None else null(b) for i, null in enumerate(nulls))
    return condition.operands(b, f"empty_{name}", made, networks)


def field_of(name: str, condition: Condition) -> str:
    """The data field that condition `name` comes from."""
    return condition.field or operand_name(name)


def prior_systems(spec: Spec) -> dict[str, tuple[str, Spec]]:
    """{network of a prior: (the condition that it models, its system)}, in the order in which they are drawn."""
    found: dict[str, tuple[str, Spec]] = {}
    for name, condition in spec.conditions.items():
        if isinstance(condition, Condition) and condition.prior is not None:
            found[condition.prior.network] = (name, condition.prior.system(name, spec))
    return found


def _modelling(spec: Spec, field: str) -> Any:
    """The data with `field` as what is modelled: `x`, or `tokens` if it holds several integers."""
    data = spec.data
    modelled = data.fields.get(field)
    fields = {n: f for n, f in data.fields_.items() if n not in ("x", "tokens", field)}
    if modelled is not None:
        fields = {"x" if modelled.classes is None else "tokens": modelled, **fields}
    return data.model_copy(update={"fields_": fields, "shape_": None, "tokens_": None, "first_stage": None})
