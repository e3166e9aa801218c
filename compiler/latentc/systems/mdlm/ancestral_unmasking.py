"""The reverse process of masked diffusion.

Symbols: B batch, T tokens of a sample, V vocabulary (token V is the mask), N steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.contract import Network, OutputField, Program
from latentc.components.guidance.guidance import ScheduledGuidance, asked_scale, scale_at, token_guidance_problems
from latentc.components.kit import Conditions, guided_call
from latentc.components.parts import Problem, Spec, under
from latentc.components.sampler import Sampler
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.types import B, Named, f32
from latentc.systems.mdlm.masked_diffusion_tokens import MaskedDiffusionLoss, possible
from latentc_runtime.sources import RandomSource, Source


class AncestralUnmasking(Sampler):
    """Starts from all masks; a step from time t to s draws a masked token with probability (t - s) / t from the
    prediction, and keeps the others (MDLM, Sahoo et al. 2024, arXiv:2406.07524). After the last step the tokens that
    are still masked are predicted. The time-reversed "analytic" steps of SEDD are the same for this process.
    """

    kind: Literal["ancestral_unmasking"]
    steps: int = Field(1000, gt=0, le=100_000, description="steps (N); one evaluation each, and one at the end")
    last_time: float = Field(1e-5, gt=0, lt=1, description="time after the last step")
    end: Literal["likeliest", "drawn"] = Field(
        "likeliest", description="tokens still masked at the end: the likeliest ones, or drawn from the prediction"
    )
    guidance: ScheduledGuidance | None = Field(None, description="classifier-free guidance of the logits; null: none")
    NEEDS = "unmask_tokens"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "ancestral_unmasking", "steps": 3}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if not isinstance(spec.objective, MaskedDiffusionLoss):
            message = f"`{self.kind}` reverses masked diffusion, but the objective trains no network for that"
            yield Problem(("kind",), message, "use `objective: {kind: masked_diffusion_tokens}`")
        yield from under("guidance", problems=token_guidance_problems(self.guidance, spec))

    def with_steps(self, steps: int) -> AncestralUnmasking:
        return self.model_copy(update={"steps": steps})

    def times(self) -> np.ndarray:
        """f64[N + 1]: the time of each evaluation, from 1 on."""
        return np.linspace(1.0, self.last_time, self.steps + 1)

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `sample.STEPS`: the conditions, the scale of guidance, u f32[N or N + 1, B, T] -> i64[B, T]."""
        network, conditions, entry = networks["main"], Conditions(spec, networks), f"sample.{self.steps}"
        port, timed = network.methods["forward"].input("state"), bool(network.methods["forward"].inputs_of("time"))
        length, mask = int(port.type.shape[1]), int(port.null or 0)  # type: ignore[arg-type]
        objective = spec.objective
        assert isinstance(objective, MaskedDiffusionLoss)
        times, evaluations = self.times(), self.steps + 1
        rows = evaluations if self.end == "drawn" else self.steps
        chance = np.append((times[:-1] - times[1:]) / times[:-1], 1.0)
        columns = {"chance": chance}
        if timed:
            columns["sigma"] = -np.log1p(-objective.masked_probability(times))
        if self.guidance is not None:
            weights = self.guidance.weights([i / self.steps for i in range(evaluations)])
            columns |= {"weight": weights} if np.any(weights != 1.0) else {}
        b = mb.function(entry)
        operands = conditions.operands(b, conditions.inputs(b))
        sources: dict[str, Source] = conditions.sources()
        scale, settings = asked_scale(b, self.guidance, sources)
        u = b.input("u", f32(rows, B, Named(length, "T")))
        sources["u"] = RandomSource("uniform", "token", rows)
        first = b.reshape(b.slice(u, axis=0, start=0, stop=1), shape=(B, length), out="u_0")
        start = b.full(first, shape=(length,), value=mask, dtype="i64", out="tokens")

        def predicted(b: Builder, tokens: Var, given: tuple[Var, ...], row: Mapping[str, Var]) -> Var:
            """Logits f32[B, T, V] of tokens i64[B, T]."""
            cond = dict(zip(operands, given, strict=False))
            own: Var | None = None
            null: Mapping[str, Var] = {}
            if scale is not None:
                own = scale_at(b, given[-1], row["weight"]) if "weight" in row else given[-1]
                null = conditions.null(b, cond)
            at: dict[str, Any] = {"state": tokens}
            if timed:
                like = b.reshape(b.slice(tokens, axis=1, start=0, stop=1), shape=(B,))
                at["time"] = b.broadcast_to(row["sigma"], like, shape=(B,), out="sigma")
            return possible(b, network, guided_call(b, network, "forward", cond, null, own, out="logits", **at))

        def body(
            b: Builder, i: Var, given: tuple[Var, ...], state: tuple[Var, ...], row: tuple[Var, ...]
        ) -> tuple[tuple[Var, ...], tuple[()]]:
            at = dict(zip((*columns, "u"), row, strict=True))
            (tokens,) = state
            drawn = draw_or_mask(b, predicted(b, tokens, given, at), at["u"], at["chance"])
            return (b.where(b.equal(tokens, mask), drawn, tokens, out="tokens"),), ()

        given = [*operands.values(), *([scale] if scale is not None else [])]
        tables = [*(b.constant(c[:rows].astype(np.float32), out=name) for name, c in columns.items()), u]
        names = ["tokens", *columns, "u"]
        loop = f"{entry}.unmask"
        (tokens,) = b.loop(loop, rows, body, invariants=given, carried=[start], tables=tables, names=names)
        if rows < evaluations:
            row = {name: b.constant(np.float32(c[-1]), out=name) for name, c in columns.items() if name != "chance"}
            likeliest = b.argmax(predicted(b, tokens, tuple(given), row), axis=2, out="likeliest")
            tokens = b.where(b.equal(tokens, mask), likeliest, tokens, out="tokens")
        b.output(tokens)
        mb.entries[entry] = b.finish(doc=f"Unmasks {length} tokens in {self.steps} steps.")
        outputs = (OutputField("samples", "tokens"),)
        return Program(entry, self.kind, self.steps, evaluations, sources, settings, outputs=outputs)


def draw_or_mask(b: Builder, logits: Var, u: Var, chance: Var) -> Var:
    """i64[B, T]: with probability `chance` f32[] a token of logits f32[B, T, V], by the inverse CDF of u, else V."""
    cdf = b.cumsum(b.softmax(logits, axis=2, out="p"), axis=2, out="cdf")
    categories = int(logits.shape[2])
    total = b.slice(cdf, axis=2, start=categories - 1, stop=categories, out="total")
    # The total is 1 but for rounding, by which a chance of 1 must not leave a token masked.
    u = b.reshape(u, shape=(*u.shape, 1)) * total
    below = b.less(cdf * chance, u, out="below")
    return b.sum(b.cast(below, to="i64"), axes=(2,), keepdims=False, out="drawn")
