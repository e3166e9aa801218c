"""Discriminators for the widths of a slimmable generator, which share their first levels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.networks.resnet_discriminator import ResnetDiscriminator
from latentc.components.parts import Problem, Spec
from latentc.systems.slimgan.slimmable_generator import SlimmableGenerator, width_method


class SlimmableDiscriminator(ResnetDiscriminator):
    """A resnet_discriminator per width of a slimmable generator (SlimGAN, Hou et al. 2021, arXiv:2012.05660)."""

    kind: Literal["slimmable_discriminator"]  # type: ignore[assignment]
    copies: int = Field(4, gt=1, le=16, description="number of discriminators, one per width; the last is `forward`")
    shared_levels: int = Field(0, ge=0, le=64, description="number of leading levels that all copies share")
    EXAMPLE: ClassVar[dict[str, Any]] = {**ResnetDiscriminator.EXAMPLE, "kind": "slimmable_discriminator", "copies": 2}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if not isinstance(spec.networks.get("main"), SlimmableGenerator):
            message = "there is a copy per width of a slimmable generator, but `main` has one width"
            yield Problem((), message, "use `kind: resnet_discriminator`")
        if self.shared_levels > len(self.channel_multipliers):
            message = f"`shared_levels: {self.shared_levels}` of {len(self.channel_multipliers)} levels"
            yield Problem(("shared_levels",), message, "use no more than there are")

    def forwards(self) -> Mapping[str, Callable[[str], str]]:
        return {width_method(i, self.copies): Copy(i, self.shared_levels) for i in range(self.copies)}


@dataclass(frozen=True)
class Copy:
    """The paths of a copy's parameters: blocks of the first `shared` levels belong to all copies."""

    number: int
    shared: int

    def __call__(self, name: str) -> str:
        place, _, level = name.partition(".")
        if level and int(level) < self.shared:
            return name
        return f"copies.{self.number}.{place}" + (f".{int(level) - self.shared}" if level else "")
