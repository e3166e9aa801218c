"""The loss of a denoiser on any forward process.

Symbols: B batch; x0 the data, x_t the state at time t.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pydantic import Field

from latentc.components import Closed
from latentc.components.contract import Draw, Need, Network, Update
from latentc.components.kit import Conditions, Operands, call, per_sample_mean, training_method, training_noise
from latentc.components.objective import Objective, not_frozen
from latentc.components.objectives._common import publish
from latentc.components.objectives.denoising_terms._term import Denoised, DenoisingTerm
from latentc.components.parts import Fraction, Problem
from latentc.components.processes.formulas import Symbolic
from latentc.components.processes.prediction import Point, functional
from latentc.components.processes.process import Parameterization, Process, input_scale, time_column
from latentc.components.sums import weighted_sum
from latentc.ir.builder import Builder, ModuleBuilder, Var, f32, i64
from latentc.ir.types import B, TensorType

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


@dataclass(frozen=True)
class Noised:
    """Data x0 noised to drawn times t: the state x_t, and what the network is given of both (`scaled`, `told`)."""

    target: Parameterization
    draws: tuple[Draw, ...]
    x0: Var
    noise: Var
    t: Var
    point: Point
    x_t: Var
    scaled: Var
    told: Var


class SampleWeight(Closed):
    """A weight per sample of the loss, over the mean weight of the batch: of the coherence of captions, for instance
    (Dufour et al. 2024, arXiv:2405.20324, whom `dropped: false` follows)."""

    field: str = Field(description="data field with the weights, one number per sample")
    dropped: bool = Field(True, description="samples whose condition is dropped keep their weight; false: 0")

    def apply(self, b: Builder, weight: Var, dropped: Sequence[Var], terms: Sequence[Var]) -> tuple[Var, ...]:
        """The terms f32[B] by the weight f32[B]; `dropped` bool[B] are masks of the samples without a condition."""
        for gone in () if self.dropped else dropped:
            weight = b.where(gone, b.scalar(0.0, weight), weight, out="weight")
        mean = b.mean(weight, axes=(0,), keepdims=True, out="mean_weight")
        weight = b.div(weight, b.add(mean, 1e-8), out="weight")
        return tuple(b.mul(term, weight, out=term.value.name) for term in terms)


def noised(
    b: Builder,
    target: Parameterization,
    x0: Var,
    derivatives: bool = False,
    given: tuple[Var, Var] | None = None,
) -> Noised:
    """Adds the draws of a training time and a noise as inputs, or takes those `given`.

    `derivatives`: of the process, at its point.
    """
    process, draw = target.process, target.process.draw()
    if given is None:
        drawn = b.input(draw.name, i64(B) if draw.distribution == "integers" else f32(B))
        noise = b.input("noise", x0.type)
    else:
        drawn, noise = given
    noise, further = with_kernel(b, process, noise)
    t = process.training_time(Symbolic(b, x0.type.rank), drawn, target.predicts)
    found = noised_at(b, target, x0, noise, t, derivatives)
    return replace(found, draws=(draw, Draw("noise", "normal"), *further))


def noised_at(b: Builder, target: Parameterization, x0: Var, noise: Var, t: Var, derivatives: bool = False) -> Noised:
    """Data noised to the times t, with the process's own noise; no draws.

    `derivatives`: of the process, at its point.
    """
    process, m = target.process, Symbolic(b, x0.type.rank)
    at = time_column(process, m, t)
    alpha, sigma = process.alpha(m, at), process.sigma(m, at)
    d_alpha, d_sigma = process.derivatives(m, at) if derivatives else (None, None)
    scaling = process.preconditioning
    own = scaling.functional(m, at) if scaling is not None and target.predicts == "preconditioned" else None
    x_t = weighted_sum(b, "x_t", (alpha, x0), (sigma, noise))
    scaled = weighted_sum(b, "scaled", (input_scale(process, m, at), x_t))
    point = Point(alpha, sigma, d_alpha, d_sigma, own)
    return Noised(target, (), x0, noise, t, point, x_t, scaled, process.network_time(m, t))


def data_of(b: Builder, at: Noised, prediction: Var, out: str) -> Var:
    """The data that a prediction implies: x_t = alpha x0 + sigma e and the prediction u x0 + w e, solved for x0."""
    u, w = functional(at.target.predicts, at.point)
    alpha, sigma = at.point.alpha, at.point.sigma
    total = weighted_sum(b, "total", (w, at.x_t), (-sigma, prediction))
    return b.div(total, alpha * w - sigma * u, out=out)  # type: ignore[no-any-return]


def with_kernel(b: Builder, process: Process, z: Var) -> tuple[Var, tuple[Draw, ...]]:
    """The process's noise from normals z [B, ...]; adds what else it draws as an input, and returns that draw."""
    kernel = process.kernel([int(size) for size in z.shape[1:]])
    if kernel is None:
        return z, ()
    return kernel.apply(b, z, b.input(kernel.draw.name, f32(z.shape[0]))), (kernel.draw,)


