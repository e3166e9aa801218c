"""The base class of network architectures, and how their methods are built."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field

from latentc.components.capabilities import Capability, Role
from latentc.components.condition import Condition, Entry, Form, TimeFeatures, carried
from latentc.components.contract import Method, Need, Network, Port
from latentc.components.fields import Codes
from latentc.components.parts import Part, Problem, Spec
from latentc.ir.builder import BlockBody, ModuleBuilder
from latentc.ir.types import Named, TensorType


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
    results = tuple(Port(v.name, public(v.type), role) for v, role in zip(fn.outputs, outputs, strict=True))
    return Method(fn.name, tuple(replace(port, type=public(port.type)) for port in ports), results)


def _needs(spec: Spec, network: str) -> Iterator[Need]:
    """The needs of the objective, the sampler and the programs around it that name this network."""
    parts: tuple[Any, ...] = (spec.objective, spec.sampler, *spec.programs)
    for part in parts:
        if part is not None:
            yield from (need for need in part.needs(spec) if need.network == network)


def asks(spec: Spec, network: str, capability: Capability) -> bool:
    """Whether objective, sampler or programs need this of a network, which then builds the method for it."""
    return any(need.capability == capability for need in _needs(spec, network))


def asked(spec: Spec, network: str, name: str, default: Any = None) -> Any:
    """The parameter with which objective, sampler or programs ask a network for what is called `name` (`Need.asks`)."""
    return next((need.asks[name] for need in _needs(spec, network) if name in need.asks), default)


def not_taken(
    spec: Spec, network: str, conditions: Iterable[str], what: str, path: tuple[str, ...] = ()
) -> Iterator[Problem]:
    """A problem at `path` for each of these conditions of the spec that a network does not take, though `what` does."""
    backbone = spec.networks.get(network)
    taken = backbone.takes(spec).keys() if isinstance(backbone, Backbone) else conditions
    for name in conditions:
        if name in spec.conditions and name not in taken:
            message = f"{what} takes condition `{name}`, but network `{network}` does not"
            yield Problem(path, message, f"list `{name}` in the network's `conditions`")


def provided(spec: Spec, network: str) -> frozenset[Capability]:
    """The capabilities of a network of a spec; none if there is no such network."""
    return spec.networks[network].provides(spec) if network in spec.networks else frozenset()


def encoding_networks(spec: Spec) -> dict[str, Backbone]:
    """The networks that encode fields, by name."""
    return {n: net for n, net in spec.networks.items() if isinstance(net, Backbone) and "encode" in net.PROVIDES}


def public(type: TensorType) -> TensorType:
    """The type without the names that sizes have inside a network; capitalised ones (`T`) mean the same everywhere."""
    return type.with_shape(int(d) if isinstance(d, Named) and not d.expr.isupper() else d for d in type.shape)


class Backbone(Part):
    """A network architecture. `build` adds its functions to a module; `out_channels` is what the objective predicts."""

    PROVIDES: ClassVar[frozenset[Capability]]
    TAKES: ClassVar[tuple[Form, ...]] = ()
    """Forms in which conditions can enter, preferred first; empty: it takes no conditions."""
    TIME: ClassVar[bool] = False
    """Whether it takes the time."""
    CLASS: ClassVar[bool] = False
    """Whether it requires a class."""
    MEMORY: ClassVar[bool] = False
    """Whether it carries tensors from evaluation to evaluation."""
    RECALLS: ClassVar[bool] = False
    """Whether it remembers keys and values if the sampler asks for it (`Sampler.recalls`)."""
    OUTPUTS: ClassVar[tuple[str, ...]] = ()
    """Its `outputs`, if they do not depend on its settings."""
    TRAINING_ONLY: ClassVar[bool] = False
    """Whether it is used in training only."""

    conditions: tuple[str, ...] | None = Field(
        None, description="names of the conditions it takes; null: all that it has an input for"
    )

    copy_of: str | None = Field(
        None,
        description="network to initialise weights from; null: none. Weights it lacks are initialised as usual",
    )
    pretrained: str | None = Field(
        None, description="weights file (.safetensors) that training starts from; null: random initialisation"
    )
    fresh_weights: tuple[str, ...] = Field(
        (),
        description="patterns of weights that are initialised as usual although `copy_of` or `pretrained` has them, "
        "such as `blocks.*.attn.*`",
    )
    frozen: bool | None = Field(
        None, description="training does not change its weights; null: true if it is `pretrained`"
    )
    frozen_weights: tuple[str, ...] = Field(
        (),
        description="patterns of weights that stay fixed while the others are trained, such as `encoder.*`; if "
        "given, `frozen: null` means false",
    )

    @property
    def average_of(self) -> str | None:
        """The network whose weights it averages, if it does."""
        return None

    @property
    def adapts(self) -> str | None:
        """The network to whose blocks it adds, if it does."""
        return None

    @property
    def fixed(self) -> tuple[str, ...]:
        """Sizes that cannot change by themselves, because others follow from them: config.yaml does not offer them."""
        return ()

    @property
    def same_as(self) -> str | None:
        """The network whose architecture it has, if it has none of its own; name maps of that one fit it."""
        return None

    @property
    def trainable(self) -> bool:
        """Whether it is trained."""
        if self.frozen is None:
            return self.pretrained is None or bool(self.frozen_weights)
        return not self.frozen

    def provides(self, spec: Spec) -> frozenset[Capability]:
        """Its capabilities. A denoiser with a condition that its caller computes refines instead."""
        refines = any(carried(name, condition, spec) for name, condition in self.takes(spec).items())
        if not refines or "denoise" not in self.PROVIDES:
            return self.PROVIDES
        return self.PROVIDES - {"denoise"} | {"refine"}

    def outputs(self, spec: Spec) -> tuple[str, ...]:
        """Names of the outputs that a `Need` may ask for, in order; none if it has only the one of its capability."""
        return self.OUTPUTS

    def feature_shapes(self, spec: Spec) -> tuple[tuple[int, int], ...]:
        """Shapes [T, C] of the features that a denoiser returns in training."""
        return ()

    def takes(self, spec: Spec) -> dict[str, Condition]:
        """The conditions that it takes, by name, in the spec's order."""
        named = self.conditions
        return {
            name: condition
            for name, condition in spec.conditions.items()
            if (self.TAKES if named is None else name in named)
        }

    def entries(self, spec: Spec) -> tuple[Entry, ...]:
        """The form in which each of its conditions enters."""
        return tuple(
            Entry(name, condition, self.form_of(condition) or self.TAKES[0], condition.ports(name, spec))
            for name, condition in self.takes(spec).items()
        )

    def condition_sizes(self, spec: Spec) -> dict[str, int]:
        """The static arguments of the conditions' embeddings."""
        return {k: v for name, condition in self.takes(spec).items() for k, v in condition.sizes(name, spec).items()}

    def features_seen(self, spec: Spec) -> int | None:
        """Features per position of what `see` returns; None of networks that do not provide it."""
        return None

    def map_seen(self, spec: Spec) -> tuple[int, ...] | None:
        """Shape [F, ...] per sample of what `see` returns; None of networks that do not provide it."""
        return None

    def token_features(self, spec: Spec) -> tuple[int, int] | None:
        """(C, D): channels of a token and of its features, of networks whose heads denoise tokens; None of others."""
        return None

    def encoding(self, spec: Spec) -> tuple[tuple[Port, ...], TensorType]:
        """Inputs of `encode`, data fields by name, and its output type. For networks that provide `encode`."""
        raise NotImplementedError

    @property
    def encodes_masked(self) -> bool:
        """Whether `encode` takes, after its inputs, a mask of the tokens that count."""
        return False

    def codes(self, spec: Spec) -> Codes:
        """Input type of `decode`. For autoencoders."""
        raise NotImplementedError

    def form_of(self, condition: Condition) -> Form | None:
        """The form in which a condition enters, or None if there is none that both know."""
        return next((form for form in self.TAKES if form in condition.forms), None)

    def problems_of_conditions(self, spec: Spec) -> Iterator[Problem]:
        """Required conditions that are missing, and conditions that it cannot take."""
        if self.TIME and spec.time is None:
            yield Problem((), f"a {self.kind} needs the time", "add `conditioning.time: {kind: timestep}`")
        if self.CLASS and "class" not in spec.conditions:
            yield Problem((), f"a {self.kind} needs the class", "add `conditioning.class: {kind: label}`")
        for i, name in enumerate(self.conditions or ()):
            if name not in spec.conditions:
                known = ", ".join(spec.conditions) or "none"
                yield Problem(("conditions", i), f"no condition `{name}`", f"conditions of this spec: {known}")
        for name, condition in self.takes(spec).items():
            if self.form_of(condition) is None:
                taken = " or ".join(self.TAKES) or "no conditions"
                message = (
                    f"a {self.kind} takes {taken}, but condition `{name}` enters as {' or '.join(condition.forms)}"
                )
                yield Problem((), message, "list only the conditions it takes in `conditions`")
        yield from self._problems_of_widths(spec)

    def _problems_of_widths(self, spec: Spec) -> Iterator[Problem]:
        """Tokens of conditions that differ in width."""
        cond = {name: part for name, part in self.takes(spec).items() if self.form_of(part) == "tokens"}
        widths = {name: part.token_shape(name, spec).width for name, part in cond.items()}
        text = ", ".join(f"`{name}` {width or 'as wide as the network'}" for name, width in widths.items())
        if len(set(widths.values())) > 1:
            yield Problem(
                (),
                f"tokens of conditions form one sequence, but differ in width: {text}",
                "leave out `projection: none` and `embedding: none`",
            )

    def problems_of_time(self, spec: Spec) -> Iterator[Problem]:
        """A time embedding without features, for networks that take those."""
        if spec.time is not None and not isinstance(spec.time, TimeFeatures):
            message = f"a {self.kind} needs features of the time, but a {spec.time.kind} has none"
            yield Problem((), message, "use `conditioning.time: {kind: timestep}` or `fourier`")

    def problems_of_variance(self, spec: Spec) -> Iterator[Problem]:
        """A learned variance, for networks that return as many channels as they take."""
        if spec.objective is not None and spec.objective.out_channels(1) != 1:
            message = f"a {self.kind} returns as many channels as it takes, so it cannot predict a variance"
            yield Problem((), message, "use a fixed `objective.variance`")

    @abstractmethod
    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network: ...

    def attached(
        self, mb: ModuleBuilder, name: str, networks: Mapping[str, Network], spec: Spec
    ) -> Mapping[str, Network]:
        """The networks of a spec, all built, with what this one, called `name`, changes about others."""
        return networks
