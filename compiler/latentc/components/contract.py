"""The contract between parts of a lowered spec: networks with typed ports, losses with their draws, programs.

`lower` makes a `Lowered`; the emitter writes a training project from it, the exporter a bundle. Nothing outside the
components knows a kind: what fits together is decided by capabilities (`Need`) and by the roles and types of ports.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from latentc.components.fields import Field
from latentc.ir.core import Function, Module, networks_called
from latentc.ir.types import Sym, TensorType
from latentc_runtime.sources import Condition, Input, Setting, Source

Role = Literal[
    "state",
    "time",
    "condition",
    "control",
    "noise",
    "token",
    "position",
    "cache",
    "memory",
    "mask",
    "scale",
    "output",
    "features",
    "logits",
    "penalty",
    "log_det",
]

Capability = Literal[
    "denoise",
    "skip_tokens",
    "embed_conditions",
    "denoise_stages",
    "denoise_hidden",
    "denoise_tokens",
    "control",
    "exit",
    "refine",
    "next_token",
    "any_order",
    "next_scale",
    "quantize_scales",
    "mix_scales",
    "next_granules",
    "denoise_structure",
    "quantize_granules",
    "masked_tokens",
    "masked_features",
    "predicted_features",
    "next_mixture",
    "masked_mixtures",
    "hierarchical_features",
    "denoise_sequence",
    "generate",
    "generate_by_style",
    "discriminate",
    "discriminate_crops",
    "compare",
    "classify",
    "see",
    "uncertainty",
    "encode",
    "autoencode",
    "code_sequence",
    "next_vector",
    "flow",
    "flow_norms",
    "shift",
    "adapt",
    "pixels",
    "weigh_classes",
    "continue_rows",
]
CAPABILITIES: dict[Capability, str] = {
    "denoise": "predicts noise, data or a velocity from a noisy sample and its time",
    "skip_tokens": "has `routes`: blocks that some tokens skip",
    "denoise_stages": "predicts velocities at several resolutions",
    "denoise_tokens": "predicts tokens from noisy ones and their time",
    "denoise_hidden": "predicts data and noise of partly hidden samples",
    "embed_conditions": "embeds its conditions as one vector",
    "control": "adds to the blocks of another network",
    "exit": "predicts from what blocks of a denoiser return, and how uncertain that is",
    "refine": "corrects a prediction that it is told, from a noisy sample and its time",
    "next_token": "predicts each token from those before it",
    "any_order": "predicts tokens at any positions from those at any others",
    "next_scale": "predicts the tokens of each scale from the scales before it",
    "quantize_scales": "turns the tokens of scales into latents",
    "mix_scales": "turns mixtures of codes at each scale into latents",
    "next_granules": "predicts the codes of clusters from the latents so far",
    "denoise_structure": "predicts velocities of a structure embedding from the latents so far",
    "quantize_granules": "turns codes and labels of clusters into latents",
    "masked_tokens": "predicts masked tokens from the others",
    "masked_features": "encodes a partly hidden sample as features of each token",
    "predicted_features": "encodes a whole sample as features of each token, and predicts those of a hidden one",
    "next_mixture": "predicts the distribution of each continuous token from those before it",
    "masked_mixtures": "predicts the distributions of hidden continuous tokens from the others",
    "hierarchical_features": "encodes partly hidden pivots, then a partly hidden sample, as features of each token",
    "denoise_sequence": "denoises all tokens of a sample together, given the features of each",
    "generate": "turns noise into a sample",
    "generate_by_style": "turns noise into a style, and styles into a sample",
    "discriminate": "scores how much a sample looks like data",
    "discriminate_crops": "scores how much a sample, or a part of it that is drawn, looks like data",
    "compare": "tells how different two samples look",
    "classify": "predicts the class of a noisy sample at its time",
    "see": "gives the features that it sees in a sample",
    "uncertainty": "estimates the log-variance of a denoiser's error at a time",
    "encode": "encodes its input for other networks",
    "autoencode": "encodes data as codes and decodes them",
    "code_sequence": "shows losses its latents as a sequence",
    "next_vector": "predicts each vector of a sequence from those before it",
    "flow": "maps data to noise with a known log-determinant, and back",
    "flow_norms": "tells losses the norms of what each of its flows is given",
    "shift": "maps noise to samples with a known log-determinant",
    "adapt": "maps samples to others of the same shape and volume, and back",
    "weigh_classes": "scores a prompt, and classes by the scores of their sequences",
    "continue_rows": "predicts the tokens of a row that it is told nothing about, but for the first",
    "pixels": "gives the distribution of each pixel from those before it",
}
"""Capabilities of networks, in the words of diagnostics. A capability fixes the methods and the roles of their ports:

