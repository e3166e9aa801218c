"""Runs a sampler several times, each conditioned on features of the sample before: the stages of DoD.

Symbols: B batch, C channels, S stages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import OneOf
from latentc.components.condition import GivenInput, encoders
from latentc.components.contract import Need, Network, Program
from latentc.components.kit import Conditions
from latentc.components.parts import Problem, Spec, under
from latentc.components.sampler import Sampler
from latentc.components.samplers.base import ArraySampler, inner_problems, parameterization_of
from latentc.components.samplers.guided import Request
from latentc.components.samplers.program import denoise, stochastic_rows
from latentc.ir.builder import ModuleBuilder, Var
from latentc.ir.types import B, f32
from latentc_runtime.sources import RandomSource, Setting, SettingSource, Source


class Staged(Sampler):
    """Diffusion on diffusion (DoD, Yue et al. 2024, arXiv:2410.08531): every stage but the first is conditioned on an
    encoding of the previous stage's sample, and draws a sample from new noise. The first stage leaves that condition
    out, so training must sometimes drop it.
    """

    kind: Literal["staged"]
    stages: int = Field(2, gt=0, le=64, description="number of sampler runs (S)")
    condition: str = Field(description="condition that is encoded from the previous stage's sample")
    sampler: Annotated[ArraySampler, OneOf("samplers", base=ArraySampler)] = Field(description="sampler of every stage")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "staged",
        "condition": "visual",
        "sampler": {"kind": "ddim", "steps": 2},
    }

    @property
    def steps(self) -> int:
        """Steps of one stage."""
        return self.sampler.steps

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return self.sampler.needs(spec)

    def makes(self) -> tuple[str, ...]:
        return (self.condition,)

    def with_steps(self, steps: int) -> Staged:
        return self if steps == self.steps else self.model_copy(update={"sampler": self.sampler.with_steps(steps)})

    def problems(self, spec: Spec) -> Iterator[Problem]:
        target = parameterization_of(spec.objective)
        if target is not None:
            yield from target.noise_problems(spec, f"sampler `{self.kind}`")
        condition = spec.conditions.get(self.condition)
        given = [] if condition is None else condition.inputs(self.condition, spec)
        read = [i.field for i in given if isinstance(i, GivenInput) and i.encoder is not None]
        if condition is None or read != ["x"]:
            encoded = [n for n, c in spec.conditions.items() if encoders(n, c, spec)]
            what = "is not encoded from the samples" if condition else "does not exist"
            mend = f"conditions encoded by networks: {', '.join(encoded) or 'none'}"
            yield Problem(("condition",), f"condition `{self.condition}` {what}", mend)
            return
        if not condition.nullable:
            message = f"the first stage samples without `{self.condition}`, but training never drops it"
            yield Problem(("condition",), message, f"set `conditioning.{self.condition}.dropout` to 0.1")
        yield from under("sampler", problems=inner_problems(self.sampler, "this one runs in each of several stages"))

    def prepare(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Mapping[str, Network]:
        return self.sampler.prepare(mb, networks, spec)

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `sample.STEPS`: x f32[B, C, ...] of normals, the other conditions, the scales of guidance, `x_2`,
        … f32[B, C, ...] for the further stages and, of a stochastic solver, `noise`, `noise_2`, … -> x f32[B, C, ...].
        """
        target = parameterization_of(spec.objective)
        assert target is not None, "the inner sampler has said so"
        network, entry, inner = networks["main"], f"sample.{self.steps}", self.sampler
        every = inner.conditions(spec, networks)
        others = Conditions(spec, networks, tuple(n for n, _ in every.items() if n != self.condition))
        condition, table = spec.conditions[self.condition], inner.table(target)
        guides = inner.guides(mb, networks, target.process)
        b = mb.function(entry)
        data = network.methods["forward"].input("state").type
        x, sources = b.input("x", data), dict[str, Source]()
        operands = others.operands(b, others.inputs(b))
        scales = {name: b.input(name, f32(B)) for name in dict.fromkeys(guide.input for guide in guides)}
        nullable = tuple(name for name, one in every.items() if one.nullable)
        (port,) = condition.ports(self.condition, spec)
        total, seen = stochastic_rows(table), None
        drawn: list[tuple[Var, Var | None]] = []
        for stage in range(self.stages):
            suffix = f"_{stage + 1}" if stage else ""
            start = b.input(f"x{suffix}", data) if stage else x
            sources[f"x{suffix}"] = RandomSource("normal", f"x{suffix}")
            noise = b.input(f"noise{suffix}", f32(total, *data.shape)) if total else None
            if noise is not None:
                sources[f"noise{suffix}"] = RandomSource("normal", f"step{suffix}", total)
            drawn.append((start, noise))
        for stage, (start, noise) in enumerate(drawn):
            if seen is None:
                empty = b.full(start, shape=port.type.shape[1:], value=0.0, dtype="f32", out="nothing")
                cond = every.null(b, {**operands, port.name: empty}, (self.condition,))
            else:
                made = condition.operands(b, self.condition, (seen,), networks)
                cond = {**operands, port.name: made[0]}
            like = next(iter(cond.values()))
            request = Request(cond, every.null, nullable, like, scales)
            seen = denoise(b, f"{entry}.stage_{stage}", table, network, request, start, noise, guides)
        b.output(seen)
        mb.entries[entry] = b.finish(doc=f"{self.stages} stages of {table.solver}, {table.steps} steps each")
        sources |= {**others.sources(), **{guide.input: SettingSource(guide.setting) for guide in guides}}
        settings = tuple({guide.input: Setting(guide.setting, guide.default) for guide in guides}.values())
        count = self.stages * table.all_progress.size
        return Program(entry, self.kind, self.steps, count, sources, settings)
