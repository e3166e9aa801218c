"""The response of a generator's features to a change of the latent, compared with that of a frozen generator.

Symbols: B batch, Z dimension of the latent.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone
from latentc.components.contract import Draw, Need, Network
from latentc.components.kit import call
from latentc.components.objectives.terms._term import Round, Term, mean
from latentc.components.parts import Problem, Refusal, Spec
from latentc.components.sums import summed
from latentc.ir.builder import Builder, Var
from latentc.ir.types import B

SOURCE = "source"
"""Name of the frozen network that `main` starts from."""
DIRECTION = Draw("direction", "normal")


class Smoothness(Term):
    """Mean absolute difference of the responses of features to a change of the latent, of `main` and the frozen network
    `source`, summed over layers, in the generator's loss (Sushko et al. 2023, arXiv:2308.09717).

    The response of a layer to a normal change of the latent is the difference quotient of its feature map, the
    derivative in that direction but for `step`. The features themselves may become those of other images.
    """

    kind: Literal["smoothness"]
    weight: float = Field(1.0, gt=0, description="weight of the term")
    step: float = Field(0.1, gt=0, le=100, description="standard deviation of the change of the latent")
    READS: ClassVar[tuple[str, ...]] = ()
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "smoothness"}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        source = spec.networks.get(SOURCE)
        if isinstance(source, Backbone) and source.trainable:
            message = f"network `{SOURCE}` is not frozen, so `main` would be compared with what training makes of it"
            yield Problem((), message, f"name its checkpoint in `networks.{SOURCE}.pretrained`")

    def needs(self, place: tuple[str | int, ...]) -> tuple[Need, ...]:
        who = f"the term `{self.kind}`"
        return tuple(Need(name, "generate_with_features", (), place, who) for name in ("main", SOURCE))

    def of_generator(self, round: Round) -> Var | None:
        b, (z,) = round.b, round.fake.noise
        moved = b.add(z, round.draw(DIRECTION, z.type) * self.step, out="moved")
        both = b.concat(z, moved, axis=0, out="both")  # one call, so that batch norms see the same batch
        cond = {name: b.concat(x, x, axis=0) for name, x in round.fake.conditions.items()}
        own, wanted = (self._responses(b, round.networks[name], both, cond) for name in ("main", SOURCE))
        if [x.type for x in own] != [x.type for x in wanted]:
            message = f"the layers of `main` and `{SOURCE}` differ, so their features cannot be compared"
            raise Refusal(message, "give both networks the same sizes")
        apart = (b.op("sub", x, b.stop_gradient(y)) for x, y in zip(own, wanted, strict=True))
        return summed(b, self.kind, [mean(b, b.abs(x)) for x in apart])

    def _responses(self, b: Builder, network: Network, both: Var, cond: dict[str, Var]) -> list[Var]:
        """Difference quotients of each layer's features f32[B, C, H, W], of latents f32[2 B, Z] before and after."""
        count = len(network.methods["features"].outputs)
        outs = " ".join(f"{network.name}_{i}" for i in range(count))
        found = []
        for x in call(b, network, "features", cond, noise=both, out=outs):
            before, after = b.split(x, axis=0, sizes=(B, B), out="before after")
            found.append(b.mul(b.op("sub", after, before), 1 / self.step, out="response"))
        return found
