"""A denoiser's loss of each hidden token by itself, given features of the others.

Symbols: B batch, T tokens of a sample, C channels of a token, D channels of its features, K repeats.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from latentc.components.contract import Draw, Need, Network, Update
from latentc.components.kit import Conditions, Operands, call
from latentc.components.kit.patches import patch_side, patchify
from latentc.components.objective import not_frozen
from latentc.components.objectives._common import publish
from latentc.components.objectives.denoising import DenoisingLoss, Terms, noised
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, ModuleBuilder, Var, f32, i64
from latentc.ir.types import B, Named


@dataclass(frozen=True)
class Hidden:
    """Samples with hidden tokens: the conditions, none dropped; tokens f32[B, T, C]; features f32[B, T, D] by `main`;
    `weight` f32[B, T], which sums to 1 over the hidden tokens of a sample.
    """

    conditions: Operands
    tokens: Var
    features: Var
    weight: Var


class HiddenTokens(DenoisingLoss):
    """The loss of network `head` on the hidden tokens, given features of `main`.

    A fraction r of each sample's tokens is hidden, r normal with mean 1, truncated to [`least_hidden`, 1].
    """

    least_hidden: float = Field(0.7, gt=0, lt=1, description="minimum fraction of hidden tokens")
    deviation: float = Field(0.25, gt=0, description="standard deviation of the hidden fraction")
    repeats: int = Field(4, gt=0, le=64, description="times and noises drawn per token and evaluation of `main` (K)")

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        masked = Need("main", "masked_features", asks={"most_known": self._most_known})
        return (masked, Need("head", "denoise"))

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        yield from self.parameterization().noise_problems(spec, f"objective `{self.kind}`")

    def trained(self, spec: Spec) -> tuple[str, ...]:
        return (*super().trained(spec), *not_frozen(spec, "head"))

    def _most_known(self, tokens: int) -> int:
        """How many of a sample's `tokens` are visible at most."""
        return math.ceil((1 - self.least_hidden) * tokens)

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        main, conditions = networks["main"], Conditions(spec, networks)
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
        whole = conditions.operands(b, given)
        cond = conditions.dropped(b, whole)
        tokens = patchify(b, x, patch_side(size, spec.data.shape[0]))
        fraction = b.op("sub", 1.0, b.mul(b.abs(z), self.deviation), out="fraction")
        most = b.reshape(b.mul(fraction, float(length)), shape=(B, 1), out="most")
        hidden = b.cast(b.less(b.cast(b.argsort(order, out="rank"), to="f32"), most), to="f32", out="hidden")
        method = "forward_known" if "forward_known" in main.methods else "forward"
        features = call(b, main, method, cond, state=tokens, mask=hidden, out="features")

        def repeated(v: Any, width: int, out: str) -> Any:
            v = b.reshape(v, shape=(B, 1, length, width))
            return b.reshape(b.broadcast_to(v, v, shape=(B, repeats, length, width)), shape=(rows, width), out=out)

        kept, width = features, int(features.shape[2])
        x0, features = repeated(tokens, size, "x0"), repeated(features, width, "features")
        drawn, noise = b.reshape(drawn, shape=(rows,), out=draw.name), b.reshape(noise, shape=(rows, size), out="noise")
        terms = self.of_tokens(b, networks["head"], x0, features, (drawn, noise))
        weight = b.div(hidden, b.sum(hidden, axes=(1,), keepdims=True), out="weight")
        for name, term in terms.items():
            term = b.mean(b.reshape(term, shape=shape), axes=(1,), keepdims=False)
            terms[name] = b.sum(term * weight, axes=(1,), keepdims=False, out=name)
        terms = self.with_others(b, networks, terms, Hidden(whole, tokens, kept, weight))
        b.output(*terms.values())
        b.finish(self.says())
        bound = {"bound": (1 - self.least_hidden) / self.deviation}
        draws = (
            Draw("fraction", "truncated_normal", bound),
            Draw("order", "permutation"),
            draw,
            Draw("noise", "normal"),
            *conditions.draws(),
        )
        return publish(mb, tuple(terms), ("x", *conditions.fields), draws, self.trained(spec))

    def with_others(self, b: Builder, networks: Mapping[str, Network], terms: Terms, of: Hidden) -> Terms:
        """The loss and its terms, f32[B] each, with other terms of the features of `main`."""
        return terms

    def of_tokens(self, b: Builder, head: Network, x0: Var, features: Var, draws: tuple[Var, Var]) -> Terms:
        """The loss of `head` for each of N tokens x0 f32[N, C] with features f32[N, D], and its parts, f32[N] each.

        `draws`: that of the time, [N], and the noise f32[N, C].
        """
        at = noised(b, self.parameterization(), x0, draws)
        roles = {"state": at.scaled, "time": at.network_time}
        return self.loss(at, call(b, head, "forward", {"z": features}, out="prediction", **roles))
