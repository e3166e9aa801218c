"""Adversarial training whose classes are clusters of the discriminator's features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import CLUSTERED, Clustering, Need, Network, Update
from latentc.components.kit import call
from latentc.components.objectives._against_discriminator import DISCRIMINATOR
from latentc.components.objectives.adversarial import Adversarial, Game
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import ModuleBuilder


class SelfConditioned(Adversarial):
    """A GAN whose classes are clusters of the data (Liu et al. 2020, arXiv:2006.10728); labels are not read.

    `data.classes` is the number of clusters. Every `every` steps they are those of k-means of the discriminator's last
    features, from the means of the last ones, and renumbered so that as many samples as possible keep their cluster.
    Samples are made for the clusters of a batch of data, as many of each as there are.
    """

    kind: Literal["self_conditioned"]  # type: ignore[assignment]
    every: int = Field(
        10_000, gt=0, le=1_000_000_000, description="steps between clusterings; the first is that before training"
    )
    start: int = Field(0, ge=0, le=1_000_000_000, description="step up to which the first clustering stays")
    clustered: int | None = Field(
        None,
        gt=0,
        le=1_000_000_000,
        description="samples that k-means sees, drawn once; the others get the nearest mean; null: all",
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "self_conditioned", "every": 2}

    @property
    def clustering(self) -> Clustering:
        return Clustering(DISCRIMINATOR, self.every, self.start, self.clustered)

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return *super().needs(spec), Need(DISCRIMINATOR, "describe")

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        players = [spec.networks.get(name) for name in ("main", DISCRIMINATOR)]
        if spec.data.classes < 2 or any(n is not None and "class" not in n.takes(spec) for n in players):
            message = "the clusters are the classes of both networks, but one of them takes no class"
            mend = "add `conditioning.class: {kind: label, dropout: 0}`, and the number of clusters as `data.classes`"
            yield Problem((), message, mend)
        if self.clustered is not None and self.clustered < spec.data.classes:
            message = f"{self.clustered} samples cannot have {spec.data.classes} clusters"
            yield Problem(("clustered",), message, "give more, or null for all")
        if self.generator_batch > 1:
            message = "samples are made for the clusters of a batch of data, which is no larger than its own size"
            yield Problem(("generator_batch",), message, "leave it out")

    def game(self, networks: Mapping[str, Network], spec: Spec) -> Game:
        return _OfClusters(self.terms, self.augment, networks, spec)

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        updates, discriminator = super().build(mb, networks, spec), networks[DISCRIMINATOR]
        b = mb.function(CLUSTERED)
        x = b.input("x", discriminator.methods["features"].input("state").type)
        b.output(call(b, discriminator, "features", {}, state=x, out="features"))
        mb.entries[CLUSTERED] = b.finish("The features of samples that training clusters.")
        return updates


@dataclass(frozen=True)
class _OfClusters(Game):
    """Samples are made for the clusters of data, which are not equally large."""

    @property
    def given(self) -> bool:
        return True
