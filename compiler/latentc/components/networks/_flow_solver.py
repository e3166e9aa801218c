"""One step of the inverse of an autoregressive flow: tokens from what the network says of them, under guidance or not.

Symbols: B batch, N tokens of a step, C channels of a token (`features`), D width (`dim`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from latentc.components.networks._flow_block import Flow
from latentc.ir.builder import BlockBody, Builder, Var, f32
from latentc.ir.types import TensorType

Guidance = Literal["none", "tempered", "linear", "density"]
"""How a flow is inverted: under its conditions alone, the same with an attention temperature, or guided away from other
conditions, of scale and shift (TarFlow) or of the densities they stand for (STARFlow)."""


@dataclass(frozen=True)
class Solver:
    """Finds the next tokens by a method of the flow with these static arguments, under guidance or not.

    A branch is its attention temperature, and what steps are told of the conditions.
    """

    parts: Flow
    static: Mapping[str, Any]
    guidance: Guidance

    def __call__(
        self,
        b: Builder,
        method: BlockBody,
        shared: Sequence[Var],
        branches: Sequence[Sequence[Var]],
        rest: Sequence[Var],
        z: Var,
        scale: Sequence[Var],
    ) -> list[Var]:
        """[z * scale + shift, *grown caches]; `rest` are the position and the caches, of both branches."""
        own, *null = branches
        operands = (*shared, *own, *rest)
        fn = b.module.define(
            method, [self._of_one_branch(x, z) for x in operands], self.static, [x.value.name for x in operands]
        )
        caches = 2 * int(self.static["depth"])
        names = " ".join([*self.parts.outputs, *["cache"] * caches])
        if self.guidance == "linear":
            # Indices and position tables have no batch, so both branches share them.
            tables = ("carried",) * (len(shared) - 1)
            shared_kinds = ("shared", *tables)
            kinds = (*shared_kinds, *("conditional",) * len(own), *("carried",) * len(rest))
            guided = {name: self.parts.guides in ("both", name.rpartition("_")[2]) for name in self.parts.outputs}
            guides = (*("guided" if each else "carried" for each in guided.values()), *("carried",) * caches)
            found = b.guided(fn, "", operands, kinds, tuple(null[0]), scale[0], guides, out=names)
            told = [x if each else self._own(b, x, z) for x, each in zip(found, guided.values(), strict=False)]
        elif self.guidance == "density":
            token, *others = shared
            both = [b.concat(x, other, axis=0) for x, other in zip(own, null[0], strict=True)]
            doubled = (b.concat(token, token, axis=0), *others, *both, *rest)
            raw, shift, *grown = b.call(fn, "", *doubled, args=self.static, out=names)
            return [self._guided(b, raw, shift, z, scale[0]), *grown]
        else:
            found = b.call(fn, "", *operands, args=self.static, out=names)
            told = list(found[: len(self.parts.outputs)])
        *raws, shift = told
        for raw in raws:
            z = b.mul(z, self.parts.scale(b, raw))
        return [b.add(z, shift, out="token"), *found[len(told) :]]

    def _own(self, b: Builder, x: Var, z: Var) -> Var:
        """The half of x [2 * B, 1, C] of the branch that the conditions tell."""
        own, _ = b.split(x, axis=0, sizes=(z.shape[0], z.shape[0]), out=f"{x.value.name} other")
        return own  # type: ignore[no-any-return]

    def _guided(self, b: Builder, raw: Var, shift: Var, z: Var, scale: Var) -> Var:
        """The token that z means under p_c (p_c / p_u)^(scale - 1), of the normal densities of both branches.

        That is a normal density again. With w = scale - 1 and s the ratio of their variances, at most 1, its mean is
        ((1 + w) mu_c - w s mu_u) / (1 + w - w s), and its variance that of p_c over the same denominator.
        """
        batch = z.shape[0]
        sigma, other_sigma = b.split(self.parts.scale(b, raw), axis=0, sizes=(batch, batch), out="sigma other_sigma")
        mu, other_mu = b.split(shift, axis=0, sizes=(batch, batch), out="mu other_mu")
        w = b.add(b.reshape(scale, shape=(batch, 1, 1)), -1.0, out="w")
        ratio = b.minimum(sigma / other_sigma, 1.0, out="ratio")
        ws = b.mul(w, ratio * ratio, out="ws")
        total = b.op("sub", w + 1.0, ws, out="total")
        mu = b.div(b.op("sub", (w + 1.0) * mu, ws * other_mu), total, out="mu")
        return b.add(b.mul(z, b.div(sigma, b.sqrt(total), out="sigma")), mu, out="token")  # type: ignore[no-any-return]

    def _of_one_branch(self, x: Var, z: Var) -> TensorType:
        """Caches hold both branches; a method is of one."""
        if x.type.rank != 4:
            return x.type
        heads = self.static.get("kv_heads", self.static["heads"])
        length = self.parts.prefix + self.static["tokens"]
        return f32(z.shape[0], heads, length, self.static.get("head_width", self.static["dim"] // self.static["heads"]))


__all__ = ["Guidance", "Solver"]
