"""The base class of samplers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from latentc.components import Closed
from latentc.components.contract import Need, Network, Program
from latentc.components.kit import Operands
from latentc.components.parts import Part, Problem
from latentc.ir.builder import Builder, ModuleBuilder, Var

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


@dataclass(frozen=True)
class Recall:
    """A sampler's request to a network whose keys and values it reuses: see `recall` of `masked_features`.

    `tokens`: how many a step evaluates anew. `condition`: the tokens that hold the condition are reused, too.
    """

    tokens: int
    condition: bool


class FixedPoint(Closed):
    """How the inverse of an autoregressive flow finds several tokens at a time: Jacobi iterations.

    Tokens in a row are evaluated at once, again and again, each time after what the last time made of those before
    them. Every iteration makes at least one more of them what it is one after the other.
    """

    block: int = Field(16, gt=1, le=65_536, description="number of tokens solved jointly")
    iterations: int = Field(
        8,
        gt=0,
        le=65_536,
        description="evaluations per block; as many as the block has tokens, and one more after the first frame of a "
        "video, which first sees what the frame before saw: the exact inverse",
    )
    threshold: float = Field(
        0.0,
        ge=0,
        description="a sample's block is found once an iteration changes it by less than this, in mean squares "
        "relative to its own, and the next begins once those of all samples are; 0: after all `iterations`",
    )
    later: int | None = Field(
        None, gt=1, le=65_536, description="tokens that are found at a time after the first frame; null: as `block`"
    )
    window: int | None = Field(
        None,
        gt=1,
        le=65_536,
        description="frames of a video that the flow over all frames sees at once, those of training if videos are "
        "longer; null: all",
    )
    context: int | None = Field(
        None,
        gt=0,
        le=65_536,
        description="frames that begin each later `window`, encoded anew; null: all but one of it",
    )

    @property
    def frames_seen(self) -> int:
        """Frames that begin each later window; 0: there is one window."""
        return 0 if self.window is None else self.context or self.window - 1

    def most(self, video: bool) -> int:
        """The iterations that always find all tokens of a block, of a `video` or an image."""
        return max(self.block, (self.later or self.block) + 1) if video else self.block


class Sampler(Part):
    """Base class of samplers: adds a sampling program to the module."""

    COUNTS_REPEATED: ClassVar[bool] = False
    """Whether it scores texts with the tokens that a decoder repeats before them; see `next_token`."""

    WRAPPABLE: ClassVar[bool] = False
    """Whether the items of a spec's `programs` can wrap its steps; see `wrapper.Wrapper`."""

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        """The networks it calls, and what they must be able to do."""
        return ()

    def makes(self) -> tuple[str, ...]:
        """Conditions that its programs make themselves, so that a request does not give them."""
        return ()

    def recalls(self, tokens: int) -> Recall | None:
        """Its request to reuse keys and values of a network over so many tokens; None: steps evaluate all tokens."""
        return None

    def shares(self, network: str) -> tuple[float, ...]:
        """Shares of the tokens that skip blocks of a network in its evaluations; see `skip_tokens`."""
        return ()

    def fixed_point(self) -> FixedPoint | None:
        """How it finds the tokens that a flow inverts; None: one after the other."""
        return None

    def given_frames(self) -> int:
        """How many frames at the start of a video a program of its takes; 0: there is no such program."""
        return 0

    def prepare(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Mapping[str, Network]:
        """The networks with the methods that its programs call besides those they are built with.

        ValueError: a network cannot have one of them.
        """
        return networks

    @abstractmethod
    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `sample` (named `sample.STEPS`), which calls the networks under their names (`main`)."""

    def programs(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Program, ...]:
        """Adds all programs that it offers, the sampler first."""
        return (self.build(mb, networks, spec),)

    @abstractmethod
    def with_steps(self, steps: int) -> Sampler:
        """The same sampler with another number of steps."""


class ScoringSampler(Sampler):
    """A sampler that says how likely the tokens are that it draws."""

    @abstractmethod
    def problems_of_scores(self) -> Iterator[Problem]:
        """Settings under which `token_log_prob` is not what tokens are drawn with."""

    @abstractmethod
    def token_log_prob(self, b: Builder, network: Network, told: Operands, null: Operands | None, tokens: Var) -> Var:
        """f32[B, T]: log-probabilities, in nats, with which it draws tokens i64[B, T] one after the other.

        Guidance has its default scale; `null` are the conditions of its other branch, None: there is no guidance.
        """
