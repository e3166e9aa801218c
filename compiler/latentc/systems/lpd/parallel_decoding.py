"""Group after group of tokens, at any positions, each group at once: LPD's sampler.

A program of its own because groups have sizes of their own, so that there is no loop, and positions are inputs.

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
from latentc.ir.builder import Builder, ModuleBuilder, Var, as_tuple
from latentc.ir.types import B, f32, i64
from latentc.systems.lpd.orders import group_sizes, local_orders
from latentc_runtime.sources import RandomSource, Source


class ParallelDecoding(TokenSampler):
    """Draws groups of tokens in an order of positions (LPD, Zhang et al. 2025, arXiv:2507.01957).

    The progress of the guidance is the place in the order divided by T.
    """

    kind: Literal["parallel_decoding"]
    steps: int = Field(20, gt=0, le=100_000, description="number of groups, whose sizes follow a cosine")
    groups: tuple[Steps, ...] | None = Field(
        None, min_length=1, max_length=100_000, description="group sizes, instead of `steps`"
    )
    order: Literal["local", "random", "raster"] = Field(
        "local",
        description="order of positions: locality-aware, random per sample, or row by row",
    )
    orders: int = Field(64, gt=0, le=65_536, description="number of locality-aware orders, one drawn per sample")
    orders_seed: int = Field(0, ge=0, le=4_294_967_295, description="seed with which these orders are drawn")
    proximity: float = Field(
        1.0, ge=0, le=64, description="minimum sum of 1 / distance to known neighbours for a position to be taken first"
    )
    repulsion: float = Field(
        1.0,
        ge=0,
        le=1_024,
        description="distance in rows and columns within which these positions exclude each other in a group",
    )
    guidance: ScheduledGuidance | None = Field(None, description="classifier-free guidance of the logits; null: none")
    NEEDS = "any_order"
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "parallel_decoding",
        "steps": 3,
        "orders": 4,
        "guidance": {"scale": 2.0, "schedule": "linear"},
    }

    def problems(self, spec: Spec) -> Iterator[Problem]:
        tokens = spec.data.tokens
        if tokens is not None:
            if self.groups is not None and sum(self.groups) != tokens.length:
                message = f"the groups add up to {sum(self.groups)} tokens, but samples have {tokens.length}"
                yield Problem(("groups",), message)
            elif self.groups is None and self.steps > tokens.length:
                message = f"{self.steps} groups of {tokens.length} tokens"
                yield Problem(("steps",), message, f"use {tokens.length} or fewer")
            if self.order == "local" and (len(tokens.grid) != 2 or tokens.grid[0] != tokens.grid[1]):
                sides = " by ".join(map(str, tokens.grid))
                message = f"locality-aware orders need a square grid of tokens, not {sides}"
                yield Problem(("order",), message, "use `order: random`")
        yield from under("guidance", problems=token_guidance_problems(self.guidance, spec))

    def with_steps(self, steps: int) -> ParallelDecoding:
        return self

    def sizes(self, length: int) -> tuple[int, ...]:
        """Tokens of each group."""
        return self.groups or group_sizes(self.steps, length)

    def prepare(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Mapping[str, Network]:
        main, backbone = networks["main"], spec.networks["main"]
        length = int(main.methods["forward"].output("logits").type.shape[1])  # type: ignore[arg-type]
        more = backbone.group_methods(mb, "main", spec, self.sizes(length))  # type: ignore[attr-defined]
        return {**networks, "main": replace(main, methods={**main.methods, **more})}

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `sample.N`: the conditions, scale f32[B] with guidance, the order i64[B, T] or, if it is
        locality-aware, its number i64[B], u f32[B, T] by place in the order unless greedy -> i64[B, T].
        """
        network, conditions = networks["main"], Conditions(spec, networks)
        length = int(network.methods["forward"].output("logits").type.shape[1])  # type: ignore[arg-type]
        sizes = self.sizes(length)
        entry = f"sample.{len(sizes)}"
        b = mb.function(entry)
        cond = conditions.operands(b, conditions.inputs(b))
        sources: dict[str, Source] = conditions.sources()
        scale, settings = asked_scale(b, self.guidance, sources)
        order, of_order = self._order(b, next(iter(cond.values())), sizes, length)
        u = b.input("u", f32(B, length)) if self.temperature else None
        caches: list[Var] = []
        tokens: list[Var] = []
        places: list[Var] = []
        start = 0
        for k, size in enumerate(sizes):
            places.append(b.slice(order, axis=1, start=start, stop=start + size, out="asked"))
            positions = places[-2:] if k else places[-1:]
            operands: dict[str, Any] = {"position": positions, "cache": caches}
            operands |= {"token": tokens[-1]} if k else {}
            logits, caches = self._logits(b, network, conditions, cond, k, start, size, length, scale, operands)
            drawn = None if u is None else b.slice(u, axis=1, start=start, stop=start + size, out="drawn")
            drawn = None if drawn is None else b.reshape(drawn, shape=(B * size,), out="u")
            tokens.append(b.reshape(self.pick(b, logits, drawn), shape=(B, size), out="token"))
            start += size
        ordered = b.concat(*tokens, axis=1, out="ordered") if len(tokens) > 1 else tokens[0]
        b.output(b.take_along(ordered, b.argsort(order, out="rank"), axis=1, out="tokens"))
        mb.entries[entry] = b.finish(doc=f"Draws {length} tokens in {len(sizes)} groups.")
        sources |= of_order
        sources |= {"u": RandomSource("uniform", "token")} if u is not None else {}
        outputs = (OutputField("samples", "tokens"),)
        return Program(entry, self.kind, len(sizes), len(sizes), sources, settings, outputs=outputs)

    def _order(self, b: Builder, like: Var, sizes: tuple[int, ...], length: int) -> tuple[Var, dict[str, Source]]:
        """i64[B, T]: the position at each place of the order, and the sources of inputs that it adds."""
        if self.order == "random":
            return b.input("order", i64(B, length)), {"order": RandomSource("permutation", "order")}
        if self.order == "raster":
            row = b.reshape(b.arange(length), shape=(1, length))
            return b.broadcast_to(row, like, shape=(B, length), out="order"), {}
        side = round(length**0.5)
        pool = np.array(local_orders(sizes, side, self.proximity, self.repulsion, self.orders, self.orders_seed))
        number = b.input("number", i64(B))
        order = b.embedding(b.constant(pool, out="orders"), number, out="order")
        return order, {"number": RandomSource("integers", "order", parameters={"high": float(self.orders)})}

    def _logits(
        self,
        b: Builder,
        network: Network,
        conditions: Conditions,
        cond: Mapping[str, Var],
        k: int,
        start: int,
        size: int,
        length: int,
        scale: Var | None,
        operands: Mapping[str, Any],
    ) -> tuple[Var, list[Var]]:
        """Logits f32[B m, V] of a group, and the grown caches."""
        method = f"group_{k}"
        names = " ".join("cache" if port.role == "cache" else "logits" for port in network.methods[method].outputs)
        given = cond if k == 0 else {}
        null: Mapping[str, Var] = {}
        if scale is not None and self.guidance is not None:
            weights = self.guidance.weights([(start + i) / length for i in range(size)])
            column = b.reshape(scale, shape=(B, 1))
            strength = scale_at(b, column, b.constant(weights.reshape(1, size), out="weight"))
            scale = b.reshape(strength, shape=(B * size,), out="strength")
            null = conditions.null(b, cond) if k == 0 else {}
        logits, *caches = as_tuple(guided_call(b, network, method, given, null, scale, out=names, **operands))
        return logits, caches