def _coupled(b: Builder, target: Parameterization, x0: Var, operands: Operands) -> tuple[Var, Var]:
    """Adds the draws of a training time and a noise as inputs; returns the time's, and where the path starts."""
    assert target.coupling is not None
    draw = target.process.draw()
    drawn = b.input(draw.name, i64(B) if draw.distribution == "integers" else f32(B))
    return drawn, target.coupling.base(b, b.input("noise", x0.type), operands)


class DenoisingObjective(Objective):
    """Draws a time and a noise, and compares the network's prediction at x_t with the true one."""

    self_conditioning: Fraction = Field(
        0.0,
        description="fraction of samples for which a network with memory gets that of a previous evaluation, without "
        "a gradient (RIN); the others get zeros",
    )

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        of_terms = (
            replace(need, place=("further", i), who=f"the term `{term.kind}`")
            for i, term in enumerate(self.further_terms)
            for need in term.needs()
        )
        return Need("main", "denoise"), *of_terms

    def parameterization(self) -> Parameterization:
        raise NotImplementedError

    def problems(self, spec: Spec) -> Iterator[Problem]:
        main = spec.networks.get("main")
        if self.self_conditioning and not (main is not None and main.MEMORY):
            message = "the network has no memory between evaluations"
            yield Problem(("self_conditioning",), message, "leave it out, or use a network with memory, such as `rin`")
        if self.weighing is not None:
            yield from self._problems_of_weight(self.weighing.field, spec)
        target = self.parameterization()
        try:
            point = target.process.point(target.process.first)
        except ValueError:
            return  # the process reports it itself
        try:
            functional(target.predicts, point)
        except ValueError as error:
            yield Problem(("predicts",), str(error), "predict `noise`, `x0` or `velocity`, or choose another process")

    def _problems_of_weight(self, name: str, spec: Spec) -> Iterator[Problem]:
        """A field of weights that the data does not have, or that is no number per sample."""
        found = spec.data.fields.get(name)
        if found is None or found.shape or found.dtype != "f32":
            has = "has no such field" if found is None else f"has a field of {found.dtype}{list(found.shape)}"
            message = f"`sample_weight` needs one number per sample, but the data {has} `{name}`"
            yield Problem(("sample_weight", "field"), message, f"declare `data.fields.{name}: {{}}`")

    def trained(self, spec: Spec) -> tuple[str, ...]:
        further = (name for term in self.further_terms for name in term.trains)
        return (*super().trained(spec), *not_frozen(spec, *further))

    @property
    def reference_batches(self) -> int:
        """Samples of data per sample that the network is trained on."""
        return 1

    @property
    def weighing(self) -> SampleWeight | None:
        """How samples are weighed."""
        return None

    @property
    def further_terms(self) -> tuple[DenoisingTerm, ...]:
        """Terms that are added to the loss."""
        return ()

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        network, target, conditions = networks["main"], self.parameterization(), Conditions(spec, networks)
        b = mb.function("loss.terms")
        state, times = network.methods["forward"].input("state").type, self.reference_batches
        every = b.input("x", f32(times * B, *state.shape[1:]))
        for name, kept in conditions.stored.items() if times > 1 else ():
            if b.given(name) is None:
                b.input(name, TensorType(kept.dtype, (times * B, *kept.shape[1:])))
        whole = conditions.inputs(b, by_field=True)
        x0, given = self._trained_on(b, every), {name: self._trained_on(b, v) for name, v in whole.items()}
        weight = None if self.weighing is None else self.weighing.field
        fields = [name for term in self.further_terms for name in term.fields]
        read = dict.fromkeys([*fields, *([weight] if weight and weight not in conditions.fields else [])])
        inputs = {name: b.input(name, f32(B, *spec.data.fields[name].shape)) for name in read}
        full = conditions.operands(b, given)
        start = None if target.coupling is None else _coupled(b, target, x0, full)
        at = noised(b, target, x0, self.needs_derivatives(target), start)
        told, dropped = conditions.dropping(b, full)
        own, own_draws = training_noise(b, network)
        memory, remember = self._memory(b, network, told, at)
        method = training_method(network)
        results = network.methods[method].outputs
        outs = ["prediction" if port.role == "output" else port.name for port in results]
        operands = {"state": at.scaled, "time": at.told, "noise": own, "memory": memory}
        made = call(b, network, method, told, out=" ".join(outs), **operands)
        made = made if isinstance(made, tuple) else (made,)
        out, features = made[0], [v for v, port in zip(made, results, strict=True) if port.role == "features"]
        out = out if target.coupling is None else target.coupling.confined(b, out, full)
        at = self.truth(b, at, every, whole, dropped)
        terms = self.terms(b, at, out)
        terms = self.weighed(b, networks, at.told, terms)
        if self.weighing is not None and weight is not None:
            by = inputs.get(weight) or b.given(weight)  # a condition may read it
            assert by is not None
            terms = self.weighing.apply(b, by, dropped, terms)
        names = ("loss", "mse", "vb")[: len(terms)]
        more = {draw.name: draw for term in self.further_terms for draw in term.draws()}
        if self.further_terms:
            wanted = self.target(b, at)
            denoised = Denoised(b, spec, out, wanted, tuple(features), tuple(dropped), inputs, networks, at.told)
            added = {term.kind: term.value(denoised) for term in self.further_terms}
            weights = [term.weight for term in self.further_terms]
            loss = weighted_sum(b, "total", (1.0, terms[0]), *zip(weights, added.values(), strict=True))
            names, terms = ("loss", "base", *names[1:], *added), (loss, *terms, *added.values())
        b.output(*terms)
        b.finish(self.says())
        draws = (*at.draws, *conditions.drawn(), *conditions.draws(), *own_draws, *remember, *more.values())
        updates = publish(mb, names, ("x", *conditions.fields, *read), draws, self.trained(spec))
        return tuple(replace(update, reference=times) for update in updates)

    def _trained_on(self, b: Builder, v: Var) -> Var:
        """The first of `reference_batches` equal parts of v; all of v if it was drawn for these alone."""
        times = self.reference_batches
        return v if v.shape[0] == B else b.split(v, axis=0, sizes=(B, (times - 1) * B), out=f"{v.value.name} others")[0]  # type: ignore[no-any-return]

    def _memory(self, b: Builder, network: Network, told: Operands, at: Noised) -> tuple[list[Var], tuple[Draw, ...]]:
        """What a network with memory is given, and the draw that decides for which samples it is not empty."""
        types = [port.type for port in network.methods["forward"].inputs_of("memory")]
        empty = [b.full(at.x_t, shape=t.shape[1:], value=0.0, dtype=t.dtype, out="memory") for t in types]
        if not empty or not self.self_conditioning:
            return empty, ()
        remember = b.input("remember", f32(B))
        names = " ".join(["first", *["memory"] * len(empty)])
        _, *made = call(b, network, "forward", told, state=at.scaled, time=at.told, memory=empty, out=names)
        kept = b.cast(b.greater(remember, 1.0 - self.self_conditioning), to="f32", out="kept")
        columns = [b.reshape(kept, shape=(B, *[1] * (m.type.rank - 1))) for m in made]
        found = [b.mul(b.stop_gradient(m), column, out="memory") for m, column in zip(made, columns, strict=True)]
        return found, (Draw("remember", "uniform"),)

    def truth(self, b: Builder, at: Noised, x: Var, fields: Mapping[str, Var], dropped: Sequence[Var]) -> Noised:
        """The same with the data and the noise that predictions are compared with.

        x and the fields that conditions read are of the whole batch, of which the loss may train on the first part.
        `dropped` bool[B]: masks of the trained samples without a condition.
        """
        return at

    def says(self) -> str:
        """The docstring of the emitted loss."""
        return "The squared error of the prediction, one value per sample."

    def needs_derivatives(self, target: Parameterization) -> bool:
        """Whether the loss needs time derivatives of the process."""
        return target.predicts == "flow_velocity" or self.is_weighted(target)

    def is_weighted(self, target: Parameterization) -> bool:
        """Whether the weight of the squared error depends on time derivatives of the process."""
        return False

    def terms(self, b: Builder, at: Noised, out: Var) -> tuple[Var, ...]:
        """f32[B] each: the loss of prediction `out`, and what it is the sum of if that is several terms."""
        return (self.per_sample(b, self.cost(b, self.error(b, at, out))),)

    def weighed(
        self, b: Builder, networks: Mapping[str, Network], time: Var, terms: tuple[Var, ...]
    ) -> tuple[Var, ...]:
        """The terms, weighted by another network of the time input f32[B]."""
        return terms

    def per_sample(self, b: Builder, cost: Var) -> Var:
        """f32[B]: the loss of each sample, from its elementwise cost."""
        return per_sample_mean(b, cost, out="loss")

    def cost(self, b: Builder, error: Var) -> Var:
        """Elementwise cost of an error."""
        return error * error

    def error(self, b: Builder, at: Noised, out: Var) -> Var:
        """The prediction's error; of a score, times sigma."""
        if at.target.predicts == "score":
            return b.op("add", at.point.sigma * out, at.noise, out="error")  # type: ignore[no-any-return]
        return b.op("sub", out, self.target(b, at), out="error")  # type: ignore[no-any-return]

    def target(self, b: Builder, at: Noised) -> Var:
        """What the network is to predict."""
        u, w = functional(at.target.predicts, at.point)
        return weighted_sum(b, "target", (u, at.x0), (w, at.noise))


__all__ = ["DenoisingObjective", "Noised", "SampleWeight", "data_of", "noised", "noised_at", "with_kernel"]
