"""The loss of a denoiser on any forward process: data noised to a drawn time, and the network's prediction of it.

Symbols: B batch; x0 the data, x_t the state at time t.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any

from pydantic import Field

from latentc.components import Closed, OneOf, kinds_with
from latentc.components.backbone import Backbone
from latentc.components.contract import Draw, Need, Network, Update
from latentc.components.kit import Conditions, Operands, call, training_method, training_noise
from latentc.components.objective import Objective, not_frozen
from latentc.components.objectives._common import publish
from latentc.components.objectives.denoising_terms._term import Denoised, DenoisingTerm
from latentc.components.parts import Fraction, Problem, Spec
from latentc.components.processes.formulas import Symbolic
from latentc.components.processes.prediction import Point, functional
from latentc.components.processes.process import Parameterization, Process, input_scale, time_column
from latentc.components.sums import names_of_terms, weighted_sum
from latentc.ir.builder import Builder, ModuleBuilder, Var, as_tuple, f32, i64
from latentc.ir.types import B

Terms = dict[str, Var]
"""Values per sample, f32[B], by the names of their metrics: the loss, then its parts."""


@dataclass(frozen=True)
class Noised:
    """Data x0 noised to times t: the state x_t, and the network's inputs, `scaled` (c_in x_t) and `network_time`.

    `column` is t in the shape in which the process's formulas take it.
    """

    b: Builder
    target: Parameterization
    draws: tuple[Draw, ...]
    x0: Var
    noise: Var
    t: Var
    column: Any
    point: Point
    x_t: Var
    scaled: Var
    network_time: Var

    @cached_property
    def derivatives(self) -> tuple[Any, Any]:
        """The derivatives of alpha and sigma by t."""
        return self.target.process.derivatives(Symbolic(self.b, self.x0.type.rank), self.column)

    @cached_property
    def functional(self) -> tuple[Any, Any]:
        """(u, w) of the quantity u x0 + w noise that the network predicts."""
        point = self.point
        if self.target.predicts == "flow_velocity":
            point = replace(point, d_alpha=self.derivatives[0], d_sigma=self.derivatives[1])
        return functional(self.target.predicts, point)

    @cached_property
    def truth(self) -> Var:
        """The quantity that the network predicts."""
        u, w = self.functional
        return weighted_sum(self.b, "target", (u, self.x0), (w, self.noise))

    def error(self, prediction: Var) -> Var:
        """The error of a prediction; of a score, times sigma."""
        if self.target.predicts == "score":
            return self.b.op("add", self.point.sigma * prediction, self.noise, out="error")
        return self.b.op("sub", prediction, self.truth, out="error")

    def data(self, prediction: Var, out: str) -> Var:
        """The data that a prediction u x0 + w noise implies, with x_t = alpha x0 + sigma noise."""
        (u, w), alpha, sigma = self.functional, self.point.alpha, self.point.sigma
        total = weighted_sum(self.b, "total", (w, self.x_t), (-sigma, prediction))
        return self.b.div(total, alpha * w - sigma * u, out=out)


def noised(b: Builder, target: Parameterization, x0: Var, given: tuple[Var, Var] | None = None) -> Noised:
    """Adds the draws of a training time and a noise as inputs, or takes those `given`."""
    process, draw = target.process, target.process.draw()
    drawn, noise = given or (_drawn_time(b, process), b.input("noise", x0.type))
    noise, further = with_kernel(b, process, noise)
    t = process.training_time(Symbolic(b, x0.type.rank), drawn, target.predicts)
    return replace(noised_at(b, target, x0, noise, t), draws=(draw, Draw("noise", "normal"), *further))


def noised_at(b: Builder, target: Parameterization, x0: Var, noise: Var, t: Var) -> Noised:
    """Data noised to the times t, with the process's own noise; no draws."""
    process, m = target.process, Symbolic(b, x0.type.rank)
    column = time_column(process, m, t)
    alpha, sigma = process.alpha(m, column), process.sigma(m, column)
    scaling = process.preconditioning
    own = scaling.functional(m, column) if scaling is not None and target.predicts == "preconditioned" else None
    x_t = weighted_sum(b, "x_t", (alpha, x0), (sigma, noise))
    scaled = weighted_sum(b, "scaled", (input_scale(process, m, column), x_t))
    point = Point(alpha, sigma, preconditioned=own)
    return Noised(b, target, (), x0, noise, t, column, point, x_t, scaled, process.network_time(m, t))


