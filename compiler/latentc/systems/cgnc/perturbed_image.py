"""An image, perturbed for a classifier to see a wanted class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Network, Program
from latentc.components.kit import Conditions, call
from latentc.components.parts import Spec
from latentc.components.sampler import Sampler
from latentc.ir.builder import ModuleBuilder


class PerturbedImage(Sampler):
    """Adds the perturbation that a generator makes of an image and a wanted class, and clips to [-1, 1].

    Nothing is drawn, so the seed does not matter (CGNC, arXiv:2407.10179).
    """

    kind: Literal["perturbed_image"]
    guidance: None = Field(None, description="always null: there is no guidance")
    NEEDS = "perturb"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "perturbed_image"}

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `sample.1`: the image and the class -> the perturbed image."""
        network, conditions = networks["main"], Conditions(spec, networks)
        b = mb.function("sample.1")
        operands = conditions.operands(b, conditions.inputs(b))
        (image,) = (operands[port.name] for port in network.methods["forward"].inputs if port.type.rank == 4)
        perturbation = call(b, network, "forward", operands, out="perturbation")
        b.output(b.clamp(image + perturbation, low=-1.0, high=1.0, out="x"))
        mb.entries["sample.1"] = b.finish("Perturbs the image.")
        return Program("sample.1", self.kind, 1, 1, conditions.sources())
