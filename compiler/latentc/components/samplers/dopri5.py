"""The probability-flow equation by Dormand and Prince's method, in steps that an error estimate chooses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.contract import Network, OutputField, Program
from latentc.components.parts import Problem, Spec, under
from latentc.components.processes.prediction import conversion
from latentc.components.processes.process import Parameterization
from latentc.components.samplers._adaptive import Tolerances, integrate
from latentc.components.samplers._likelihood import ExactLikelihood, Path, Solution
from latentc.components.samplers._velocity import course_of, velocity, velocity_and_divergence
from latentc.components.samplers.base import GuidanceTerms, GuidedSampler, parameterization_of
from latentc.components.samplers.ode import path_interval
from latentc.components.samplers.program import denoise, request_of, sources_of
from latentc.components.samplers.spacings.spacing import Interval
from latentc.components.samplers.table import Table
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.types import B, f32
from latentc_runtime.sources import RandomSource, Setting, Source


class Dopri5(Tolerances, GuidedSampler):
    """Integrates the probability flow over the process's time, in as many steps as the tolerances need: the sampler of
    Song et al. 2021 (arXiv:2011.13456; scipy's RK45, 1e-5 both), SiT and PixelFlow (torchdiffeq's dopri5). By
    default every sample has its own steps, so that it does not depend on the rest of its batch; for a single sample
    this equals the authors' sampler. A batch ends when its last sample does. `evaluations` is a second output.
    """

    kind: Literal["dopri5"]
    eps: float | None = Field(
        None,
        ge=0,
        lt=0.5,
        description="distance kept from the ends of the path; null: 0.001 from ends where the velocity is singular, "
        "if any",
    )
    guidance: GuidanceTerms = Field(
        None, description="one guidance term (classifier-free by default) or a list of them; null: none"
    )
    likelihood: ExactLikelihood | None = Field(None, description="add the program `log_likelihood`; null: none")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "dopri5",
        "rtol": 0.1,
        "atol": 0.1,
        "max_steps": 6,
        "guidance": {"scale": 2.0},
    }

    @property
    def steps(self) -> int:
        """Most tries of a step."""
        return self.max_steps

    def with_steps(self, steps: int) -> Dopri5:
        return self if steps == self.max_steps else self.model_copy(update={"max_steps": steps})

    def interval(self, target: Parameterization) -> Interval:
        """The times between which it solves. ValueError: a process on discrete levels."""
        process = target.process
        if process.point(process.first).d_alpha is None:
            raise ValueError(f"`{self.kind}` needs a process in continuous time, but `{process.kind}` has time steps")
        if process.data == process.last:
            return path_interval(target, self.eps)
        return Interval(process.first, process.last)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        target = parameterization_of(spec.objective)
        if target is None:
            what = "there is no objective" if spec.objective is None else f"`{spec.objective.kind}` trains none"
            message = f"`{self.kind}` integrates the flow of a denoiser, but {what}"
            yield Problem(("kind",), message, "use an objective such as `flow` or `diffusion`")
            return
        try:
            self.interval(target)
        except ValueError as error:
            yield Problem(("kind",), str(error), "use a sampler such as `ddim`, `heun` or `dpm_solver_pp`")
            return
        if self.rules == "torchdiffeq" and not self._beyond(target):
            message = (
                "`torchdiffeq` evaluates the network beyond the last time, where "
                f"`{target.process.kind}` has no velocity"
            )
            yield Problem(("rules",), message, "use `rules: scipy`, whose last step ends at the last time")
        main = spec.networks.get("main")
        if main is not None and main.MEMORY:
            message = "an adaptive solver may reject and repeat a step, but the network carries memory between steps"
            yield Problem(("kind",), message, "use a sampler with fixed steps, such as `heun`")
        if spec.optimize.stitch is not None:
            message = (
                "an adaptive solver does not know its steps in advance, but `optimize.stitch` "
                "divides them between two networks"
            )
            yield Problem(("kind",), message, "use a sampler with fixed steps, such as `heun`")
        for path, term in self.terms():
            if term.OF_SCORE:
                message = f"`{term.kind}` depends on more than the prediction at one state, so it needs fixed steps"
                yield Problem(path, message, "use `classifier_free` or `autoguidance`, or the sampler `heun`")
        yield from self.setting_problems(spec)
        if self.likelihood is not None:
            yield from under("likelihood", problems=target.noise_problems(spec, "program `likelihood`"))

    def _beyond(self, target: Parameterization) -> bool:
        """True if velocities exist a little beyond the end."""
        process, ends = target.process, self.interval(target)
        times = ends.stop + (ends.stop - ends.start) * np.geomspace(1e-4, 0.1, 10)
        try:
            point = process.point(times)
            conversion(target.predicts, "flow_velocity", point)
        except ValueError:
            return False
        return bool(np.all(np.isfinite([point.time, point.scale])))

    def prepare(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Mapping[str, Network]:
        main = networks["main"]
        return {**networks, "main": self.guided_view(mb, main, main)}

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `sample.MAX_STEPS`: x f32[B, C, ...] of normals, the conditions, a scale f32[B] for each term of
        guidance -> x f32[B, C, ...], evaluations f32[B].
        """
        target, network = parameterization_of(spec.objective), networks["main"]
        assert target is not None, "`problems` has looked"
        process, entry = target.process, f"sample.{self.max_steps}"
        conditions, guides = self.conditions(spec, networks), self.guides(mb, networks, process)
        b = mb.function(entry)
        x = b.input("x", network.methods["forward"].input("state").type)
        request = request_of(b, conditions, x, guides, coupling=target.coupling)
        sources: dict[str, Source] = {"x": RandomSource("normal", "x"), **sources_of(conditions, guides)}
        x = x if target.coupling is None else target.coupling.base(b, x, request.operands)
        if (kernel := process.kernel([int(size) for size in x.shape[1:]])) is not None:  # type: ignore[arg-type]
            draw = kernel.draw
            x = kernel.apply(b, x, b.input(draw.name, f32(B)))
            sources[draw.name] = RandomSource(draw.distribution, draw.name, parameters=dict(draw.parameters))
        ends = self.interval(target)
        if (prior := process.prior_scale(ends.start)) != 1.0:
            x = b.mul(x, prior, out="x")
        rates, kept = velocity(mb, network, course_of(target), guides, request)
        (x,), evaluations = integrate(b, entry, rates, [x], kept, (ends.start, ends.stop), self)
        if (last := self.last_step(target)) is not None:
            x, evaluations = denoise(b, entry, last, network, request, x, None, guides), b.add(evaluations, 1.0)
        b.output(x, evaluations)
        mb.entries[entry] = b.finish(doc=f"Dormand and Prince's method, at most {self.max_steps} steps.")
        settings = tuple({guide.input: Setting(guide.setting, guide.default) for guide in guides}.values())
        outputs = (OutputField("samples", "x"), OutputField("evaluations", effort=True))
        most = self.evaluations + (last is not None)
        return Program(entry, self.kind, self.max_steps, most, sources, settings, outputs=outputs)

    def last_step(self, target: Parameterization) -> Table | None:
        """A further step from the end of the interval; None: there is none."""
        return None

    def programs(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Program, ...]:
        found, target = self.build(mb, networks, spec), parameterization_of(spec.objective)
        assert target is not None, "`problems` has looked"
        if self.likelihood is None:
            return (found,)
        ends = self.interval(target)

        def solve(b: Builder, x: Var, path: Path) -> tuple[Var, ...]:
            rates, kept = velocity_and_divergence(path)
            zero = b.mul(path.length, 0.0, out="change")
            state, made = integrate(b, "log_likelihood", rates, [x, zero], kept, (ends.stop, ends.start), self)
            return *state, made

        solution = Solution(
            self.kind, self.max_steps, self.evaluations, solve, (OutputField("evaluations", effort=True),)
        )
        return found, *self.likelihood.programs_of(mb, networks, spec, target, solution)
