"""Group after group of tokens in random orders: RandAR's sampler.

Symbols: B batch, T tokens of a sample, N groups, m tokens of a group, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components import Steps
from latentc.components.contract import Network, OutputField, Program
from latentc.components.guidance.guidance import ScheduledGuidance, asked_scale, scale_at, token_guidance_problems
from latentc.components.kit import Conditions, guided_call
from latentc.components.parts import Problem, Spec, under
from latentc.components.sampler import TokenSampler
from latentc.ir.builder import ModuleBuilder, Var, as_tuple
from latentc.ir.types import B, f32, i64
from latentc_runtime.sources import RandomSource, Source


def group_sizes(steps: int, length: int) -> tuple[int, ...]:
    """Tokens of each group: at least 1, in all 1 + T (1 - cos(pi/2 (i + 1) / steps)) after group i, rounded down."""
    sizes, known = [1], 1
    while known < length:
        reached = min(int((1 - np.cos(np.pi / 2 * (len(sizes) + 1) / steps)) * length + 1), length)
        sizes.append(min(max(reached - known, 1), length - known))
        known += sizes[-1]
    return tuple(sizes)


class InstructedDecoding(TokenSampler):
    """Draws groups of tokens in a random order of positions per sample (RandAR, Pang et al. 2024, arXiv:2412.01827).

    The progress of the guidance of a group is the number of tokens before it divided by T.
    """

    kind: Literal["instructed_decoding"]
    steps: Steps = Field(88, description="number of groups, whose sizes follow a cosine")
    guidance: ScheduledGuidance | None = Field(None, description="classifier-free guidance of the logits; null: none")
    NEEDS = "instructed_tokens"
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "instructed_decoding",
        "steps": 3,
        "guidance": {"scale": 2.0, "schedule": "linear"},
    }

    def problems(self, spec: Spec) -> Iterator[Problem]:
        tokens = spec.data.tokens
        if tokens is not None and self.steps > tokens.length:
            yield Problem(("steps",), f"{self.steps} groups of {tokens.length} tokens", f"use {tokens.length} or fewer")
        yield from under("guidance", problems=token_guidance_problems(self.guidance, spec))

    def sizes(self, length: int) -> tuple[int, ...]:
        """Tokens of each group."""
        return group_sizes(self.steps, length)

    def progress(self, start: int, size: int, length: int) -> float:
        """Progress of the guidance for a group of `size` tokens that follows `start` of `length` tokens."""
        return start / length

    def with_steps(self, steps: int) -> InstructedDecoding:
        return self

    def prepare(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Mapping[str, Network]:
        main, backbone = networks["main"], spec.networks["main"]
        assert spec.data.tokens is not None
        sizes = self.sizes(spec.data.tokens.length)
        more = backbone.group_methods(mb, "main", spec, sizes)  # type: ignore[attr-defined]
        return {**networks, "main": replace(main, methods={**main.methods, **more})}

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `sample.N`: the conditions, scale f32[B] with guidance, the order i64[B, T], u f32[B, T] by place
        in the order unless greedy -> i64[B, T].
        """
        network, conditions = networks["main"], Conditions(spec, networks)
        assert spec.data.tokens is not None
        length = spec.data.tokens.length
        sizes = self.sizes(length)
        entry = f"sample.{len(sizes)}"
        b = mb.function(entry)
        cond = conditions.operands(b, conditions.inputs(b))
        sources: dict[str, Source] = conditions.sources()
        scale, settings = asked_scale(b, self.guidance, sources)
        order = b.input("order", i64(B, length))
        sources["order"] = RandomSource("permutation", "order")
        u = b.input("u", f32(B, length)) if self.temperature else None
        sources |= {} if u is None else {"u": RandomSource("uniform", "token")}
        null = conditions.null(b, cond) if scale is not None else {}
        caches, tokens, places, start = list[Var](), list[Var](), list[Var](), 0
        for k, size in enumerate(sizes):
            places.append(b.slice(order, axis=1, start=start, stop=start + size, out="asked"))
            operands: dict[str, Any] = {"position": places[-2:] if k else places[-1:], "cache": caches}
            operands |= {"token": tokens[-1]} if k else {}
            strength = None
            if scale is not None and self.guidance is not None:
                weights = self.guidance.weights([self.progress(start, size, length)])
                weight = b.constant(np.full((1, size), weights[0]), out="weight")
                strength = scale_at(b, b.reshape(scale, shape=(B, 1)), weight)
                strength = b.reshape(strength, shape=(B * size,), out="strength")
            names = " ".join("cache" if p.role == "cache" else "logits" for p in network.methods[f"group_{k}"].outputs)
            of_conditions = (cond, null) if k == 0 else ({}, {})
            made = guided_call(b, network, f"group_{k}", *of_conditions, strength, out=names, **operands)
            logits, *caches = as_tuple(made)
            drawn = None
            if u is not None:
                drawn = b.slice(u, axis=1, start=start, stop=start + size, out="drawn")
                drawn = b.reshape(drawn, shape=(B * size,), out="u")
            tokens.append(b.reshape(self.pick(b, logits, drawn), shape=(B, size), out="token"))
            start += size
        ordered = b.concat(*tokens, axis=1, out="ordered") if len(tokens) > 1 else tokens[0]
        b.output(b.take_along(ordered, b.argsort(order, out="rank"), axis=1, out="tokens"))
        mb.entries[entry] = b.finish(doc=f"Draws {length} tokens in {len(sizes)} groups.")
        outputs = (OutputField("samples", "tokens"),)
        return Program(entry, self.kind, len(sizes), len(sizes), sources, settings, outputs=outputs)
