"""Training of a translator from conditions to the latents of a frozen generator, on its own samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Draw, Need, Network, Update
from latentc.components.kit import call
from latentc.components.objective import Objective
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import ModuleBuilder
from latentc.systems.tr0n.latents import observed, observer_need, observer_problems


class LatentTranslation(Objective):
    """Trains `translator` to predict the latent z from what a frozen network sees in the sample that `main` makes of z
    (TR0N, Liu et al. 2023, arXiv:2304.13742).

    Needs no data: z is normal, and the condition is the class that network `observer` predicts for the sample, or its
    encoding. Minimises the negative log-likelihood of z.
    """

    kind: Literal["latent_translation"]
    observer: str = Field("observer", description="one of `networks`: a frozen classifier or encoder of images")
    noise: float = Field(
        0.0, ge=0, le=100, description="standard deviation of noise added to encodings (0.2 for CLIP's of captions)"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "latent_translation"}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return Need("main", "generate"), Need("translator", "translate"), observer_need(self.observer, spec)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from observer_problems(self.observer, spec)
        if self.noise and observer_need(self.observer, spec).capability == "classify":
            yield Problem(("noise",), "noise is added to encodings, but the condition is a class", "leave it out")

    def trained(self, spec: Spec) -> tuple[str, ...]:
        return ("translator",)

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        main, translator = networks["main"], networks["translator"]
        b = mb.function("loss")
        z = b.input("z", main.methods["forward"].input("noise").type)
        made = call(b, main, "forward", {}, noise=z, out="made")
        (port,) = translator.methods["forward"].inputs
        c = observed(b, networks[self.observer], made, out=port.name)
        draws = [Draw("z", "normal")]
        if self.noise:
            c = b.add(c, b.input("noise", port.type) * self.noise, out=port.name)
            draws.append(Draw("noise", "normal"))
        c = b.stop_gradient(c, out=port.name)
        density = call(b, translator, "log_prob", {port.name: c}, state=z, out="log_prob")
        b.output(b.neg(b.mean(density, axes=(0,), keepdims=False), out="loss"))
        b.finish("The negative log-likelihood of latents, given the features of their samples.")
        mb.entries["loss"] = "loss"
        return (Update("loss", ("translator",), (), tuple(draws), ("loss",)),)
