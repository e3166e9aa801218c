"""Regularisation of the lengths of paths from styles to images."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Draw, Need, Network, Update
from latentc.components.kit import Operands, call
from latentc.components.objectives.terms._term import Term, mean
from latentc.components.parts import Fraction
from latentc.ir.builder import Builder, ModuleBuilder, Var

if TYPE_CHECKING:
    from latentc.components.objectives.adversarial import Game

TINY = 1e-12  # under the square root, whose derivative at 0 is infinite
DIRECTION = Draw("direction", "normal")


class PathLengths(Term):
    """(length - average length)^2 in an update of the generator by itself (StyleGAN2, Karras et al. 2020).

    The length is that of the gradient of a random projection of an image by its styles, as a root mean square over the
    layers, arXiv:1912.04958, section 3.2. The generator keeps the average, which this update's lengths move first.
    """

    kind: Literal["path_lengths"]
    weight: float = Field(2.0, gt=0, description="weight of the term")
    every: int = Field(
        4, gt=0, le=1_000_000, description="steps between penalties, with a weight as many times as large"
    )
    decay: Fraction = Field(0.99, description="decay of the average, per update")
    READS: ClassVar[tuple[str, ...]] = ()
    REACHES_GENERATOR: ClassVar[bool] = False
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "path_lengths"}

    def needs(self, place: tuple[str | int, ...]) -> tuple[Need, ...]:
        asks = {"path_average": self.decay}
        return (Need("main", "generate_by_style", (), place, f"the term `{self.kind}`", asks),)

    def updates(self, mb: ModuleBuilder, number: int, game: Game) -> tuple[Update, ...]:
        name, generator, conditions = f"{self.kind}_{number}", game.networks["main"], game.conditions
        projected = projection(mb, generator)
        b = mb.function(f"loss.{name}")
        of_data = conditions.operands(b, conditions.inputs(b, by_field=True)) if game.given else {}
        noise, cond = game.asked(b, of_data)
        value, length = self._of_paths(b, generator, cond, noise, projected)
        b.output(b.mul(value, self.weight * self.every, out="loss"), value, length)
        b.finish("The loss of the generator every few steps, then the term itself, then the mean length.")
        metrics = (f"{name}/loss", f"{name}/{self.kind}", f"{name}/length")
        fields = conditions.fields if game.given else ()
        update = Update(f"loss.{name}", ("main",), fields, (*game.draws, DIRECTION), metrics, name)
        return (replace(update, every=self.every, partial=True),)

    def _of_paths(
        self, b: Builder, generator: Network, cond: Operands, noise: list[Var], projected: str
    ) -> tuple[Var, Var]:
        """The penalty f32[] and the mean length, of samples of this noise; `projected`: see `projection`."""
        count = len(generator.methods["styles"].inputs_of("noise"))
        ws = call(b, generator, "styles", cond, noise=noise[:count], out="ws")
        image = generator.methods["synthesize"].output().type
        pixels = int(image.shape[2]) * int(image.shape[3])  # type: ignore[arg-type]
        direction = b.input(DIRECTION.name, image) * (1 / math.sqrt(pixels))
        _, slope = b.gradient(projected, "", [ws, *noise[count:], direction], out="projection slope")
        squared = b.mean(b.sum(slope * slope, axes=(2,), keepdims=False), axes=(1,), keepdims=False, out="squared")
        lengths = b.sqrt(squared + TINY, out="lengths")
        before = call(b, generator, "path_average", {}, state=lengths, out="before")
        length = mean(b, lengths, "length")
        average = b.add(before * self.decay, length * (1 - self.decay), out="average")
        excess = b.op("sub", lengths, average, out="excess")
        return mean(b, excess * excess, self.kind), length


def projection(mb: ModuleBuilder, generator: Network) -> str:
    """Adds the projection f32[B] of images on directions [B, C, H, W], by styles and noise; its name."""
    synthesize = generator.methods["synthesize"]
    b = mb.function(f"{generator.name}.projected")
    ws = b.input("ws", synthesize.input("state").type)
    noise = [b.input(port.name, port.type) for port in synthesize.inputs_of("noise")]
    direction = b.input(DIRECTION.name, synthesize.output().type)
    image = call(b, generator, "synthesize", {}, state=ws, noise=noise, out="image")
    axes = tuple(range(1, image.type.rank))
    b.output(b.sum(image * direction, axes=axes, keepdims=False, out="projection"))
    return b.finish("The projection of images on directions, one value per sample.")
