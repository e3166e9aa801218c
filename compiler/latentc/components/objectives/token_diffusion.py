"""Diffusion of each hidden token by itself, given the features of the others: MAR's loss.

Symbols: B batch, T tokens of a sample, C channels of a token, K repeats.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Draw, Need, Network, Update
from latentc.components.kit import Conditions, call
from latentc.components.kit.patches import patch_side, patchify
from latentc.components.objectives._common import publish
from latentc.components.objectives.denoising import noised
from latentc.components.objectives.diffusion import DiffusionLoss
from latentc.components.parts import Problem
from latentc.ir.builder import ModuleBuilder, f32, i64
from latentc.ir.types import B, Named

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class TokenDiffusion(DiffusionLoss):
    """The diffusion loss of network `head` on the hidden tokens, given features of `main` (MAR, arXiv:2406.11838).

    A fraction r of each sample's tokens is hidden, r normal with mean 1, truncated to [`least_hidden`, 1].
    """

    kind: Literal["token_diffusion"]
    least_hidden: float = Field(0.7, gt=0, lt=1, description="least fraction of the tokens that is hidden")
    deviation: float = Field(0.25, gt=0, description="standard deviation of the hidden fraction")
    repeats: int = Field(4, gt=0, le=64, description="times and noises drawn per token and evaluation of `main` (K)")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "token_diffusion",
        "process": {"kind": "discrete", "schedule": "cosine", "steps": 100},
        "repeats": 2,
    }

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return (Need("main", "masked_features"), Need("head", "denoise"))

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        yield from self.parameterization().noise_problems(spec, f"objective `{self.kind}`")

    def trained(self, spec: Spec) -> tuple[str, ...]:
        heads = ("head",) if getattr(spec.networks.get("head"), "trainable", True) else ()
        return (*super().trained(spec), *heads)

    def most_known(self, tokens: int) -> int:
        return math.ceil((1 - self.least_hidden) * tokens)

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        main, head, conditions = networks["main"], networks["head"], Conditions(spec, networks)
        _, count, channels = main.methods["forward"].input("state").type.shape
        length, size, repeats = Named(int(count), "T"), int(channels), self.repeats  # type: ignore[arg-type]
        rows = B * (repeats * int(length))
        b = mb.function("loss.terms")
        assert spec.data.shape is not None
        x = b.input("x", f32(B, *spec.data.shape))
        given = conditions.inputs(b, by_field=True)
        z, order = b.input("fraction", f32(B)), b.input("order", i64(B, length))
        draw = self.parameterization().process.draw()
        shape = (B, repeats, length)
        drawn = b.input(draw.name, i64(*shape) if draw.distribution == "integers" else f32(*shape))
        noise = b.input("noise", f32(*shape, size))
        told = conditions.dropped(b, conditions.operands(b, given))
        tokens = patchify(b, x, patch_side(size, spec.data.shape[0]))
        fraction = b.op("sub", 1.0, b.mul(b.abs(z), self.deviation), out="fraction")
        most = b.reshape(b.mul(fraction, float(length)), shape=(B, 1), out="most")
        hidden = b.cast(b.less(b.cast(b.argsort(order, out="rank"), to="f32"), most), to="f32", out="hidden")
        method = "forward_known" if "forward_known" in main.methods else "forward"
        features = call(b, main, method, told, state=tokens, mask=hidden, out="features")

        def repeated(v: Any, width: int, out: str) -> Any:
            v = b.reshape(v, shape=(B, 1, length, width))
            return b.reshape(b.broadcast_to(v, v, shape=(B, repeats, length, width)), shape=(rows, width), out=out)

        width = int(features.shape[2])
        x0, features = repeated(tokens, size, "x0"), repeated(features, width, "features")
        drawn, noise = b.reshape(drawn, shape=(rows,), out=draw.name), b.reshape(noise, shape=(rows, size), out="noise")
        target = self.parameterization()
        at = noised(b, target, x0, self.needs_derivatives(target), (drawn, noise))
        out = call(b, head, "forward", {"z": features}, state=at.scaled, time=at.told, out="prediction")
        terms = self.terms(b, target, at.point, x0, at.x_t, at.noise, out, at.t)
        terms = self.weighed(b, networks, at.told, terms)
        names = ("loss", "mse", "vb")[: len(terms)]
        weight = b.div(hidden, b.sum(hidden, axes=(1,), keepdims=True), out="weight")
        for term, name in zip(terms, names, strict=True):
            term = b.mean(b.reshape(term, shape=shape), axes=(1,), keepdims=False)
            b.output(b.sum(term * weight, axes=(1,), keepdims=False, out=name))
        b.finish("The diffusion loss of the hidden tokens, one value per sample each.")
        bound = {"bound": (1 - self.least_hidden) / self.deviation}
        draws = (
            Draw("fraction", "truncated_normal", bound),
            Draw("order", "permutation"),
            draw,
            Draw("noise", "normal"),
            *conditions.draws(),
        )
        return publish(mb, names, ("x", *conditions.fields), draws, self.trained(spec))
