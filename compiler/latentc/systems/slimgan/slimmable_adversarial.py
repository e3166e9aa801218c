"""A generator of several widths against a discriminator for each, whose narrow widths imitate wider ones.

Symbols: B batch, W widths.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import OneOf
from latentc.components.contract import Draw, Need, Network, Update
from latentc.components.kit import call
from latentc.components.objective import Objective
from latentc.components.objectives._against_discriminator import DISCRIMINATOR, whole_images
from latentc.components.objectives.terms._score import ScoreTerm
from latentc.components.objectives.terms._term import Round, Side, Term, mean
from latentc.components.objectives.terms.hinge import Hinge
from latentc.components.parts import Problem, Spec
from latentc.components.sums import summed
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.types import B
from latentc.systems.slimgan.slimmable_discriminator import SlimmableDiscriminator
from latentc.systems.slimgan.slimmable_generator import SlimmableGenerator, width_method


class SlimmableAdversarial(Objective):
    """`main` at each of its widths against a copy of `discriminator` (SlimGAN, Hou et al. 2021, arXiv:2012.05660).

    The losses of all widths are added up. Distillation adds the squared distance of each width's sample from the sample
    that the next width (`stepwise`) or the widest makes of the same noise, which gets no gradient.
    """

    kind: Literal["slimmable_adversarial"]
    term: Annotated[Term, OneOf("objectives/terms", named=True)] = Field(
        Hinge(kind="hinge"), description="the loss of each width: a term on the score"
    )
    distillation: float = Field(20.0, ge=0, le=1e6, description="weight of the distillation; 0: none")
    stepwise: bool = Field(True, description="each width imitates the next, rather than the widest")
    discriminator_steps: int = Field(
        5, gt=0, le=64, description="optimiser steps of the discriminators per step of the generator"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "slimmable_adversarial"}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return Need("main", "generate_at_widths"), Need(DISCRIMINATOR, "discriminate")

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if not isinstance(self.term, ScoreTerm):
            message = f"`{self.term.kind}` is no loss of the score"
            yield Problem(("term",), message, "use `hinge`, `non_saturating`, `least_squares` or `wasserstein`")
        main, discriminator = spec.networks.get("main"), spec.networks.get(DISCRIMINATOR)
        widths = len(main.widths) if isinstance(main, SlimmableGenerator) else 0
        copies = discriminator.copies if isinstance(discriminator, SlimmableDiscriminator) else 1
        if widths and widths != copies:
            message = f"`main` has {widths} widths, but `{DISCRIMINATOR}` has {copies} copies"
            mend = f"use `networks.{DISCRIMINATOR}: {{kind: slimmable_discriminator, copies: {widths}, …}}`"
            yield Problem((), message, mend)
        if discriminator is not None and discriminator.takes(spec):
            message = f"`{DISCRIMINATOR}` takes a condition, but `main` takes none"
            yield Problem((), message, f"set `networks.{DISCRIMINATOR}.projection: false`")
        if discriminator is not None and "sliced" in discriminator.outputs(spec):
            message = f"no term trains the direction of `{DISCRIMINATOR}`'s last layer"
            yield Problem((), message, f"set `networks.{DISCRIMINATOR}.sliced: false`")

    def trained(self, spec: Spec) -> tuple[str, ...]:
        return "main", DISCRIMINATOR

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        whole_images(networks[DISCRIMINATOR], f"objective `{self.kind}` judges")
        widths = _widths(networks)
        updates = (self._of_discriminator(mb, networks, widths), self._of_generator(mb, networks, widths))
        mb.entries |= {update.loss: update.loss for update in updates}
        return updates

    def _of_discriminator(self, mb: ModuleBuilder, networks: Mapping[str, Network], widths: int) -> Update:
        b, discriminator = mb.function("loss.discriminator"), networks[DISCRIMINATOR]
        x = b.input("x", discriminator.methods["forward"].input("state").type)
        noise, drawn, costs = _noise(b, networks, widths), dict[str, tuple[Draw, Var]](), []
        for i, z in enumerate(noise):
            made = b.stop_gradient(_made(b, networks, i, z, f"made_{i}"), out=f"made_{i}")
            # One call, so that spectral norms take one step.
            scores = _judged(b, networks, i, b.concat(x, made, axis=0, out="images"))
            of_data, of_samples = b.split(scores, axis=0, sizes=(B, B), out=f"of_data_{i} of_samples_{i}")
            sides = Side(made, {}, None, {"score": of_samples}), Side(x, {}, None, {"score": of_data})
            round = Round(b, discriminator, *sides, drawn=drawn)
            costs.append(self.term.of_discriminator(round))
        b.output(_total(b, costs), *costs)
        b.finish("The sum of the losses of the discriminators of all widths, then each.")
        draws = (*_draws(widths), *round.draws)
        metrics = tuple(f"{DISCRIMINATOR}/{name}" for name in _names(widths))
        trained, name = (DISCRIMINATOR,), DISCRIMINATOR
        return Update("loss.discriminator", trained, ("x",), draws, metrics, name, self.discriminator_steps)

    def _of_generator(self, mb: ModuleBuilder, networks: Mapping[str, Network], widths: int) -> Update:
        b, discriminator = mb.function("loss.generator"), networks[DISCRIMINATOR]
        costs = []
        for i, z in enumerate(_noise(b, networks, widths)):
            made = _made(b, networks, i, z, f"made_{i}")
            side = Side(made, {}, None, {"score": _judged(b, networks, i, made)})
            costs.append(self.term.of_generator(Round(b, discriminator, side)))
        total, shown, draws = _total(b, costs), list(costs), _draws(widths)
        names = _names(widths)
        if self.distillation:
            z = b.input("z", networks["main"].methods["forward"].input("noise").type)
            imitated = [_made(b, networks, i, z, f"imitated_{i}") for i in range(widths)]
            errors = []
            for i, sample in enumerate(imitated[:-1]):
                wanted = b.stop_gradient(imitated[i + 1 if self.stepwise else -1], out="wanted")
                away = b.op("sub", sample, wanted, out="away")
                errors.append(mean(b, away * away))
            distillation = b.mul(_total(b, errors), 1 / len(errors), out="distillation")
            total = b.add(total, distillation * self.distillation, out="loss")
            shown.append(distillation)
            draws, names = (*draws, Draw("z", "normal")), (*names, "distillation")
        b.output(total, *shown)
        b.finish("The loss of the generator at all widths, then that of each and the distillation.")
        metrics = tuple(f"generator/{name}" for name in names)
        return Update("loss.generator", ("main",), (), draws, metrics, "generator")


def _widths(networks: Mapping[str, Network]) -> int:
    """How many widths the generator has."""
    return sum(method.startswith("forward") for method in networks["main"].methods)


def _names(widths: int) -> tuple[str, ...]:
    return ("loss", *(f"width_{i}" for i in range(widths)))


def _draws(widths: int) -> tuple[Draw, ...]:
    return tuple(Draw(f"z_{i}", "normal") for i in range(widths))


def _noise(b: Builder, networks: Mapping[str, Network], widths: int) -> list[Var]:
    of = networks["main"].methods["forward"].input("noise").type
    return [b.input(draw.name, of) for draw in _draws(widths)]


def _made(b: Builder, networks: Mapping[str, Network], number: int, z: Var, out: str) -> Var:
    """The sample of a width."""
    return call(b, networks["main"], width_method(number, _widths(networks)), {}, noise=z, out=out)


def _judged(b: Builder, networks: Mapping[str, Network], number: int, images: Var) -> Var:
    """The scores by the copy of the discriminator for a width."""
    method = width_method(number, _widths(networks))
    return call(b, networks[DISCRIMINATOR], method, {}, state=images, out="score")


def _total(b: Builder, costs: list[Any]) -> Var:
    return summed(b, "loss", costs)
