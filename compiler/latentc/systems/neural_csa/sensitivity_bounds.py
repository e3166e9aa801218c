"""Training of flows for bounds of causal effects under unobserved confounding: NeuralCSA."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Draw, Need, Network, Update
from latentc.components.kit import Conditions, Operands, call
from latentc.components.objective import Objective
from latentc.components.objectives._common import step_of
from latentc.components.parts import Problem, Spec, under
from latentc.ir.builder import Builder, ModuleBuilder, Var, f32
from latentc.ir.types import B
from latentc.systems.neural_csa.causal import Box, log_density_at, moved_latents, propensity, repeated, shifted
from latentc.systems.neural_csa.causal_bounds import CausalBounds
from latentc.systems.neural_csa.condition_mlp import ConditionMlp
from latentc.systems.neural_csa.condition_table import ConditionTable

Model = Literal["marginal", "rosenbaum", "kl", "total_variation", "hellinger", "chi_squared"]
SIDES = {"lower": 1.0, "upper": -1.0}


class SensitivityBounds(Objective):
    """Fits outcomes by `main`, and the shifts `lower` and `upper` of its latents that move the mean outcome the most.

    Shifts keep to a sensitivity model (Frauen et al. 2024, arXiv:2311.16026). With r(u) the density of the shifted
    latents over the standard normal: marginal: |log r| <= log gamma; rosenbaum: max r / min r <= gamma; others: both
    E f(r) and E f(1 / r) <= gamma over the standard normal, f(r) = r log r (kl), |r - 1| / 2, (sqrt(r) - 1)^2 or
    (r - 1)^2. With `within`, they move the probability that an outcome lies there, by the log-density of such
    outcomes, as the authors' code does. The network `multipliers` has Lagrange's for each sample, of an augmented
    Lagrangian, and is drawn to max(0, l - mu s) of multipliers l and slack s: a `condition_table` becomes that by plain
    gradient descent at a rate of the batch size. `propensity` is fitted to treatments of 0 and 1; without it they are
    any numbers.
    """

    kind: Literal["sensitivity_bounds"]
    model: Model = Field("marginal", description="the bounded property of the shift")
    gamma: float = Field(gt=0, description="its bound; above 1 for `marginal` and `rosenbaum`")
    treatment: str = Field("treatment", description="condition that represents the treatment")
    latents: int = Field(256, gt=1, le=65_536, description="latents drawn per sample and step (n)")
    within: Box | None = Field(
        None, description="bounds the probability that an outcome lies within the region instead of the mean outcome"
    )
    lagrangian: Literal["projected", "plain"] = Field(
        "projected",
        description="penalty added to the mean outcome: (max(0, l - mu s)^2 - l^2) / 2 mu, which vanishes for slack "
        "beyond l / mu; or -l s + mu s^2 / 2, which pulls any slack to the bound (the authors' code)",
    )
    penalty: float = Field(5.0, gt=0, description="weight of squared violations (mu)")
    growth: float = Field(1.0, ge=1, le=1_000, description="growth factor of the penalty every `growth_every` steps")
    growth_every: int = Field(
        1000, gt=0, le=1_000_000_000, description="training steps between increases of the penalty"
    )
    multipliers_every: int = Field(
        1,
        gt=0,
        le=1_000_000,
        description="update multipliers every this many steps; if above 1, on separate samples",
    )
    multipliers_span: int = Field(
        1,
        gt=0,
        le=1_000_000,
        description="steps in a row that update multipliers, such as an epoch, which `multipliers_every` counts as "
        "one; above 1, shifts rest meanwhile, and the penalty grows after each of these",
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "sensitivity_bounds", "gamma": 2.0, "latents": 4}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        flows = Need("main", "flow"), Need("lower", "shift"), Need("upper", "shift")
        scores = ("multipliers", *(("propensity",) if "propensity" in spec.networks else ()))
        return (*flows, *(Need(name, "embed_conditions") for name in scores))

    def trained(self, spec: Spec) -> tuple[str, ...]:
        own = ("main", "lower", "upper", "multipliers")
        return (*own, "propensity") if "propensity" in spec.networks else own

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if self.model in ("marginal", "rosenbaum") and self.gamma <= 1:
            yield Problem(("gamma",), f"`{self.model}` bounds a ratio, so `gamma` must exceed 1", "use 2, for example")
        if self.multipliers_span > 1 and self.multipliers_every == 1:
            message = "shifts rest while multipliers are updated, so with `multipliers_every: 1` they never learn"
            yield Problem(("multipliers_span",), message, "set `multipliers_every: 10`, say, or leave it out")
        if self.within is not None:
            yield from under("within", problems=self.within.problems(spec))
        if isinstance(spec.sampler, CausalBounds) and spec.sampler.within != self.within:
            message = "the sampler and the objective bound different regions"
            yield Problem(("within",), message, "give both the same `within`")
        treatment = spec.conditions.get(self.treatment)
        field = spec.data.fields.get(self.treatment if treatment is None else treatment.field or self.treatment)
        if treatment is None or field is None or field.shape != (1,):
            message = f"condition `{self.treatment}` must be an array of one number"
            yield Problem(("treatment",), message, f"add `conditioning.{self.treatment}: {{kind: array}}`")
        main = spec.networks.get("main")
        if main is not None and self.treatment not in main.takes(spec):  # type: ignore[attr-defined]
            message = f"network `main` models the outcome of a treatment, but is not given `{self.treatment}`"
            yield Problem((), message, f"add `{self.treatment}` to `networks.main.conditions`")
        multipliers = spec.networks.get("multipliers")
        if isinstance(multipliers, ConditionMlp) and not multipliers.positive:
            message = "Lagrange multipliers must not be negative"
            yield Problem((), message, "set `networks.multipliers.positive: true`")
        for name, count in (("multipliers", 2), ("propensity", 1)):
            network = spec.networks.get(name)
            if isinstance(network, ConditionMlp | ConditionTable) and network.numbers != count:
                message = f"network `{name}` returns {network.numbers} numbers, not {count}"
                yield Problem((), message, f"set `networks.{name}.numbers: {count}`")
        score = spec.networks.get("propensity")
        if score is not None and self.treatment in score.takes(spec):  # type: ignore[attr-defined]
            message = "a propensity score must depend on the covariates alone, not on the treatment"
            yield Problem((), message, "list only the covariates in `networks.propensity.conditions`")

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        updates = [self._outcomes(mb, networks, spec), self._bounds(mb, networks, spec)]
        updates += [self._apart(mb, networks, spec)] if self.multipliers_every > 1 else []
        mb.entries |= {update.loss: update.loss for update in updates}
        return tuple(updates)

    def _outcomes(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Update:
        """Maximum likelihood of outcomes and of treatments."""
        networks = {name: networks[name] for name in ("main", "propensity") if name in networks}
        b, conditions = mb.function("loss.outcomes"), Conditions(spec, networks)
        x = b.input("x", networks["main"].methods["forward"].input("state").type)
        cond = conditions.operands(b, conditions.inputs(b, by_field=True))
        z, log_det = call(b, networks["main"], "forward", cond, state=x, out="z log_det")
        size = int(x.shape[1])
        half = b.mean(z * z, axes=(1,), keepdims=False) * 0.5
        nats = b.op("sub", b.add(half, 0.5 * math.log(2 * math.pi)), log_det)
        parts = {"outcomes": b.mean(nats * float(size), axes=(0,), keepdims=False, out="outcomes")}
        trained: tuple[str, ...] = ("main",)
        if "propensity" in networks:
            score = call(b, networks["propensity"], "embed", cond, out="score")
            entropy = b.op("sub", b.softplus(score), cond[self.treatment] * score)
            parts["treatments"] = b.mean(entropy, axes=(0, 1), keepdims=False, out="treatments")
            trained = ("main", "propensity")
        loss = b.add(*parts.values(), out="loss") if len(parts) > 1 else parts["outcomes"]
        b.output(loss, *parts.values()) if len(parts) > 1 else b.output(loss)
        b.finish("Negative log-likelihood in nats, of outcomes and of treatments.")
        names = ("loss", *parts) if len(parts) > 1 else ("loss",)
        metrics = tuple(f"outcomes/{name}" for name in names)
        return Update("loss.outcomes", trained, ("x", *conditions.fields), (), metrics, "outcomes")

    def _bounds(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Update:
        """The augmented Lagrangians of both shifts, and the regression of their multipliers, unless they are apart."""
        b, conditions = mb.function("loss.bounds"), Conditions(spec, networks)
        cond = conditions.operands(b, conditions.inputs(b, by_field=True))
        size = networks["main"].methods["inverse"].input("noise").type.shape[1]
        latents = b.input("latents", f32(B, self.latents, size))
        every = repeated(b, cond, self.latents)
        flat = b.reshape(latents, shape=(B * self.latents, size), out="flat")
        weight, mu = self._weight(b, networks, every, flat), self._penalty(b)
        p = propensity(b, networks, cond, self.treatment) if weight else None
        losses, logged, apart = [], dict[str, Var](), self.multipliers_every > 1
        for (side, sign), multiplier in zip(SIDES.items(), self._multipliers(b, networks, cond), strict=True):
            outcomes, log_ratio = shifted(b, networks, side, every, flat, self.latents)
            mean = b.mean(outcomes, axes=(1, 2), keepdims=False, out=f"mean_{side}")
            slack, aim = self._slack(b, log_ratio), mean
            if self.within is not None:
                mean = b.mean(self.within.has(b, outcomes), axes=(1,), keepdims=False, out=f"mean_{side}")
                at = log_density_at(b, networks, side, every, flat)
                aim = self._log_density_within(b, at, weight[0], p)
            held = b.stop_gradient(multiplier, out="held")
            grown = b.relu(b.op("sub", held, slack * mu), out="grown")
            if self.lagrangian == "plain":
                penalty = b.op("sub", slack * slack * mu * 0.5, held * slack, out="penalty")
            else:
                penalty = b.div(b.op("sub", grown * grown, held * held) * 0.5, mu, out="penalty")
            loss = b.add(aim * sign, penalty, out=f"loss_{side}")
            losses.append(loss if apart else b.add(loss, _regressed(b, multiplier, grown), out=f"loss_{side}"))
            logged |= {side: mean, f"{side}_slack": slack}
        loss = b.add(*losses, out="loss")
        b.output(*(b.mean(x, axes=(0,), keepdims=False) for x in (loss, *logged.values())))
        b.finish("Lagrangians of both shifts; the mean outcomes that these reach, and how far they are from the bound.")
        metrics = tuple(f"bounds/{name}" for name in ("loss", *logged))
        trained = ("lower", "upper", *(() if apart else ("multipliers",)))
        update = Update("loss.bounds", trained, conditions.fields, (Draw("latents", "normal"),), metrics, "bounds")
        return replace(self._in_spans(update), rests=True) if self.multipliers_span > 1 else update

    def _apart(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Update:
        """The regression of multipliers in steps of their own."""
        b, conditions = mb.function("loss.multipliers"), Conditions(spec, networks)
        cond = conditions.operands(b, conditions.inputs(b, by_field=True))
        size = networks["main"].methods["inverse"].input("noise").type.shape[1]
        latents, every = b.input("latents", f32(B, self.latents, size)), repeated(b, cond, self.latents)
        flat, mu, losses = b.reshape(latents, shape=(B * self.latents, size), out="flat"), self._penalty(b), []
        for side, multiplier in zip(SIDES, self._multipliers(b, networks, cond), strict=True):
            slack = self._slack(b, moved_latents(b, networks, side, every, flat, self.latents)[1])
            grown = b.relu(b.op("sub", multiplier, slack * mu), out="grown")
            losses.append(b.mean(_regressed(b, multiplier, grown), axes=(0,), keepdims=False, out=f"loss_{side}"))
        b.output(b.add(*losses, out="loss"))
        b.finish("The distance of the multipliers of both shifts from those that their violations ask for.")
        draws, fields = (Draw("latents", "normal"),), conditions.fields
        name = "multipliers"
        return self._in_spans(Update("loss.multipliers", (name,), fields, draws, ("multipliers/loss",), name))

    def _in_spans(self, update: Update) -> Update:
        """The update in the steps that are the multipliers'; the first of several in a row is not among them."""
        span = self.multipliers_span
        start = span if span > 1 else 0
        return replace(update, start=start, every=span * self.multipliers_every, span=span)

    def _multipliers(self, b: Builder, networks: Mapping[str, Network], cond: Operands) -> list[Var]:
        """f32[B] of both shifts."""
        columns = b.split(call(b, networks["multipliers"], "embed", cond), axis=1, sizes=(1, 1), out="lower_l upper_l")
        return [b.reshape(column, shape=(column.shape[0],), out="multiplier") for column in columns]

    def _penalty(self, b: Builder) -> float | Var:
        """mu, now."""
        if self.growth == 1:
            return self.penalty
        step = b.cast(step_of(b), to="f32", out="step")
        if self.multipliers_span > 1:
            step = b.maximum(b.add(step, -float(self.multipliers_span)), 0.0, out="step")
        times = b.floor(b.div(step, float(self.growth_every)), out="times")
        return b.mul(b.exp(times * math.log(self.growth)), self.penalty, out="mu")

    def _weight(self, b: Builder, networks: Mapping[str, Network], every: Operands, flat: Var) -> list[Var]:
        """[f32[B, n]]: of latents whose outcomes lie within 1 over their number, unless all do, else 0. Or nothing."""
        if self.within is None:
            return []
        outcomes = call(b, networks["main"], "inverse", every, noise=flat, out="observed")
        inside = self.within.has(b, b.reshape(outcomes, shape=(B, self.latents, flat.shape[1])))
        count = b.sum(inside, axes=(1,), keepdims=True, out="count")
        some = b.cast(b.less(count, float(self.latents) - 0.5), to="f32")
        return [b.stop_gradient(b.div(inside * some, b.maximum(count, 1.0)), out="weight")]

    def _log_density_within(self, b: Builder, log_ratio: Var, weight: Var, p: Var | None) -> Var:
        """f32[B]: mean log-density of outcomes within, over the observed one; log_ratio f32[B n] of shifted latents.

        Its gradient is that of the probability's logarithm, as long as few outcomes change sides.
        """
        log_q = b.reshape(log_ratio, shape=(B, self.latents), out="log_q")
        if p is not None:  # outcomes under the given treatment are observed
            share = b.reshape(p, shape=(p.shape[0], 1))
            log_q = b.log(b.add(b.exp(log_q) * (1.0 - share), share), out="log_q")
        return b.sum(log_q * weight, axes=(1,), keepdims=False, out="aim")

    def _slack(self, b: Builder, log_ratio: Var) -> Var:
        """f32[B]: the distance of the shift from the limit of the sensitivity model, below 0 beyond it."""

        def most(x: Var) -> Var:
            return b.max(x, axes=(1,), keepdims=False)

        if self.model == "marginal":
            return b.op("sub", math.log(self.gamma), most(b.abs(log_ratio)), out="slack")
        if self.model == "rosenbaum":
            span = b.add(most(log_ratio), most(b.neg(log_ratio)), out="span")
            return b.op("sub", math.log(self.gamma), span, out="slack")
        # Latents follow the shifted distribution, so means over the normal one are weighted by 1 / r.
        weight = b.exp(b.neg(log_ratio), out="weight")
        means = []
        for log_r in (log_ratio, b.neg(log_ratio)):
            means.append(b.mean(self._divergence(b, log_r) * weight, axes=(1,), keepdims=False, out="divergence"))
        return b.op("sub", self.gamma, b.maximum(*means), out="slack")

    def _divergence(self, b: Builder, log_r: Var) -> Var:
        """f(r) of the logarithm of r."""
        if self.model == "kl":
            return b.exp(log_r) * log_r
        if self.model == "total_variation":
            return b.abs(b.exp(log_r) - 1.0) * 0.5
        root = b.exp(log_r * 0.5 if self.model == "hellinger" else log_r) - 1.0
        return root * root


def _regressed(b: Builder, multiplier: Var, wanted: Var) -> Var:
    """f32[B]: half the square of what multipliers are off."""
    off = b.op("sub", multiplier, b.stop_gradient(wanted), out="off")
    return b.mul(off * off, 0.5, out="off")
