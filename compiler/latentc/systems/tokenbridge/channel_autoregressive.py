"""Sets of tokens one after the other in a random order, each token channel by channel: TokenBridge's sampler.

Symbols: B batch, T tokens of a sample, C channels of a token, D channels of its features, K tokens drawn at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.contract import Need, Network, OutputField, Program
from latentc.components.guidance.guidance import ScheduledGuidance, asked_scale, token_guidance_problems
from latentc.components.kit import Conditions, call
from latentc.components.kit.patches import unpatchify
from latentc.components.kit.tokens import Schedule
from latentc.components.parts import Problem, Spec, under
from latentc.components.sampler import TokenSampler
from latentc.components.samplers.masked_autoregressive import MaskedAutoregressive, TokenSets, picked
from latentc.ir.builder import Builder, ModuleBuilder, Var, as_tuple
from latentc.ir.types import B, Named, f32, i64
from latentc.systems.tokenbridge.channel_transformer import levels_of, order_of
from latentc.systems.tokenbridge.levels import value_of
from latentc_runtime.sources import RandomSource, Source


@dataclass(frozen=True)
class ChannelSets(TokenSets):
    """Sets of tokens whose channels `sampler` draws from uniform numbers `u` f32[B, T, C], if there are any."""

    sampler: TokenSampler | None = None

    def made(
        self,
        b: Builder,
        at: Mapping[str, Var],
        z: Var,
        null_z: Var | None,
        chosen: Var,
        places: Var,
        scale: Var | None,
    ) -> Var:
        """Tokens f32[B, K, C] drawn from features at `chosen` of z [B, T, D], moved away from null_z by guidance."""
        count, width = int(places.shape[-1]), int(z.shape[2])
        features = picked(b, z, chosen, "features")
        if null_z is not None and scale is not None:
            null = picked(b, null_z, chosen, "null")
            apart = b.op("sub", features, null, out="apart")
            features = b.add(null, apart * b.reshape(scale, shape=(B, 1, 1)), out="features")
        given = {"z": b.reshape(features, shape=(B * count, width), out="z")}
        sampler, head = self.sampler, self.head
        assert sampler is not None
        order, values = order_of(head), levels_of(head)
        u = picked(b, at["u"], places, "u") if "u" in at else None
        token: Var | None = None
        caches: list[Var] = []
        drawn: list[Var] = []
        for k in range(len(order)):
            operands: dict[str, Any] = {} if token is None else {"token": token, "cache": caches}
            method = f"channel_{k}"
            names = " ".join("cache" if port.role == "cache" else "logits" for port in head.methods[method].outputs)
            logits, *caches = as_tuple(call(b, head, method, given, out=names, **operands))
            own = None
            if u is not None:
                own = b.reshape(b.slice(u, axis=2, start=k, stop=k + 1), shape=(B * count,), out="own")
            token = sampler.pick(b, logits, own)
            drawn.append(b.reshape(token, shape=(B, count, 1), out="level"))
        levels = b.concat(*drawn, axis=2, out="levels") if len(drawn) > 1 else drawn[0]
        levels = b.take(levels, b.constant(np.argsort(order), out="channels"), axis=2, out="levels")
        return value_of(b, levels, values)


class ChannelAutoregressive(TokenSampler):
    """In each step `main` encodes the tokens so far and `head` draws the channels of the next ones (TokenBridge, Wang
    et al. 2025, arXiv:2503.16430). Guidance acts on the features.
    """

    kind: Literal["channel_autoregressive"]
    steps: int = Field(256, gt=0, le=100_000, description="sets of tokens, with one evaluation of `main` each")
    schedule: Schedule = Field("cosine", description="schedule of the number of hidden tokens over the steps")
    guidance: ScheduledGuidance | None = Field(
        None, description="classifier-free guidance of the features; its progress is the fraction of known tokens"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "channel_autoregressive",
        "steps": 3,
        "guidance": {"scale": 2.0, "schedule": "linear"},
    }

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return (Need("main", "masked_features"), Need("head", "next_channel"))

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from under("guidance", problems=token_guidance_problems(self.guidance, spec))

    def sets(self) -> MaskedAutoregressive:
        """The sampler of the same sets of tokens."""
        settings = {"steps": self.steps, "schedule": self.schedule, "guidance": self.guidance}
        return MaskedAutoregressive(kind="masked_autoregressive", **settings)  # type: ignore[arg-type]

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `sample.STEPS`: the conditions, scale f32[B] with guidance, order i64[B, T] and, unless greedy, u
        f32[B, T, C] -> f32[B, C, H, W]."""
        main, conditions = networks["main"], Conditions(spec, networks)
        shape = spec.data.shape
        assert shape is not None and len(shape) == 3
        _, count, channels = main.methods["forward"].input("state").type.shape
        length, size = int(count), int(channels)  # type: ignore[arg-type]
        entry = f"sample.{self.steps}"
        b = mb.function(entry)
        operands = conditions.operands(b, conditions.inputs(b))
        sources: dict[str, Source] = conditions.sources()
        scale, settings = asked_scale(b, self.guidance, sources)
        order = b.input("order", i64(B, length))
        sources["order"] = RandomSource("permutation", "order")
        fixed = {"ranks": b.argsort(order, out="ranks"), "order": order}
        fixed |= {} if scale is None else {"scale": scale}
        if self.temperature:
            fixed["u"] = b.input("u", f32(B, Named(length, "T"), size))
            sources["u"] = RandomSource("uniform", "u")
        given = (tuple(operands), tuple(fixed), (), entry)
        sets = ChannelSets(main, networks["head"], conditions, *given, sampler=self)
        tokens, evaluations = b.full(order, shape=(length, size), value=0.0, dtype="f32", out="tokens"), 0
        for blocks, rows in self.sets().segments(length):
            names = ["before", "after", *(["weight"] if self.guidance else [])]
            columns = [np.array(column) for column in zip(*rows, strict=True)]
            tables = [b.constant(column, out=name) for name, column in zip(names, columns, strict=False)]
            (tokens,) = as_tuple(
                b.loop(
                    f"{entry}.set",
                    len(rows),
                    partial(sets.step, blocks),
                    invariants=[*operands.values(), *fixed.values()],
                    carried=[tokens],
                    tables=tables,
                    names=["tokens", *names],
                )
            )
            evaluations += len(rows) * (1 + size)
        b.output(unpatchify(b, tokens, shape))
        mb.entries[entry] = b.finish(doc=f"Draws {length} tokens in {self.steps} steps, each channel by channel.")
        outputs = (OutputField("samples", "x"),)
        return Program(entry, self.kind, self.steps, evaluations, sources, settings, "sample", outputs)
