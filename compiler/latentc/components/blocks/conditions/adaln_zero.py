"""The condition as scale, shift and gate of every block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.blocks.stochastic_depth import dropped
from latentc.components.decoding import Given
from latentc.components.parts import BlockCondition, BlockParts, Mix, Mixer, Norm, dense
from latentc.ir.builder import Builder, Var


class AdalnZero(BlockCondition):
    """Norms are scaled and shifted and branches gated by a zero-initialised linear map of the condition (DiT)."""

    kind: Literal["adaln_zero"]
    feed_forward_eps: float | None = Field(
        None, gt=0, description="eps of the norm before the feed-forward; null: that of `norm`"
    )
    OPERANDS: ClassVar[tuple[str, ...]] = ("c",)
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "adaln_zero"}

    @property
    def takes_any_width(self) -> bool:
        return True

    def names(self, mixer: Mixer, masked: bool) -> tuple[str, str]:
        if masked:
            doc = "A transformer block whose tokens see those where `mask` is true; c [B, D] scales, shifts and gates."
            return "MaskedDiTBlock", doc
        return (
            "DiTBlock",
            "A transformer block conditioned by adaLN-Zero: c [B, D] scales, shifts and gates both branches.",
        )

    def second_norm(self, norm: Norm) -> Norm:
        """The norm before the feed-forward layer."""
        return norm if self.feed_forward_eps is None else norm.model_copy(update={"eps": self.feed_forward_eps})

    def modulations(self, mixer: Mixer) -> tuple[str, ...]:
        """The outputs of the linear map of the condition, in order."""
        return "shift_msa", "scale_msa", "gate_msa", "shift_mlp", "scale_mlp", "gate_mlp"

    def gate(self, value: Var) -> Var:
        """The factor of a branch, of an output [B, 1, D] of the linear map."""
        return value

    def mixed(
        self, b: Builder, h: Var, given: Given, mix: Mix, parts: BlockParts, dim: int, static: Mapping[str, Any]
    ) -> Iterator[tuple[str, Var]]:
        """The branches of the mixer, each with the name of its gate."""
        yield "gate_msa", mix(h)

    def crossed(self, b: Builder, x: Var, given: Given, parts: BlockParts, dim: int, static: Mapping[str, Any]) -> Var:
        """x with the branches between the mixer's and the feed-forward's."""
        return x

    def modulation(self, b: Builder, given: Given, mixer: Mixer, dim: int) -> dict[str, Var]:
        """The linear map of the condition, by the names of its outputs [B, 1, D]."""
        c, names = given.values["c"], self.modulations(mixer)
        out = dense(b, "adaLN", b.silu(c), len(names) * dim, True, "zeros", out="modulation")
        out = b.reshape(out, shape=(c.shape[0], 1, len(names) * dim), out="modulation")
        return dict(zip(names, b.split(out, axis=2, sizes=(dim,) * len(names), out=" ".join(names)), strict=True))

    def branches(
        self, b: Builder, x: Var, given: Given, mix: Mix, parts: BlockParts, dim: int, static: Mapping[str, Any]
    ) -> Var:
        values = self.modulation(b, given, parts.mixer, dim)

        def normed(name: str, norm: Norm, of: str) -> Var:
            return norm.apply(b, name, x) * (values[f"scale_{of}"] + 1.0) + values[f"shift_{of}"]

        h = normed("norm1", parts.norm, "msa")
        for name, branch in self.mixed(b, h, given, mix, parts, dim, static):
            x = x + dropped(b, self.gate(values[name]) * branch, static)
        x = self.crossed(b, x, given, parts, dim, static)
        h = parts.fed(b, normed("norm2", self.second_norm(parts.norm), "mlp"), dim, static, given=given)
        return x + dropped(b, self.gate(values["gate_mlp"]) * h, static)
