"""The base class of couplings: where a flow starts, if not from noise alone."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping

from pydantic import Field

from latentc.components.backbone import not_taken
from latentc.components.parts import Part, Problem, Spec
from latentc.ir.builder import Builder, Var


class Coupling(Part):
    """A base density that depends on a condition, and so on the data (Albergo et al. 2023, arXiv:2310.03725).

    The path x_t = alpha x1 + sigma x0 runs from x0 of that density to the data x1, in training and in sampling.
    """

    condition: str = Field(description="condition that the base distribution depends on")

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if self.condition not in spec.conditions:
            known = ", ".join(spec.conditions) or "none"
            message = f"there is no condition `{self.condition}` for the base density"
            yield Problem(("condition",), message, f"conditions of this spec: {known}")
        yield from not_taken(spec, "main", (self.condition,), "the base density", ("condition",))

    @abstractmethod
    def base(self, b: Builder, noise: Var, operands: Mapping[str, Var]) -> Var:
        """x0 [B, C, ...] from standard normal noise of its type and the operands of the conditions."""

    def confined(self, b: Builder, velocity: Var, operands: Mapping[str, Var]) -> Var:
        """The velocity [B, C, ...] where the path moves; 0 elsewhere."""
        return velocity
