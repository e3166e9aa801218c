"""A chain of a generator's samples whose stationary distribution is that of data with certain labels.

Symbols: B batch, K labels, N steps, Z dimension of the latent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Steps
from latentc.components.contract import Need, Network, Program
from latentc.components.kit import Conditions, call
from latentc.components.parts import Problem, Spec
from latentc.components.sampler import Sampler
from latentc.ir.builder import Builder, ModuleBuilder, Var, f32
from latentc.ir.types import B
from latentc.systems.s2m.label_set import LabelSet
from latentc.systems.s2m.ratio_classification import problems_of_generator, takes_class
from latentc_runtime.sources import RandomSource, Source

EPS = 1e-5
"""Added to the ratio of the current sample, which is 0 if it has none of the labels."""
LARGEST = 60.0
"""Largest logarithm of a ratio of densities; the exponential of one above 88 is infinite in float32."""


class LatentMetropolis(Sampler):
    """Metropolis-Hastings steps on the latent of `main` towards data of a set of labels (S2M, Cho et al. 2022,
    arXiv:2206.05764).

    Each step proposes a new sample of independent noise. Its density over that of the generator's samples is
    max(0, min over included labels of gamma p(label) - max over excluded ones) times the odds of data, by the network
    `classifier`. If `main` takes the class, samples are made for the first included label, and the ratio is divided by
    its probability among samples. A proposal is accepted with the probability of its ratio over the current one.
    """

    kind: Literal["latent_metropolis"]
    steps: Steps = Field(200, description="number of proposals (N)")
    labels: str = Field("labels", description="one of `conditioning`: the `label_set` of samples")
    label_temperature: float = Field(
        1.0, gt=0, le=1e3, description="temperature of the labels of data (the authors': 0.2 for three at once)"
    )
    validity_temperature: float = Field(1.0, gt=0, le=1e3, description="temperature of the odds of data")
    guidance: None = Field(None, description="always null: proposals are accepted or rejected")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "latent_metropolis", "steps": 3}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return Need("main", "generate"), Need("classifier", "weigh_labels")

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from problems_of_generator(spec)
        if not isinstance(spec.conditions.get(self.labels), LabelSet):
            message = f"the sampler reads the labels from condition `{self.labels}`, which is no `label_set`"
            yield Problem(("labels",), message, f"add `conditioning.{self.labels}: {{kind: label_set}}`")

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `sample.N`: z f32[B, Z], proposals f32[N, B, Z], uniforms f32[N, B], labels -> one sample each."""
        main, conditions = networks["main"], Conditions(spec, networks, (self.labels,))
        noise = main.methods["forward"].input("noise").type
        entry = f"sample.{self.steps}"
        b = mb.function(entry)
        z = b.input("z", noise)
        proposals = b.input("proposals", f32(self.steps, *noise.shape))
        uniforms = b.input("uniforms", f32(self.steps, B))
        (labels,) = conditions.operands(b, conditions.inputs(b)).values()
        given = [labels]
        if takes_class(main):
            given.append(b.argmax(b.cast(b.greater(labels, 0.0), to="f32"), axis=1, out="y"))  # the first included one
        x, ratio = self._proposed(b, networks, z, given)

        def body(
            inner: Builder, i: Var, kept: tuple[Var, ...], carried: tuple[Var, ...], rows: tuple[Var, ...]
        ) -> tuple[tuple[Var, ...], tuple[Var, ...]]:
            x, ratio = carried
            z, u = rows
            proposal, of_proposal = self._proposed(inner, networks, z, kept)
            accepted = inner.less(u, inner.div(of_proposal, ratio + EPS, out="probability"), out="accepted")
            whole = inner.reshape(accepted, shape=(accepted.shape[0], *(1,) * (x.type.rank - 1)))
            ratio = inner.where(accepted, of_proposal, ratio, out="ratio")
            return (inner.where(whole, proposal, x, out="x"), ratio), ()

        names = ["x", "ratio", "z", "u"]
        found = b.loop(
            f"{entry}.chain",
            self.steps,
            body,
            invariants=given,
            carried=[x, ratio],
            tables=[proposals, uniforms],
            names=names,
        )
        b.output(found[0])
        mb.entries[entry] = b.finish(doc=f"{self.steps} Metropolis-Hastings steps from a sample of the generator.")
        sources: dict[str, Source] = {
            "z": RandomSource("normal", "z"),
            "proposals": RandomSource("normal", "proposals", self.steps),
            "uniforms": RandomSource("uniform", "uniforms", self.steps),
            **conditions.sources(),
        }
        return Program(entry, self.kind, self.steps, 2 * (self.steps + 1), sources)

    def _proposed(self, b: Builder, networks: Mapping[str, Network], z: Var, given: Any) -> tuple[Var, Var]:
        """The sample of noise z f32[B, Z], and its ratio f32[B]; `given`: the labels and, if it is known, the class."""
        labels, *classes = given
        cond = {"y": classes[0]} if classes else {}
        x = call(b, networks["main"], "forward", cond, noise=z, out="proposal")
        names = " ".join(port.name for port in networks["classifier"].methods["forward"].outputs)
        validity, of_data, *of_samples = call(b, networks["classifier"], "forward", {}, state=x, out=names)
        scaled = of_data if self.label_temperature == 1 else of_data * (1 / self.label_temperature)
        gamma = b.abs(labels, out="gamma")
        weighted = b.mul(b.softmax(scaled, axis=1), gamma, out="weighted")
        included, excluded = b.greater(labels, 0.0, out="included"), b.less(labels, 0.0, out="excluded")
        bound = b.reshape(_most(b, gamma), shape=(gamma.shape[0], 1), out="bound")  # of every weighted probability
        least = b.neg(_most(b, b.neg(b.where(included, weighted, bound))), out="least")
        most = _most(b, b.where(excluded, weighted, 0.0), "most")
        odds = validity if self.validity_temperature == 1 else validity * (1 / self.validity_temperature)
        if classes:
            odds = b.add(odds, b.cross_entropy(of_samples[0], classes[0]), out="odds")
        ratio = b.exp(b.minimum(odds, LARGEST, out="log_odds"))
        return x, b.mul(b.relu(b.op("sub", least, most)), ratio, out="ratio")


def _most(b: Builder, x: Var, out: str = "") -> Var:
    """f32[B]: the greatest of x f32[B, K]."""
    return b.max(x, axes=(1,), keepdims=False, out=out)
