"""Condition annealing: noise on the conditions in the first steps makes samples of one condition more varied.

Symbols: B batch, p progress of an evaluation from noise (0) to data (1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.contract import Network
from latentc.components.guidance.guidance import Array, Noise
from latentc.components.kit import Conditions, Operands, call
from latentc.components.parts import Fraction, Problem, Spec
from latentc.components.sampler import Wrapper
from latentc.components.samplers.guided import Around, Evaluation, Request
from latentc.components.sums import Coefficient, weighted_sum
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.types import TensorType
from latentc.systems.cads.embedding import embed, embedded, embedding, with_embedding

if TYPE_CHECKING:
    from latentc.components.samplers.base import ArraySampler


class ConditionAnnealing(Wrapper):
    """CADS (Sadat et al. 2023, arXiv:2310.17347): c' = sqrt(g) c + noise sqrt(1 - g) n, with n drawn per evaluation.

    g grows from 0 to 1 between `start` and `stop`. c' is then scaled to the mean and deviation of c. A label's
    embedding is annealed, an array as it is. Predictions without a condition stay as they are.
    """

    kind: Literal["annealing"]
    noise: float = Field(0.1, ge=0, le=100, description="scale of the noise (s)")
    start: Fraction = Field(
        0.1,
        description="progress from noise (0) to data (1) up to which the condition is replaced by noise (1 - tau_2)",
    )
    stop: Fraction = Field(0.4, description="progress from which no noise is added (1 - tau_1)")
    mix: Fraction = Field(1.0, description="weight of the rescaled condition (psi); 0: no rescaling")
    conditions: tuple[str, ...] | None = Field(
        None, min_length=1, description="the annealed conditions; null: all labels and arrays"
    )

    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "annealing", "start": 0.0, "stop": 0.6}

    @property
    def around(self) -> bool:
        return True

    def mismatches(self, spec: Spec, sampler: ArraySampler) -> Iterator[Problem]:
        if self.start >= self.stop:
            message = f"annealing from {self.start:g} to {self.stop:g} ends before it starts"
            yield Problem(("stop",), message, "make `start` less than `stop`: 0 is noise, 1 is data")
        for i, name in enumerate(self.conditions or ()):
            if name not in spec.conditions:
                known = ", ".join(spec.conditions) or "none"
                yield Problem(("conditions", i), f"no such condition: `{name}`", f"conditions of this spec: {known}")
        if not spec.conditions:
            yield Problem((), "there is no condition to anneal", "leave this program out")

    def kept(self, progress: Sequence[float]) -> Array:
        """g, the share of the condition that is kept, at each progress."""
        return np.clip((np.asarray(progress, np.float64) - self.start) / (self.stop - self.start), 0.0, 1.0)

    def acts(self, progress: float) -> bool:
        """True if an evaluation at this progress gets noise."""
        return bool(self.kept([progress])[0] < 1.0)

    def prepared(self, mb: ModuleBuilder, network: Network, spec: Spec) -> Network:
        """The network with the methods that embed its labels. ValueError: it embeds one in several places."""
        view = network
        for _, operand, floats in self._operands(network, spec):
            if not floats:
                network, view = with_embedding(mb, network, view, operand)
        return self.of(network, spec).network

    def wrapped(
        self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec, sampler: ArraySampler
    ) -> Annealing:
        return self.of(networks["main"], spec)

    def of(self, network: Network, spec: Spec) -> Annealing:
        """The annealing in a program over a network that was `prepared`."""
        sampled, parts = network, []
        for name, operand, floats in self._operands(network, spec):
            key = operand
            if not floats:
                network = replace(network, methods={**network.methods, "forward": network.methods[embedded(operand)]})
                key = embedding(operand)
            port = next(port for port in network.methods["forward"].inputs if port.name == key)
            parts.append(Part(name, operand, key, port.type))
        return Annealing(self, sampled, network, tuple(parts))

    def _operands(self, network: Network, spec: Spec) -> list[tuple[str, str, bool]]:
        """(condition, operand, true if it is numbers) of each annealed operand."""
        taken = {port.name: port for port in network.methods["forward"].inputs_of("condition")}
        return [
            (name, port.name, port.type.is_float)
            for name, condition in spec.conditions.items()
            if self.conditions is None or name in self.conditions
            for port in condition.ports(name, spec)[:1]
            if port.name in taken
        ]


@dataclass(frozen=True)
class Part:
    """One annealed condition: its operand, and what gets the noise: itself, or its embedding, under the name `key`."""

    condition: str
    operand: str
    key: str
    type: TensorType

    @property
    def embedded(self) -> bool:
        return self.key != self.operand

    @property
    def noise(self) -> Noise:
        """The draws of each evaluation."""
        return Noise(f"{self.key}_noise", self.type)


@dataclass(frozen=True, eq=False)
class Annealing(Around):
    """Annealing in a sampling program: `network` is `sampled` with embeddings as inputs in place of labels.

    It is also the `Conditioning` of the evaluations with noise.
    """

    how: ConditionAnnealing
    sampled: Network
    network: Network
    parts: tuple[Part, ...]

    def evaluation(self, progress: float, usual: Evaluation) -> Evaluation:
        if usual.network is not self.sampled:
            return usual
        return replace(usual, network=self.network, conditions=self if self.how.acts(progress) else None)

    @property
    def noise(self) -> tuple[Noise, ...]:
        return tuple(part.noise for part in self.parts)

    def request(self, b: Builder, conditions: Conditions, request: Request) -> Request:
        operands = self._with_embeddings(b, conditions, request.operands)
        return replace(request, operands=operands, null=self._null(conditions))

    def _with_embeddings(self, b: Builder, conditions: Conditions, operands: Operands) -> dict[str, Var]:
        """The operands and the embeddings of labels, also of the null class."""
        found = dict(operands)
        nullable = {name for name, condition in conditions.items() if condition.nullable}
        for part in self.parts:
            if part.embedded:
                found[part.key] = call(b, self.network, embed(part.operand), operands, out=part.key)
                if part.condition in nullable:
                    none = conditions.null(b, operands, [part.condition])
                    out = f"null_{part.key}"
                    found[out] = call(b, self.network, embed(part.operand), none, out=out)
        return found

    def _null(self, conditions: Conditions) -> Callable[[Builder, Operands, tuple[str, ...]], Operands]:
        """A function that leaves conditions out of operands which include embeddings."""

        def without(b: Builder, operands: Operands, names: tuple[str, ...]) -> Operands:
            found = conditions.null(b, operands, names)
            left = {p.key: operands[f"null_{p.key}"] for p in self.parts if p.embedded and p.condition in names}
            return {**found, **left}

        return without

    def columns(self, progress: Sequence[float], which: int) -> dict[str, Array]:
        kept = self.how.kept(progress)
        keep, add = (name + ("", "_2")[which] for name in ("condition", "condition_noise"))
        return {keep: np.sqrt(kept), add: self.how.noise * np.sqrt(1.0 - kept)}

    def operands(
        self, b: Builder, operands: Operands, row: Mapping[str, Coefficient], noise: Mapping[str, Var], which: int
    ) -> Operands:
        keep, add = (row[name + ("", "_2")[which]] for name in ("condition", "condition_noise"))
        made = {}
        for part in self.parts:
            c, n = operands[part.key], noise[part.noise.input(which)]
            noisy = weighted_sum(b, f"noisy_{part.key}", (keep, c), (add, n))
            if self.how.mix:
                rescaled = _rescaled(b, noisy, c)
                mix = (self.how.mix, rescaled), (1.0 - self.how.mix, noisy)
                noisy = weighted_sum(b, f"noisy_{part.key}", *mix)
            made[part.key] = noisy
        return {**operands, **made}


def _rescaled(b: Builder, x: Var, like: Var) -> Var:
    """x [B, ...] with the mean and the standard deviation that each sample of `like` has."""
    mean, deviation = _moments(b, x)
    wanted, spread = _moments(b, like)
    scale = b.div(spread, deviation, out="scale")
    return b.add(b.mul(b.op("sub", x, mean), scale), wanted, out="rescaled")


def _moments(b: Builder, x: Var) -> tuple[Var, Var]:
    """Mean and standard deviation of each sample, [B, 1, ...]."""
    axes = tuple(range(1, x.type.rank))
    mean = b.mean(x, axes=axes, keepdims=True, out="mean")
    centred = b.op("sub", x, mean)
    variance = b.mean(b.mul(centred, centred), axes=axes, keepdims=True, out="variance")
    return mean, b.sqrt(b.add(variance, 1e-12), out="deviation")