def _drawn_time(b: Builder, process: Process) -> Var:
    draw = process.draw()
    return b.input(draw.name, i64(B) if draw.distribution == "integers" else f32(B))


def with_kernel(b: Builder, process: Process, z: Var) -> tuple[Var, tuple[Draw, ...]]:
    """The process's noise from normals z [B, ...]; adds its further draw as an input, if any, and returns that draw."""
    kernel = process.kernel([int(size) for size in z.shape[1:]])
    if kernel is None:
        return z, ()
    return kernel.apply(b, z, b.input(kernel.draw.name, f32(z.shape[0]))), (kernel.draw,)


class SampleWeight(Closed):
    """A weight per sample of the loss, over the mean weight of the batch: of the coherence of captions, for instance
    (Dufour et al. 2024, arXiv:2405.20324, whom `dropped: false` follows)."""

    field: str = Field(description="data field with the weights, one number per sample")
    dropped: bool = Field(True, description="samples whose condition is dropped keep their weight; false: 0")

    def problems(self, spec: Spec) -> Iterator[Problem]:
        """A field of weights that the data does not have, or that is no number per sample."""
        found = spec.data.fields.get(self.field)
        if found is None or found.shape or found.dtype != "f32":
            has = "has no such field" if found is None else f"has a field of {found.dtype}{list(found.shape)}"
            message = f"`sample_weight` needs one number per sample, but the data {has} `{self.field}`"
            yield Problem(("sample_weight", "field"), message, f"declare `data.fields.{self.field}: {{}}`")

    def apply(self, b: Builder, weight: Var, dropped: Sequence[Var], terms: Terms) -> Terms:
        """The terms by the weight f32[B]; `dropped` bool[B] are masks of the samples without a condition."""
        for gone in () if self.dropped else dropped:
            weight = b.where(gone, b.scalar(0.0, weight), weight, out="weight")
        mean = b.mean(weight, axes=(0,), keepdims=True, out="mean_weight")
        weight = b.div(weight, b.add(mean, 1e-8), out="weight")
        return {name: b.mul(term, weight, out=term.value.name) for name, term in terms.items()}


class DenoisingLoss(Objective):
    """A forward process, and the loss of a prediction on it."""

    @abstractmethod
    def parameterization(self) -> Parameterization:
        """The forward process and the quantity that the network predicts."""

    @abstractmethod
    def loss(self, at: Noised, prediction: Var) -> Terms:
        """The loss of a prediction, then its parts if there are several."""

    @abstractmethod
    def says(self) -> str:
        """The docstring of the emitted loss."""

    def problems(self, spec: Spec) -> Iterator[Problem]:
        target = self.parameterization()
        try:
            point = target.process.point(target.process.first)
        except ValueError:
            return  # the process reports it itself
        try:
            functional(target.predicts, point)
        except ValueError as error:
            yield Problem(("predicts",), str(error), "predict `noise`, `x0` or `velocity`, or choose another process")


