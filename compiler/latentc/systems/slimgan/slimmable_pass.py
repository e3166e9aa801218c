"""One run of a slimmable generator, at one of its widths."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.parts import Problem, Spec
from latentc.components.samplers.one_pass import OnePass
from latentc.systems.slimgan.slimmable_generator import SlimmableGenerator, width_method


class SlimmablePass(OnePass):
    """Runs a slimmable generator once, as `one_pass` does, at one of its widths (SlimGAN, arXiv:2012.05660)."""

    kind: Literal["slimmable_pass"]  # type: ignore[assignment]
    width: float | None = Field(None, gt=0, le=1, description="one of the generator's `widths`; null: the last")
    NEEDS = "generate_at_widths"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "slimmable_pass"}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        main = spec.networks.get("main")
        if isinstance(main, SlimmableGenerator) and self.width is not None and self.width not in main.widths:
            message = f"`main` has the widths {', '.join(map(str, main.widths))}, not {self.width}"
            yield Problem(("width",), message, "leave it out for the whole width")

    def method(self, spec: Spec) -> str:
        main = spec.networks["main"]
        if self.width is None or not isinstance(main, SlimmableGenerator):
            return super().method(spec)
        return width_method(main.widths.index(self.width), len(main.widths))
