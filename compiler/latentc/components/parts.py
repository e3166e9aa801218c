"""Base classes of the parts a backbone is composed from, and what they have in common.

Symbols: B batch, T tokens, D (`dim`) width, H heads.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Closed, Component
from latentc.components.contract import Network, SampleProgram, Update
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var

if TYPE_CHECKING:
    from latentc.spec.schema import Spec

# How the weights of a network's linear layers start; biases start at zero.
Fraction = Annotated[float, Field(ge=0, le=1)]
Weights = Literal["xavier", "normal"]
_INITS: dict[str, tuple[str, dict[str, Any]]] = {
    "xavier": ("xavier_uniform", {}),
    "normal": ("normal", {"std": 0.02}),
    "zeros": ("zeros", {}),
}


def dense(b: Builder, name: str, x: Var, features: int, bias: bool, init: str, out: str = "") -> Var:
    """A Linear whose weight starts as `init` ("xavier", "normal", "zeros") says and whose bias starts at zero."""
    kind, args = _INITS[init]
    return b.dense(name, x, features, bias, kind, out, **args)


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
    def apply(self, b: Builder, name: str, x: Var, rotary: tuple[Var, ...], init: str, **static: Any) -> Var: ...

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


class ClassCondition(Part):
    """How a class label is made known."""

    dropout: float

    def rows(self, classes: int) -> int:
        """Rows of the class table: one more, for no class, where labels are dropped in training."""
        return classes + (1 if self.dropout > 0 else 0)


class BlockCondition(Part):
    """How the condition enters a block; composes a block from its parts."""

    @abstractmethod
    def block(self, mixer: Mixer, feed_forward: FeedForward, norm: Norm, init: str) -> BlockBody: ...


class Backbone(Part):
    """A network architecture. `build` adds its functions to a module; `out_channels` is what the objective predicts."""

    family: ClassVar[str] = ""  # "generator" or "discriminator"; of others what the data has

    @abstractmethod
    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network: ...


class Objective(Part):
    """What a network predicts and how it is trained. `prediction` is a kind of `latentc.components.prediction`."""

    family: ClassVar[str]  # of the networks it trains: "denoiser" or "tokens"

    def out_channels(self, channels: int) -> int:
        """Channels a network returns for data of `channels`."""
        return channels

    @abstractmethod
    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        """Adds the losses to the module as entries `loss` (and `loss.terms`, a value a sample)."""


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


class Sampler(Part):
    """How samples are drawn: adds a whole sampling program to the module."""

    families: ClassVar[tuple[str, ...]]
    guidance: Guidance | None

    @abstractmethod
    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> SampleProgram:
        """Adds entry `sample` (named `sample.STEPS`), which calls the networks under their names (`main`)."""

    @abstractmethod
    def with_steps(self, steps: int) -> Sampler:
        """The same sampler with another number of steps."""
