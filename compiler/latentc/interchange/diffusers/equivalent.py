"""A class of diffusers and what stands for it in a spec, both ways."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from latentc.spec.schema import Spec
    from latentc.weights.expr import Expr

Data = dict[str, Any]
"""Plain data of a spec, or of a `config.json`."""


class Unequal(Exception):
    """A spec that a class of diffusers cannot express; the message is the reason."""


class Config:
    """The configuration of an object of diffusers: its `config.json` over the defaults of its class.

    Reading a value marks it as taken over. `refused` and `notes` collect what a spec cannot express, by key.
    """

    def __init__(self, name: str, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        self.name = name
        self.values = {**defaults, **{key: value for key, value in given.items() if not key.startswith("_")}}
        self.unknown = [key for key in self.values if key not in defaults]
        self.read: set[str] = set()
        self.refused: list[str] = []
        self.notes: list[str] = []

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return self.values[key]

    def refuse(self, key: str, why: str) -> None:
        """Record that the value of `key` cannot be expressed."""
        self.read.add(key)
        self.refused.append(f"{self.name}.{key} is {self.values[key]!r}: {why}")

    def note(self, key: str, text: str) -> None:
        """Record how the value of `key` was taken over differently."""
        self.read.add(key)
        self.notes.append(f"{self.name}.{key}: {text}")

    def must(self, key: str, *allowed: Any, why: str = "latentc has no equivalent") -> None:
        """Refuse any other value of `key`."""
        self.read.add(key)
        if not any(_same(self.values[key], value) for value in allowed):
            self.refuse(key, why)

    def unused(self, *keys: str) -> None:
        """Keys that the class does not use with these settings."""
        self.read.update(keys)

    def whole(self, key: str) -> int:
        """A positive whole number; 1 with a refusal otherwise."""
        value = self[key]
        if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
            return value
        self.refuse(key, "it must be a positive integer")
        return 1

    def wholes(self, key: str) -> list[int]:
        """A list of positive whole numbers; [1] with a refusal otherwise."""
        value = self[key]
        if isinstance(value, list | tuple) and value and all(type(item) is int and item >= 1 for item in value):
            return list(value)
        self.refuse(key, "it must be a list of positive integers")
        return [1]

    def words(self, key: str, allowed: Mapping[str, Any]) -> list[Any]:
        """The meaning of each word of a list."""
        value = self[key]
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) and item in allowed for item in value):
            self.refuse(key, f"only {', '.join(allowed)} have an equivalent")
            return []
        return [allowed[item] for item in value]

    def number(self, key: str, default: float) -> float:
        """A number; `default` with a refusal otherwise."""
        value = self[key]
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        self.refuse(key, "it must be a number")
        return default

    def flag(self, key: str) -> bool:
        """True or False; False with a refusal otherwise."""
        value = self[key]
        if isinstance(value, bool):
            return value
        self.refuse(key, "it must be true or false")
        return False

    def choice(self, key: str, allowed: Mapping[str, Any]) -> Any:
        """The meaning of a word; that of the first allowed one with a refusal otherwise."""
        value = self[key]
        if isinstance(value, str) and value in allowed:
            return allowed[value]
        self.refuse(key, f"only {', '.join(allowed)} have an equivalent")
        return next(iter(allowed.values()))

    def left(self) -> list[str]:
        """Keys that were not taken over: unknown to the class, or never read."""
        return [key for key in self.values if key not in self.read]


def _same(value: Any, other: Any) -> bool:
    if isinstance(value, list | tuple) and isinstance(other, list | tuple):
        return list(value) == list(other)
    return type(value) is type(other) and bool(value == other)


class Equivalent(ABC):
    """One class of diffusers. `DEFAULTS` are its configuration's keys, with the values they have if left out."""

    NAMES: ClassVar[tuple[str, ...]]
    """Names of the class; the first is the one that is written."""
    DEFAULTS: ClassVar[Data]

    def config_of(self, given: Mapping[str, Any]) -> Config:
        return Config(self.NAMES[0], given, self.DEFAULTS)

    @abstractmethod
    def changes(self, config: Config) -> Data:
        """The changes by which a spec that extends `Model.SPEC` describes this object."""

    @abstractmethod
    def config(self, spec: Spec) -> Data:
        """The configuration of the object that a spec is. Raises Unequal."""


class Model(Equivalent):
    """A network: a folder with `config.json` and weights."""

    SPEC: ClassVar[str]
    """The shipped spec of this network."""
    MAP: ClassVar[str] = "diffusers"
    """The name map of its weights in that spec."""
    ADAPTED: ClassVar[tuple[str, ...]] = ()
    """Fields of the network that may differ: `adapted` makes up for it, or the tensors' shapes say the same."""
    NEARLY: ClassVar[dict[str, str]] = {"eps": "results differ in the last digits"}
    """Fields whose difference changes results slightly and is warned about, with what it means."""
    SCHEDULED: ClassVar[bool] = True
    """Whether a scheduler belongs to it."""
    UNTIED: ClassVar[Model | None] = None
    """The same class with a tensor of its own for each copy that `MAP` ignores; None: copies must be equal."""

    def embedding(self, spec: Spec) -> tuple[str, ...]:
        """Tensors of the network that embed what the class is given embedded; by default none."""
        return ()

    def adapted(self, spec: Spec, tensors: Mapping[str, Expr]) -> dict[str, Expr]:
        """The network's tensors in the form that a spec of `changes(config(spec))` has; by default as they are."""
        return dict(tensors)


class Scheduler(Equivalent):
    """A scheduler: `scheduler_config.json`. Its changes are of the sections `objective` and `sampler`."""

    SCALES_NOISE: ClassVar[bool] = False
    """Whether a pipeline has to multiply the initial noise by the scheduler's `init_noise_sigma`."""
    DENOISES: ClassVar[bool] = True
    """Whether it samples with denoisers."""

    def changes_in(self, config: Config, tokens: int | None, even: bool) -> Data:
        """As `changes`, in a pipeline of images of so many tokens, which lays out its own levels evenly if `even`."""
        return self.changes(config)

    @abstractmethod
    def takes(self, sampler: object) -> bool:
        """Whether `config` may be asked about a spec with this sampler."""


def asked(condition: bool, reason: str) -> None:
    """Raise Unequal unless a spec fulfils a condition."""
    if not condition:
        raise Unequal(reason)


def given_null(name: str, length: int | None, width: int, masked: bool = True) -> Data:
    """The fields of a condition whose null is given with it: f32[width], or [length, width], `masked` if need be."""
    shape = [width] if length is None else [length, width]
    mask = {"_mask": {"shape": [length], "dtype": "bool"}} if masked and length is not None else {}
    ends: Data = {"": {"shape": shape, "medium": "array"}, **mask}
    return {f"{name}{null}{end}": dict(field) for null in ("", "_null") for end, field in ends.items()}


def wrong_class(found: object, names: Mapping[str, Any] | tuple[str, ...]) -> str:
    """The reason for a class without an equal."""
    return f"{found} has no equivalent; supported classes: {', '.join(names)}"
