"""The base classes of samplers, and of programs around one that denoises step by step."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

from pydantic import Field

from latentc.components.capabilities import Capability
from latentc.components.contract import Need, Network, Program
from latentc.components.kit import Operands
from latentc.components.kit.tokens import draw, filtered
from latentc.components.parts import Part, Problem, Spec
from latentc.ir.builder import Builder, ModuleBuilder, Var

if TYPE_CHECKING:
    from latentc.components.samplers.base import ArraySampler
    from latentc.components.samplers.guided import Around


@dataclass(frozen=True)
class Recall:
    """A sampler's request to a network whose keys and values it reuses: see `recall` of `masked_features`.

    `tokens`: how many a step evaluates anew. `condition`: the tokens that hold the condition are reused, too.
    """

    tokens: int
    condition: bool


class Sampler(Part):
    """Base class of samplers: adds a sampling program to the module."""

    COUNTS_REPEATED: ClassVar[bool] = False
    """Whether it scores texts with the tokens that a decoder repeats before them; see `next_token`."""

    WRAPPABLE: ClassVar[bool] = False
    """Whether the items of a spec's `programs` can wrap its steps; see `Wrapper`."""

    NEEDS: ClassVar[Capability | None] = None
    """Capability that `main` must provide, where nothing else is needed."""

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        """The networks it calls, and what they must be able to do."""
        return () if self.NEEDS is None else (Need("main", self.NEEDS),)

    def makes(self) -> tuple[str, ...]:
        """Conditions that its programs make themselves, so that a request does not give them."""
        return ()

    def recalls(self, tokens: int) -> Recall | None:
        """Its request to reuse keys and values of a network over so many tokens; None: steps evaluate all tokens."""
        return None

    def shares(self, network: str) -> tuple[float, ...]:
        """Shares of the tokens that skip blocks of a network in its evaluations; see `skip_tokens`."""
        return ()

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

    def with_steps(self, steps: int) -> Sampler:
        """The same sampler with another number of `steps`; by default itself if it has no such setting."""
        return self.model_copy(update={"steps": steps}) if "steps" in type(self).model_fields else self


class DecodingSampler(Sampler):
    """A sampler of an autoencoder or tokenizer whose decoder is a program: it draws random numbers, or takes steps.

    Its network has `encode` and `codes`, but need not have `decode`. As the first stage of a model of the codes, the
    program is appended to the programs of that model.
    """

    @abstractmethod
    def decoder(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds the program that decodes: its only condition is the codes, and its first output is the sample `x`.

        Its other inputs are random numbers and settings, of which it has its own: no stream is shared with the model's
        programs, and the setting `scale` is called `first_stage_scale` there.
        """


class ScoringSampler(Sampler):
    """A sampler that says how likely the tokens are that it draws."""

    @abstractmethod
    def problems_of_scores(self) -> Iterator[Problem]:
        """Refuses settings under which tokens are drawn with other probabilities than `token_log_prob`."""

    @abstractmethod
    def token_log_prob(self, b: Builder, network: Network, cond: Operands, null: Operands | None, tokens: Var) -> Var:
        """f32[B, T]: log-probabilities, in nats, with which it draws tokens i64[B, T] one after the other.

        Guidance has its default scale; `null` are the conditions of its other branch; None if there is no guidance.
        """


class TokenSampler(Sampler):
    """Draws tokens by inverse CDF, one uniform number per token."""

    temperature: float = Field(
        1.0, ge=0, description="temperature of the logits; 0 takes the most likely token (greedy)"
    )
    top_k: int = Field(0, ge=0, le=16_777_216, description="draw only from the k most likely tokens; 0: all")
    top_p: float = Field(
        1.0, gt=0, le=1, description="draw from the most likely tokens that together reach this probability"
    )

    def pick(self, b: Builder, logits: Var, u: Var | None) -> Var:
        """i64[...]: the tokens that u f32[...] falls on in the distributions of logits f32[..., V], filtered.

        Without u the likeliest.
        """
        if u is None:
            return b.argmax(logits, axis=logits.type.rank - 1, out="token")
        if self.temperature != 1.0:
            logits = b.op("mul", logits, 1 / self.temperature, out="logits")
        return draw(b, filtered(b, logits, self.top_k, self.top_p), u)


class Wrapper(Part):
    """An item of a spec's `programs`: it wraps the evaluations of the sampler's steps, adds programs, or does both."""

    @property
    def around(self) -> bool:
        """True if `wrapped` changes the evaluations of the sampler's steps."""
        return False

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        """Networks that it calls besides the sampler's, and what they must be able to do; places relative to it."""
        return ()

    def problems(self, spec: Spec) -> Iterator[Problem]:
        sampler = spec.sampler
        if not isinstance(sampler, Sampler) or not sampler.WRAPPABLE:
            what = "this spec has none" if sampler is None else f"`{sampler.kind}` does not"
            message = f"program `{self.kind}` needs a sampler that denoises whole arrays step by step, but {what}"
            yield Problem((), message, "leave it out, or use a sampler such as `ddim` or `euler`")
        elif not any(True for _ in sampler.problems(spec)):  # otherwise the sampler reports what is wrong
            yield from self.mismatches(spec, cast("ArraySampler", sampler))

    def mismatches(self, spec: Spec, sampler: ArraySampler) -> Iterator[Problem]:
        """Mismatches with the spec and its sampler, which has no problems of its own."""
        yield from ()

    def prepared(self, mb: ModuleBuilder, network: Network, spec: Spec) -> Network:
        """The sampled network with the methods that this program calls. ValueError: it cannot have them."""
        return network

    def wrapped(
        self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec, sampler: ArraySampler
    ) -> Around | None:
        """The change of the evaluations of the sampler's steps; None: they stay."""
        return None

    def programs(
        self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec, sampler: ArraySampler
    ) -> tuple[Program, ...]:
        """Adds its own programs."""
        return ()


def wrappers(spec: Spec) -> tuple[Wrapper, ...]:
    """The programs around the spec's sampler."""
    return tuple(wrapper for wrapper in spec.programs if isinstance(wrapper, Wrapper))
