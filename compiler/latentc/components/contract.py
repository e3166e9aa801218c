"""What the parts of a lowered spec promise each other: networks, losses with their draws, sampling programs.

`lower` makes a `Lowered`; the emitter writes a training project from it, the exporter a bundle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from latentc.ir.core import Module, networks_called
from latentc.ir.types import Sym, TensorType
from latentc_runtime.sources import Condition, Input, Setting, Source


@dataclass(frozen=True)
class Network:
    """A named network: the functions of its methods, and what it takes and gives.

    `methods` maps `forward` (and for tokens `prefill`, `decode`) to a function of the module. Weights of network `main`
    live under state-dict prefix `main.` in programs that call it, without prefix in its own file.
    `null_class` is the class index that stands for no class, or None where the network was built without one.
    `out_channels` is what a denoiser returns on axis 1 (twice the data's where it also predicts a variance).
    `cache` is, for tokens, the type of each carried key or value cache.
    """

    name: str
    family: str  # "denoiser", "tokens", "generator" or "discriminator"
    methods: Mapping[str, str]
    classes: int
    null_class: int | None
    shape: tuple[int, ...] = ()  # denoiser: [C, H, W] of x
    out_channels: int = 0
    latent: int = 0  # generator: numbers of its noise z
    vocabulary: int = 0  # tokens
    length: int = 0
    cache: tuple[TensorType, ...] = ()


@dataclass(frozen=True)
class Draw:
    """A random input of a loss: a row of `latentc_runtime.distributions.DISTRIBUTIONS` and its parameters."""

    name: str
    distribution: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Update:
    """One optimiser's part in a step of training: minimise output 0 of entry `loss` over the weights of `networks`.

    The loss takes the batch (`x` f32[B, C, H, W] or `tokens` i64[B, T]; `y` i64[B]; no data where it is empty), then
    the draws. All its outputs are scalars to log, named by `metrics`. Weights of other networks that it calls stay;
    what a forward pass in training writes (running statistics, spectral vectors) is written in every network it calls.
    `name`, an identifier, tells several updates apart, and their metrics begin with it (`generator/loss`). `repeats`
    are the optimiser steps, each on samples of its own.
    """

    loss: str
    networks: tuple[str, ...]
    batch: tuple[str, ...]
    draws: tuple[Draw, ...]
    metrics: tuple[str, ...] = ()
    name: str = ""
    repeats: int = 1


@dataclass(frozen=True)
class SampleProgram:
    """A whole sampler: entry `entry` of the module, its inputs' sources in order; gives f32[B, C, H, W] or i64[B, T].

    `steps` counts what the user counts (network evaluation points, tokens); `evaluations` the network calls.
    `settings` are those that its sources name.
    """

    entry: str
    solver: str
    steps: int
    evaluations: int
    sources: Mapping[str, Source]
    settings: tuple[Setting, ...] = ()

    def inputs(self, module: Module) -> tuple[Input, ...]:
        """The inputs of the program's entry in order, as `latentc_runtime.sources` makes them."""
        return tuple(
            Input(v.name, v.type.dtype, tuple("B" if isinstance(d, Sym) else int(d) for d in v.type.shape), source)  # type: ignore[arg-type]
            for v in module.entry(self.entry).inputs
            for source in (self.sources[v.name],)
        )


@dataclass(frozen=True)
class Lowered:
    """A spec as IR. `module.entries` has each network's methods as `main.forward`, the losses, the sample programs."""

    module: Module
    networks: Mapping[str, Network]
    updates: tuple[Update, ...]
    programs: tuple[SampleProgram, ...]
    conditions: tuple[Condition, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)  # schedule facts that reports and emitted comments print

    @property
    def sampled(self) -> tuple[str, ...]:
        """The networks that samples are drawn with, in the spec's order; all where there is no sampler."""
        called = {
            call
            for program in self.programs
            for call in networks_called(self.module, self.module.entries[program.entry])
        }
        return tuple(name for name in self.networks if name in called or not self.programs)
