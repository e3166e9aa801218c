"""Two generators between two sets of images without pairs, against a discriminator of each set.

Not `paired_translation`: no sample is known to belong to an image. Symbols: B batch, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from latentc.components.contract import Draw, Need, Network, Update
from latentc.components.kit import Conditions, call
from latentc.components.objective import Objective, not_frozen
from latentc.components.objectives.terms._term import DISCRIMINATOR, mean
from latentc.components.parts import Problem, Spec
from latentc.components.sums import summed
from latentc.ir.builder import Builder, ModuleBuilder, Var

REVERSE, REVERSE_DISCRIMINATOR, POOL = "reverse", "reverse_discriminator", "pool"
"""Networks: the generator from target to source, the judge of its samples, and past samples of both generators."""


class UnpairedTranslation(Objective):
    """Least squares against two discriminators, and a cycle (CycleGAN, Zhu et al. 2017, arXiv:1703.10593).

    `main` makes images like the data's of an image of another set, its condition, and `reverse` the other way;
    `discriminator` judges the samples of `main`, `reverse_discriminator` those of `reverse`. A network `pool`, if there
    is one, replaces half of the samples that they see by past ones. Updates are made on batches of their own.
    """

    kind: Literal["unpaired_translation"]
    cycle: float = Field(
        10.0, ge=0, description="weight of the mean absolute difference of images and their way there and back; 0: none"
    )
    identity: float = Field(
        5.0,
        ge=0,
        description="weight of the mean absolute difference of images and their translation to the set that they are "
        "of (the authors' 0.5 times `cycle`); 0: none",
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "unpaired_translation"}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        generators = (Need(name, "render") for name in ("main", REVERSE))
        judges = (Need(name, "discriminate", outputs=("score",)) for name in (DISCRIMINATOR, REVERSE_DISCRIMINATOR))
        return *generators, *judges, *((Need(POOL, "replay"),) if POOL in spec.networks else ())

    def problems(self, spec: Spec) -> Iterator[Problem]:
        shape = spec.data.shape
        images = [name for name, one in spec.conditions.items() if _shapes(name, one, spec) == [shape]]
        if shape is not None and (len(spec.conditions) != 1 or not images):
            given = ", ".join(f"`{name}`" for name in spec.conditions) or "none"
            message = (
                f"each generator takes images {list(shape)} of the other set alone, but the conditions are {given}"
            )
            mend = "give the data a field `image` of this shape, and write `conditioning: {image: {kind: map}}`"
            yield Problem((), message, mend)

    def trained(self, spec: Spec) -> tuple[str, ...]:
        return *not_frozen(spec, "main", REVERSE), DISCRIMINATOR, REVERSE_DISCRIMINATOR

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        conditions = Conditions(spec, networks)
        updates = (
            self._of_generators(mb, networks, conditions, spec),
            self._of_discriminators(mb, networks, conditions),
        )
        mb.entries |= {update.loss: update.loss for update in updates}
        return updates

    def _of_generators(
        self, mb: ModuleBuilder, networks: Mapping[str, Network], conditions: Conditions, spec: Spec
    ) -> Update:
        sets = _given(mb.function("loss.generator"), networks, conditions)
        b, x, source = sets.b, sets.x, sets.source
        made, made_source = sets.to_target(source, "made"), sets.to_source(x, "made_source")
        scores = (sets.score(DISCRIMINATOR, made), sets.score(REVERSE_DISCRIMINATOR, made_source))
        shown = {"least_squares": summed(b, "least_squares", [mean(b, (s - 1.0) * (s - 1.0)) for s in scores])}
        total = [shown["least_squares"]]
        if self.cycle:
            there_and_back = (
                (sets.to_source(made, "source_again"), source),
                (sets.to_target(made_source, "x_again"), x),
            )
            shown["cycle"] = summed(b, "cycle", [mean(b, b.abs(one - other)) for one, other in there_and_back])
            total.append(shown["cycle"] * self.cycle)
        if self.identity:
            stays = ((sets.to_target(x, "x_itself"), x), (sets.to_source(source, "source_itself"), source))
            shown["identity"] = summed(b, "identity", [mean(b, b.abs(one - other)) for one, other in stays])
            total.append(shown["identity"] * self.identity)
        b.output(summed(b, "loss", total), *shown.values())
        b.finish("The generators' loss, and its terms before they are weighted.")
        metrics = tuple(f"generator/{name}" for name in ("loss", *shown))
        fields = ("x", *conditions.fields)
        return Update("loss.generator", not_frozen(spec, "main", REVERSE), fields, (), metrics, "generator")

    def _of_discriminators(self, mb: ModuleBuilder, networks: Mapping[str, Network], conditions: Conditions) -> Update:
        sets = _given(mb.function("loss.discriminator"), networks, conditions)
        b, draws = sets.b, tuple[Draw, ...]()
        made = [b.stop_gradient(sets.to_target(sets.source, "made"), out="made")]
        made.append(b.stop_gradient(sets.to_source(sets.x, "made_source"), out="made_source"))
        if POOL in networks:
            ports = networks[POOL].methods["forward"].inputs_of("noise")
            noise = [b.input(port.name, port.type) for port in ports]
            made = call(b, networks[POOL], "forward", {}, state=made, noise=noise, out="seen seen_source")
            draws = tuple(
                Draw(port.name, port.distribution or "uniform", {} if port.values is None else {"high": port.values})
                for port in ports
            )
        parts = dict[str, Var]()
        judged = ((DISCRIMINATOR, sets.x, made[0]), (REVERSE_DISCRIMINATOR, sets.source, made[1]))
        for (name, real, fake), prefix in zip(judged, ("", "source_"), strict=True):
            of_data, of_samples = sets.score(name, real, "data"), sets.score(name, fake, "samples")
            parts[f"{prefix}of_data"] = mean(b, (of_data - 1.0) * (of_data - 1.0), f"{prefix}of_data")
            parts[f"{prefix}of_samples"] = mean(b, of_samples * of_samples, f"{prefix}of_samples")
        b.output(b.mul(summed(b, "total", parts.values()), 0.5, out="loss"), *parts.values())
        b.finish("The discriminators' loss, and the least squares of their scores of data and samples.")
        metrics = tuple(f"{DISCRIMINATOR}/{name}" for name in ("loss", *parts))
        trained, fields = (DISCRIMINATOR, REVERSE_DISCRIMINATOR), ("x", *conditions.fields)
        return Update("loss.discriminator", trained, fields, draws, metrics, DISCRIMINATOR)


def _shapes(name: str, condition: Any, spec: Spec) -> list[tuple[Any, ...]]:
    return [port.type.shape[1:] for port in condition.ports(name, spec) if port.type.is_float]


class _Sets(NamedTuple):
    """Images x of the target and those of the `source`, of which none belongs to another."""

    b: Builder
    networks: Mapping[str, Network]
    port: str
    x: Var
    source: Var

    def to_target(self, images: Var, out: str) -> Var:
        """Images translated by `main`."""
        return call(self.b, self.networks["main"], "forward", {self.port: images}, out=out)  # type: ignore[no-any-return]

    def to_source(self, images: Var, out: str) -> Var:
        """Images translated by `reverse`."""
        return call(self.b, self.networks[REVERSE], "forward", {self.port: images}, out=out)  # type: ignore[no-any-return]

    def score(self, judge: str, images: Var, of: str = "samples") -> Var:
        """Scores of the patches of images."""
        prefix = "score" if judge == DISCRIMINATOR else "source_score"
        return call(self.b, self.networks[judge], "forward", {}, state=images, out=f"{prefix}_of_{of}")  # type: ignore[no-any-return]


def _given(b: Builder, networks: Mapping[str, Network], conditions: Conditions) -> _Sets:
    x = b.input("x", networks[DISCRIMINATOR].methods["forward"].input("state").type)
    operands = conditions.operands(b, conditions.inputs(b, by_field=True))
    (port,) = networks["main"].methods["forward"].inputs_of("condition")
    return _Sets(b, networks, port.name, x, operands[port.name])
