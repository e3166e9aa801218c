"""Shared by objectives of autoencoders that compare images with their reconstructions. Symbols: B batch."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from latentc.components.backbone import provided
from latentc.components.contract import Need, Network
from latentc.components.kit import call
from latentc.components.objective import Objective
from latentc.components.objectives.terms._term import mean
from latentc.components.parts import Spec
from latentc.ir.builder import Builder, Var

PERCEPTUAL = "perceptual"
PIXELS = "absolute, squared or Huber's error (absolute, but squared near 0), averaged over pixels"


class Reconstruction(Objective):
    """An objective of `main`, an autoencoder; a frozen network `perceptual`, if there is one, compares images."""

    reconstruction: str
    reconstruction_weight: float = Field(1.0, ge=0, description="weight of the reconstruction error")
    delta: float = Field(
        1.0, gt=0, description="delta of the Huber loss: e^2 / (2 delta) below it, |e| - delta / 2 above"
    )
    perceptual: float = Field(
        1.0,
        ge=0,
        description="weight of the perceptual distance of the network `perceptual`: its own (LPIPS), or for a "
        "classifier the squared difference of its logits",
    )

    def compares(self, spec: Spec) -> tuple[Need, ...]:
        """The capability that the network `perceptual` needs, if there is one."""
        if PERCEPTUAL not in spec.networks:
            return ()
        return (Need(PERCEPTUAL, "classify" if "classify" in provided(spec, PERCEPTUAL) else "compare"),)

    def of_pixels(self, b: Builder, difference: Var) -> Var:
        """The error of each value, of its difference."""
        if self.reconstruction == "l2":
            return difference * difference
        error = b.abs(difference, out="error")
        if self.reconstruction == "l1":
            return error
        small = b.minimum(error, self.delta, out="small")
        return b.mul(small * (error - small * 0.5), 1 / self.delta, out="huber")

    def whole(self, b: Builder, networks: Mapping[str, Network], error: Var, made: Var, x: Var) -> Var:
        """f32[]: the weighted error of pixels, f32[], with the perceptual distance of `made` to x."""
        if self.reconstruction_weight != 1.0:
            error = b.mul(error, self.reconstruction_weight, out="error")
        if PERCEPTUAL in networks and self.perceptual:
            error = b.add(error, _distance(b, networks[PERCEPTUAL], made, x) * self.perceptual, out="error")
        return error


def _distance(b: Builder, network: Network, made: Var, x: Var) -> Var:
    if "compare" in network.provides:
        return mean(b, call(b, network, "forward", {}, state=[made, x], out="distance"), "distance")
    logits = [call(b, network, "forward", {}, state=of, out=f"of_{name}") for of, name in ((made, "made"), (x, "x"))]
    difference = b.op("sub", *logits, out="difference")
    return mean(b, difference * difference, "distance")
