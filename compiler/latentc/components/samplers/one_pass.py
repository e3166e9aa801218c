"""One run of a generator: noise and a class in, a sample out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Network, SampleProgram
from latentc.components.parts import Guidance, Problem, Sampler
from latentc.ir.builder import ModuleBuilder, f32, i64
from latentc.ir.types import B
from latentc_runtime.sources import ConditionSource, RandomSource, Setting, Source

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class OnePass(Sampler):
    """Runs a generator once, on normal noise that may be truncated (BigGAN, section 3.1).

    Truncation t draws from the normal distribution between -t and t, as drawing again whatever is beyond does; here it
    is the inverse of its cumulative distribution at one uniform number each. Smaller t: better samples, less varied.
    """

    kind: Literal["one_pass"]
    truncation: float | None = Field(
        None, gt=0, description="default bound of the noise's magnitude; null: none. A request may give another"
    )
    guidance: Guidance | None = Field(None, description="none: a generator is not guided")
    families: ClassVar[tuple[str, ...]] = ("generator",)
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "one_pass", "truncation": 0.5}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if self.guidance is not None:
            yield Problem(("guidance",), "a generator is not guided", "leave it out; `truncation` trades variety")

    def with_steps(self, steps: int) -> OnePass:
        return self

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> SampleProgram:
        """Adds entry `sample.1`: z f32[B, Z], y i64[B] -> f32[B, C, H, W]."""
        network = networks["main"]
        b = mb.function("sample.1")
        z, y = b.input("z", f32(B, network.latent)), b.input("y", i64(B))
        b.output(b.call(network.methods["forward"], "main", z, y, out="x"))
        mb.entries["sample.1"] = b.finish(doc="Runs the generator once.")
        z_source = RandomSource("truncated_normal", "z", settings={"bound": "truncation"})
        sources: dict[str, Source] = {"z": z_source, "y": ConditionSource("class")}
        truncation = Setting("truncation", self.truncation, low=0.0, closed=False, unlimited=True)
        return SampleProgram("sample.1", self.kind, 1, 1, sources, (truncation,))
