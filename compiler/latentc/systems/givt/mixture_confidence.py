"""Continuous tokens from predicted mixtures, the likeliest first: GIVT's masked sampler.

Symbols: B batch, T tokens of a sample, C channels of a token, N steps, Q proposals.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.contract import Network, OutputField, Program
from latentc.components.guidance.guidance import asked_scale, scale_at
from latentc.components.kit import Conditions, both_branches, call
from latentc.components.kit.tokens import Schedule, hidden_fraction, rank
from latentc.components.parts import Spec
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.types import B, f32
from latentc.systems.givt.adaptors import sample_of
from latentc.systems.givt.mixtures_parts import Mixture
from latentc.systems.givt.mixtures_sampler import MixtureSampler, rows_of
from latentc_runtime.sources import RandomSource, Source


class MixtureConfidence(MixtureSampler):
    """Draws all hidden tokens and keeps those with the highest density (GIVT, Tschannen et al. 2023, arXiv:2312.02116).

    Gumbel noise is added to the log-density; with `anneal` it decreases over the steps to none in the last.
    """

    kind: Literal["mixture_confidence"]
    steps: int = Field(16, gt=0, le=100_000, description="evaluations of the network (N)")
    schedule: Schedule = Field("cosine", description="schedule of the number of hidden tokens over the steps")
    randomness: float = Field(35.0, ge=0, description="factor of the Gumbel noise before the first step")
    anneal: bool = Field(True, description="the noise decreases linearly to 0 in the last step; false: it is constant")
    NEEDS = "masked_mixtures"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "mixture_confidence", "steps": 3, "proposals": 8}

    def hidden_counts(self, length: int) -> np.ndarray:
        """i64[N]: tokens that are hidden after each step, at least one fewer; rounded from float32, as published."""
        fractions = hidden_fraction(self.schedule, (np.arange(1, self.steps + 1) / self.steps).astype(np.float32))
        left, found = length, []
        for fraction in np.clip(fractions, 1e-6, 1.0):
            left = max(0, min(left - 1, int(np.floor(length * fraction))))
            found.append(left)
        return np.array(found, np.int64)

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `sample.N`: the conditions, scale f32[B] with guidance, u f32[N, B, T, C or 1], z f32[N, B, T, C],
        gumbel f32[N, B, T], with guidance q_z and q_u f32[N, B, T, Q, C] -> f32[B, C, H, W].
        """
        network, conditions = networks["main"], Conditions(spec, networks)
        main: Any = spec.networks["main"]
        mixture: Mixture = main.mixture
        assert spec.data.shape is not None
        length, channels = main.sequence(spec.data.shape)
        entry, own = f"sample.{self.steps}", rows_of(mixture, channels)
        b = mb.function(entry)
        cond = conditions.operands(b, conditions.inputs(b))
        sources: dict[str, Source] = conditions.sources()
        scale, settings = asked_scale(b, self.guidance, sources)
        shapes = {"u": (length, own), "z": (length, channels), "gumbel": (length,)}
        kinds = {"u": "uniform", "z": "normal", "gumbel": "gumbel", "q_z": "normal", "q_u": "uniform"}
        if self.guidance is not None:
            shapes |= dict.fromkeys(("q_z", "q_u"), (length, self.proposals, channels))
        drawn_rows = {key: b.input(key, f32(self.steps, B, *shape)) for key, shape in shapes.items()}
        sources |= {key: RandomSource(kinds[key], key, self.steps) for key in shapes}
        progress = np.arange(1, self.steps + 1) / self.steps
        noise = self.randomness * (1 - progress if self.anneal else np.ones(self.steps))
        columns = {"left": self.hidden_counts(length), "noise": noise}
        if self.guidance is not None:
            columns["weight"] = np.asarray(self.guidance.weights(list(progress)), np.float64)
        tables = [*(b.constant(v, out=k) for k, v in columns.items()), *drawn_rows.values()]
        names = [*columns, *drawn_rows]
        invariants = [*cond.values(), *([] if scale is None else [scale])]
        like = drawn_rows["z"]
        start = b.mul(b.reshape(b.slice(like, axis=0, start=0, stop=1), shape=like.shape[1:]), 0.0, out="tokens")
        hidden = b.full(start, shape=(length,), value=1.0, dtype="f32", out="hidden")
        rows = B * length

        def body(b: Builder, i: Var, fixed: tuple[Var, ...], state: tuple[Var, ...], row: tuple[Var, ...]) -> Any:
            tokens, hidden = state
            at = dict(zip(names, row, strict=True))
            operands = dict(zip(cond, fixed, strict=False))
            guided = None
            if scale is None:
                raw = call(b, network, "forward", operands, state=tokens, mask=hidden, out="raw")
            else:
                null = conditions.null(b, operands)
                raw, other = both_branches(b, network, "forward", operands, null, state=tokens, mask=hidden, out="raw")
                strength = scale_at(b, fixed[-1], at["weight"])
                strength = b.broadcast_to(b.reshape(strength, shape=(B, 1)), tokens, shape=(B, length))
                flat = [b.reshape(at[k], shape=(rows, self.proposals, channels), out=k) for k in ("q_z", "q_u")]
                other = b.reshape(other, shape=(rows, other.shape[2]))
                guided = (other, b.reshape(strength, shape=(rows,)), flat[0], flat[1])
            raw = b.reshape(raw, shape=(rows, raw.shape[2]))
            u, z = b.reshape(at["u"], shape=(rows, own)), b.reshape(at["z"], shape=(rows, channels))
            made, found = self.drawn(b, mixture, raw, channels, u, z, guided)
            assert found is not None
            found = b.reshape(found, shape=(B, length), out="found")
            made = b.reshape(made, shape=(B, length, channels), out="made")
            open_ = b.greater(hidden, 0.5, out="open")
            # The least likely hidden tokens stay hidden; known tokens are never hidden again.
            score = b.add(found, b.mul(at["gumbel"], at["noise"]), out="score")
            score = b.where(open_, score, b.scalar(1e30, score), out="score")
            stays = b.less(rank(b, score), at["left"], out="stays")
            taken = b.where(b.reshape(open_, shape=(B, length, 1)), made, tokens, out="taken")
            kept = b.cast(stays, to="f32", out="hidden")
            column = b.reshape(stays, shape=(B, length, 1))
            return (b.where(column, b.scalar(0.0, taken), taken, out="tokens"), kept), ()

        (tokens, _) = b.loop(
            f"{entry}.step",
            self.steps,
            body,
            invariants=invariants,
            carried=[start, hidden],
            tables=tables,
            names=["tokens", "hidden", *names],
        )
        b.output(sample_of(b, networks, spec, tokens, main.patch))
        mb.entries[entry] = b.finish(doc=f"Draws {length} tokens in {self.steps} steps.")
        outputs = (OutputField("samples", "x"),)
        return Program(entry, self.kind, self.steps, self.steps, sources, settings, outputs=outputs)