class DenoisingObjective(DenoisingLoss):
    """Draws a time and a noise, and compares the prediction of `main` at x_t with the true one."""

    self_conditioning: Fraction = Field(
        0.0,
        description="fraction of samples for which a network with memory gets that of a previous evaluation, without "
        "a gradient (RIN); the others get zeros",
    )
    further: tuple[Annotated[DenoisingTerm, OneOf("objectives/denoising_terms", named=True)], ...] = Field(
        (), max_length=16, description="additional loss terms"
    )
    sample_weight: SampleWeight | None = Field(None, description="weight samples by a data field; null: equally")

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        of_terms = (
            replace(need, place=("further", i), who=f"the term `{term.kind}`")
            for i, term in enumerate(self.further)
            for need in term.needs()
        )
        return Need("main", "denoise"), *of_terms

    def trained(self, spec: Spec) -> tuple[str, ...]:
        return *super().trained(spec), *not_frozen(spec, *(name for term in self.further for name in term.trains))

    def problems(self, spec: Spec) -> Iterator[Problem]:
        main = spec.networks.get("main")
        if self.self_conditioning and not (main is not None and main.MEMORY):
            message = "the network has no memory between evaluations"
            others = kinds_with("networks", lambda cls: issubclass(cls, Backbone) and cls.MEMORY)
            yield Problem(("self_conditioning",), message, f"leave it out, or use a network with memory: {others}")
        if self.sample_weight is not None:
            yield from self.sample_weight.problems(spec)
        yield from super().problems(spec)

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        denoised = self.denoised(mb.function("loss.terms"), networks, spec)
        return self.published(mb, denoised, self.loss(denoised.at, denoised.prediction), spec)

    def denoised(
        self,
        b: Builder,
        networks: Mapping[str, Network],
        spec: Spec,
        given: tuple[Var, Operands] | None = None,
    ) -> Denoised:
        """Adds the data, its conditions, a time and a noise as inputs, and evaluates `main` in training.

        `given`: x0 and the fields that the conditions read, if they are inputs already.
        """
        network, target, conditions = networks["main"], self.parameterization(), Conditions(spec, networks)
        if given is None:
            x0 = b.input("x", network.methods["forward"].input("state").type)
            given = x0, conditions.inputs(b, by_field=True)
        x0, read = given
        fields = [name for term in self.further for name in term.fields]
        fields += [] if self.sample_weight is None else [self.sample_weight.field]
        inputs = {n: b.given(n) or b.input(n, f32(B, *spec.data.fields[n].shape)) for n in dict.fromkeys(fields)}
        operands, start = conditions.operands(b, read), None
        if target.coupling is not None:
            start = _drawn_time(b, target.process), target.coupling.base(b, b.input("noise", x0.type), operands)
        at = noised(b, target, x0, start)
        cond, dropped = conditions.dropping(b, operands)
        noise, noise_draws = training_noise(b, network)
        memory, memory_draws = self._memory(b, network, cond, at)
        method = training_method(network)
        ports = network.methods[method].outputs
        names = " ".join("prediction" if port.role == "output" else port.name for port in ports)
        roles = {"state": at.scaled, "time": at.network_time, "noise": noise, "memory": memory}
        outs = as_tuple(call(b, network, method, cond, out=names, **roles))
        prediction = outs[0] if target.coupling is None else target.coupling.confined(b, outs[0], operands)
        features = tuple(value for value, port in zip(outs, ports, strict=True) if port.role == "features")
        draws = (*at.draws, *conditions.drawn(), *conditions.draws(), *noise_draws, *memory_draws)
        batch = ("x", *conditions.fields, *inputs)
        return Denoised(b, networks, at, prediction, features, tuple(dropped), inputs, batch, draws)

    def _memory(self, b: Builder, network: Network, cond: Operands, at: Noised) -> tuple[list[Var], tuple[Draw, ...]]:
        """The memory that the network is given, and the draw that decides for which samples it is not empty."""
        types = [port.type for port in network.methods["forward"].inputs_of("memory")]
        empty = [b.full(at.x_t, shape=t.shape[1:], value=0.0, dtype=t.dtype, out="memory") for t in types]
        if not empty or not self.self_conditioning:
            return empty, ()
        remember = b.input("remember", f32(B))
        names = " ".join(["first", *["memory"] * len(empty)])
        roles = {"state": at.scaled, "time": at.network_time, "memory": empty}
        _, *found = call(b, network, "forward", cond, out=names, **roles)
        kept = b.cast(b.greater(remember, 1.0 - self.self_conditioning), to="f32", out="kept")
        columns = [b.reshape(kept, shape=(B, *[1] * (m.type.rank - 1))) for m in found]
        memory = [b.mul(b.stop_gradient(m), column, out="memory") for m, column in zip(found, columns, strict=True)]
        return memory, (Draw("remember", "uniform"),)

    def published(self, mb: ModuleBuilder, denoised: Denoised, terms: Terms, spec: Spec) -> tuple[Update, ...]:
        """Weighs the samples, adds the further terms to the loss, and finishes it."""
        b, draws = denoised.b, {draw.name: draw for term in self.further for draw in term.draws()}
        if self.sample_weight is not None:
            weight = denoised.inputs[self.sample_weight.field]
            terms = self.sample_weight.apply(b, weight, denoised.dropped, terms)
        if self.further:
            base = terms.pop("loss")
            names = names_of_terms(term.kind for term in self.further)
            added = {name: term.value(denoised) for name, term in zip(names, self.further, strict=True)}
            weights = [term.weight for term in self.further]
            total = weighted_sum(b, "total", (1.0, base), *zip(weights, added.values(), strict=True))
            terms = {"loss": total, "base": base, **terms, **added}
        b.output(*terms.values())
        b.finish(self.says())
        return publish(mb, tuple(terms), denoised.batch, (*denoised.draws, *draws.values()), self.trained(spec))