denoise       `forward` (state, time, conditions) -> output; a second time, if any, is the span over which a velocity is
              averaged, 0 unless given; perhaps `train_forward`, the same in training, with noise that losses draw as
              uniform numbers behind the conditions, and features [B, T, C] that losses may read behind the output;
              perhaps memory f32[B, ...] both in and out, from the evaluation before and for the next, zeros at first
skip_tokens   denoise, and for each share of tokens in the sampler's `shares` the method `routed_method(share)`: as
              `forward`, and noise [B, T] per route: uniform scores, by the highest of which tokens skip its blocks
denoise_stages
              `stage_0`, `stage_1`, … (state, time, conditions, and `side` f32[B], the patches along a side) -> output,
              each at twice the resolution of the one before; the last is called `forward`
embed_conditions `embed` (conditions) -> output f32[B, D]; built if the objective asks for it
control       `control` (state, time, conditions) -> outputs, one for each leading block of the network that it adapts
exit          `forward` (time, what the denoiser's `train_forward` returns behind its output) -> outputs: the prediction
              of every exit, then the uncertainty f32[B] of each
refine        the same, told a condition that its caller computes (`Condition.CARRIED`)
denoise_tokens
              `forward` (tokens as state, of which `null` is the mask; time, conditions) -> logits
denoise_hidden
              `predict` (state, time, conditions) -> output [B, 2 C, ...], data and noise, and features [B, D];
              `predict_hidden_0`, … (and noise, a number per patch f32[B, T]) -> the same, and mask f32[B, T]
next_token    `forward` (tokens as state, conditions) -> logits; `prefill` (conditions) -> logits, caches;
              `decode` (token, position, caches) -> logits, caches
any_order     `forward` (tokens as state; positions: the order; mask: what tokens see; conditions) -> logits by place;
              `group_0` (positions, conditions) -> logits, caches; `group_1`, … (tokens, their positions, positions,
              caches) -> logits, caches, none of the last; samplers ask for these
next_scale    `forward` (latents of all scales but the first as state, conditions) -> logits; `scale_0` (conditions) ->
              logits, caches; `scale_1`, … (latents as state, conditions, caches) -> logits, caches, none of the last
quantize_scales `scale_inputs` (tokens) -> output; `add_0` (tokens) -> state, output: latents of all scales so far, and
              those that the next scale begins with; `add_1`, … (state, tokens) -> the same
mix_scales    `mix_0`, … of all scales, as `add_0`, … (features f32[B, L, V], shares of all codes, in place of tokens),
              the last -> state; samplers ask for these
next_granules `forward` (latents as state; positions: structure, stage; conditions) -> output: the last latents, logits
denoise_structure
              `forward` (states: structure, latents; time; position: stage; conditions) -> output
quantize_granules `canvases` (tokens) -> output; `add_0`, … (latents as state, tokens, position: labels) -> output
masked_tokens `forward` (tokens as state, of which `null` is the mask; conditions) -> logits, of which samplers draw
              among the first `values`, if the port says so; the state may hold each token as several digits of base
              `null`, the lowest first; perhaps `forward_kept` (and rank i64[B, T] as position), the same if the
              masked tokens have the lowest ranks, and as few of them as the loss leaves are known; if the sampler
              asks for it `remember`, the same and caches, and `recall` (tokens [B, G] as state; masks that are 1
              where one of them counts [B, G], and where one of all is not among them [B, T]; their positions
              i64[B, G], conditions, caches) -> logits of these tokens, from them and what is remembered of the others
masked_features `forward` (tokens [B, T, C] as state, mask f32[B, T] that is 1 where one is hidden, conditions) ->
              output [B, T, D]; perhaps `forward_known`, the same for as few known tokens as the loss leaves; if the
              sampler asks for it `remember`, the same and caches, and `recall` (tokens [B, G, C] as state; masks that
              are 1 where one of them is hidden [B, G], where one counts [B, G], where one of all was known to
              `remember` [B, T], and where one is not among them [B, T]; their positions i64[B, G], conditions, caches)
              -> output [B, G, D], from these tokens and what is remembered of the others
predicted_features
              `targets` (tokens [B, T, C] as state, conditions) -> output [B, T, D] of a sample of which nothing is
              hidden; `predict` (features [B, T, D]) -> output [B, T, D], what those of a partly hidden one say of it
next_mixture  `forward` (tokens [B, T - 1, C] as state, conditions) -> output [B, T, P], numbers of a mixture; `prefill`
              (conditions) -> output [B, P], caches; `decode` (token [B, C], position, caches) -> output, caches
masked_mixtures
              `forward` (tokens [B, T, C] as state, mask f32[B, T] that is 1 where one is hidden, conditions) -> output
              [B, T, P]
hierarchical_features
              `pivots` (pivots [B, N, C] as state, mask f32[B, N] that is 1 where one is hidden, conditions) -> output
              [B, N + T, D]; `forward` (tokens [B, T, C] as state; masks: f32[B, T] where one is hidden, f32[B, N] where
              a pivot is left out; features of the pivots f32[B, N, D], conditions) -> output [B, N + T, D]
denoise_sequence
              `forward` (state [B, T, C], time, features of the tokens [B, T, D] as condition `z`) -> output [B, T, C]
generate      `forward` (noise, conditions) -> output; one noise input, which losses draw as normals
generate_by_style
              `map` (noise, conditions) -> output, output: the style f32[B, W] and the average style f32[W];
              `synthesize` (state: styles f32[B, L, W], noise, one or more) -> output;
              `synthesize_const` (state) -> output
discriminate  `forward` (state, conditions) -> output; if the objective asks for it `averages` (states: scores of data
              and samples) -> output, output: averages f32[1] of earlier scores of each
discriminate_crops
              as `discriminate`; `forward` also takes noise of the port's `distribution`
compare       `forward` (state, state) -> output: the distance f32[B]
classify      `forward` (state, time unless it classifies data as it is, conditions) -> logits over classes
see           `see` (state) -> output: features f32[B, F, ...], perhaps at positions
uncertainty   `forward` (time) -> output f32[B]
encode        `encode` (states, conditions) -> output
autoencode    `encode` (state) -> output, the codes: tokens, or mean and log-variance of latents;
              `decode` (state: tokens or latents) -> output; `forward` (state) -> output, both in a row;
              `regularized` (state, noise if it draws codes, of the port's `distribution`) -> output, penalty f32[B]; if
              the objective asks for it, `regularized_features`, the same with features, which its last convolution maps
              to the output, and a scale f32[], the factor of entropies in the penalty
code_sequence as autoencode, and `regularized_codes` (state, noise) -> the same, features [B, N, Z], token [B, N];
              `likeness` (features [B, N - 1, Z]) -> logits over codes; `vectors` (token) -> output [B, N - 1, Z]
next_vector   `forward` (state [B, N - 1, Z]) -> output [B, N - 1, Z], the prediction of each vector's successor
flow          `forward` (state, conditions) -> output (the latent), log_det per dimension; `inverse` (noise, conditions)
              -> output; `guided_inverse` (noise, conditions, the same as `null_NAME`, attention temperature of the
              branch without conditions, scale f32[N, B] per token that is predicted) -> output; perhaps `variances`
              (latent as state) -> output: those of its prior f32[T, C], by which `inverse` scales standard normal noise
flow_norms    if the objective asks for it `train_forward`, as a flow's `forward`, with penalty f32[B]: the sum of
              the mean squares of what each of its flows is given
shift         `shift` (noise, conditions) -> output, log_det f32[B], of all dimensions
adapt         `forward`, `inverse` (state) -> output of the same shape; the one undoes the other and changes no volume
weigh_classes next_token, and `score` (conditions) -> output, output: log-probability of the prompt f32[B] and the
              number of its tokens f32[B]; `weigh` (state f32[B, 2]) -> output: scores of two classes
pixels        `forward` (state, conditions) -> output, parameters of the distributions; `log_prob` (state, conditions)
              -> output f32[B] in nats; `draw` (noise: uniform numbers, conditions) -> output
"""


def routed_method(share: float) -> str:
    """The method of a network that provides `skip_tokens` in which this share of the tokens skips blocks."""
    return f"forward_skips_{f'{share:.6f}'.rstrip('0').removeprefix('0.')}"


TRAINING = "train_forward"
"""The method that losses call in place of `forward`, of networks that have it; samplers never do."""


@dataclass(frozen=True)
class Need:
    """A capability that an objective or sampler requires of `network`.

    `outputs` are names of outputs that it reads; `place` says which part of the component asks, and `who` names that
    part in diagnostics.
    """

    network: str
    capability: Capability
    outputs: tuple[str, ...] = ()
    place: tuple[str | int, ...] = ()
    who: str | None = None


@dataclass(frozen=True)
class Port:
    """An input or output of a method. `state` is the sample itself; `logits` are scores of a discrete output.

    Integers are 0 to `values` - 1; `null` is the one that stands for none. `distribution`: that of noise, if a
    capability leaves it to the network; a row of `latentc_runtime.distributions.DISTRIBUTIONS`.
    """

    name: str
    type: TensorType
    role: Role
    values: int | None = None
    null: int | None = None
    distribution: str | None = None


@dataclass(frozen=True)
class Method:
    """A method of a network: its function in the module, and what its operands and results are."""

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
class PriorProgram:
    """A program that draws a condition, for the programs that need it: its function, and the source of each input."""

    function: Function
    sources: Mapping[str, Source]
    settings: tuple[Setting, ...]
    evaluations: int


@dataclass(frozen=True)
class Network:
    """A network of a spec: its methods by name, and what it can do.

    Weights of network `main` live under state-dict prefix `main.` in programs that call it, without prefix in its own
    file. `sizes` are numbers, or one per level, that name maps may use beside the constructor arguments of its class.
    `drawn`: the program that draws a condition from it, by the condition's name. `adapters`: the networks that compute
    its inputs of role `control`, in their order. `reading`: the cells of a grid, numbered row by row, in the order in
    which its tokens follow each other; None: row by row.
    """

    name: str
    methods: Mapping[str, Method]
    provides: frozenset[Capability]
    sizes: Mapping[str, int | tuple[int, ...]] = field(default_factory=dict)
    drawn: Mapping[str, PriorProgram] = field(default_factory=dict)
    adapters: tuple[Network, ...] = ()
    reading: tuple[int, ...] | None = None

    @property
    def main_method(self) -> str:
        """The method that verification and costs look at: `forward`, or of a network without it the first."""
        return "forward" if "forward" in self.methods else next(iter(self.methods))

    @property
    def main(self) -> Method:
        return self.methods[self.main_method]

    @property
    def discrete(self) -> bool:
        """Whether its main method returns logits, so that agreement and perplexity measure its error."""
        return any(port.role == "logits" for port in self.main.outputs)

    @property
    def recurrent(self) -> bool:
        """Whether samplers decode with caches, so that `forward` is for whole sequences only."""
        return any(port.role == "cache" for method in self.methods.values() for port in method.inputs)

    @property
    def functions(self) -> tuple[str, ...]:
        """The functions of its methods."""
        return tuple(method.function for method in self.methods.values())


@dataclass(frozen=True)
class Draw:
    """A random input of a loss: a row of `latentc_runtime.distributions.DISTRIBUTIONS` and its parameters."""

    name: str
    distribution: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Rollout:
    """Samples that an update learns from, drawn by program `program` before its optimiser steps, without gradients.

    `group` of them are drawn of each sample of the batch, whose fields are the conditions: `given` says by (condition
    that a request gives, "value" or "mask") which. The loss takes, behind the batch, what `gives` names: outputs of the
    program as [B, group, ...], and `reward` f32[B, group], what the objective's rewards say of its output `samples`.
    """

    program: str
    group: int
    gives: tuple[str, ...]
    given: Mapping[tuple[str, str], str]


@dataclass(frozen=True)
class Update:
    """One optimiser's part in a step of training: minimise output 0 of entry `loss` over the weights of `networks`.

    The loss takes the batch (`x` f32[B, C, H, W] or `tokens` i64[B, T]; `y` i64[B]; no data where it is empty), then
    the draws. All its outputs are scalars to log, named by `metrics`. Weights of other networks that it calls stay;
    what a forward pass in training writes (running statistics, spectral vectors) is written in every network it calls.
    `partial`: some of these weights get no gradient. `name`, an identifier, tells several updates apart, and their
    metrics begin with it (`generator/loss`). `repeats` are the optimiser steps, each on samples of its own,
    but all on the same if there is a `rollout`.
    `batch_multiple` is the batch size as a multiple of `train.batch_size`; it is 1 if the loss reads data.
    The loss is given `reference` times as many samples of data as draws: it trains on the first of them.
    It is made in steps from `start` on, counted from 0, and of these in every `every`-th. A loss with an input
    `training_step` i64[] is told the step.
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


@dataclass(frozen=True)
class Rounds:
    """Training in `count` rounds of equally many steps.

    At the start of each but the first, network `teacher` takes the weights of network `student` (its moving average, if
    there is one), the student goes on from the same weights, and optimisers and learning rates start again. Losses
    with an input `round` i64[] are told the round, counted from 0.
    """

    count: int
    teacher: str
    student: str


@dataclass(frozen=True)
class OutputField:
    """An output of a program: its name, and the data field whose samples it holds, or what these are.

    None: plain numbers. `latents`: where the codes of the first stage are tokens, latents that these stand for.
    `effort`: numbers that count what it took, which rounding may change, so that they are not verified.
    """

    name: str
    field: str | Field | None = None
    latents: bool = False
    effort: bool = False


@dataclass(frozen=True)
class Program:
    """A program over the networks: entry `entry` of the module, with the source of each of its inputs, in order.

    `steps` counts what the user counts (network evaluation points, tokens); `evaluations` the network calls.
    `settings` are those that its sources name, `conditions` those that only this program asks a request for. `outputs`
    say what the entry's outputs are; none: samples of the field that the network models. `name` is `sample` for what
    draws samples, or says what else it does (`inpaint`); programs of one name differ in steps.
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
