"""The condition as scale, shift and gate of every block."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Component, OneOf
from latentc.components.parts import BlockCondition, FeedForward, Mixer, Norm, dense
from latentc.ir.builder import BlockBody, Builder, Var, module_class


class AdalnZero(BlockCondition):
    """Norms scaled and shifted, branches gated, by a linear map of the condition that starts at zero (DiT)."""

    kind: Literal["adaln_zero"]
    feed_forward_eps: float | None = Field(
        None, gt=0, description="eps of the norm before the feed-forward layer; null: that of `norm`"
    )
    feed_forward_norm: Annotated[Component | None, OneOf("blocks/norms")] = Field(
        None, description="the norm before the feed-forward layer (PixelFlow); null: as `norm`"
    )
    gates: Literal["zero", "one"] = Field(
        "zero", description="where gates start: blocks are the identity (DiT), or as without the condition (FlashDiT)"
    )
    shift: bool = Field(True, description="norms are shifted too, not only scaled")
    gate_branches: bool = Field(False, description="a gate for each branch of a mixer that has several")
    TELLS_MIXER: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "adaln_zero"}

    def block(self, mixer: Mixer, feed_forward: FeedForward, norm: Norm, init: str) -> BlockBody:
        eps = self.feed_forward_eps
        second = self.feed_forward_norm if isinstance(self.feed_forward_norm, Norm) else norm
        second = second if eps is None else second.model_copy(update={"eps": eps})
        return _block(self, mixer, feed_forward, norm, second, init)

    def names(self, mixer: Mixer) -> tuple[str, ...]:
        """What the linear map returns, in order."""
        extra = mixer.branches - 1 if self.gate_branches else 0
        first, second = (("shift_msa",), ("shift_mlp",)) if self.shift else ((), ())
        names = (*first, "scale_msa", "gate_msa", *second, "scale_mlp", "gate_mlp")
        return (*names, *("gate_branch" if extra == 1 else f"gate_branch_{i}" for i in range(extra)))


@cache
def _block(config: AdalnZero, mixer: Mixer, feed_forward: FeedForward, norm: Norm, norm2: Norm, init: str) -> BlockBody:
    names = config.names(mixer)

    def modulated(x: Var, values: dict[str, Var], of: str) -> Var:
        scaled = x * (values[f"scale_{of}"] + 1.0)
        return scaled + values[f"shift_{of}"] if config.shift else scaled

    @module_class("DiTBlock")
    def block(b: Builder, x: Var, c: Var, *rotary: Var, dim: int, **static: Any) -> Var:
        """A transformer block conditioned by adaLN-Zero: c [B, D] scales, shifts and gates both branches."""
        mixing = mixer.own(dim, static) | ({"told": c} if mixer.generates else {})
        feeding = {k: static[k] for k in feed_forward.static(dim)}
        count = len(names)
        modulation = dense(b, "adaLN", b.silu(c), count * dim, True, "zeros", out="modulation")
        modulation = b.reshape(modulation, shape=(c.shape[0], 1, count * dim), out="modulation")
        parts = b.split(modulation, axis=2, sizes=(dim,) * count, out=" ".join(names))
        values = dict(zip(names, parts, strict=True))

        def gated(name: str, branch: Var) -> Var:
            gate = values[name]
            return (gate + 1.0 if config.gates == "one" else gate) * branch

        h = modulated(norm.apply(b, "norm1", x) if mixer.normalised else x, values, "msa")
        if config.gate_branches:
            branches = mixer.apply_branches(b, "attn", h, rotary, init, dim=dim, **mixing)
        else:
            branches = (mixer.apply(b, "attn", h, rotary, init, dim=dim, **mixing),)
        for name, branch in zip(("gate_msa", *names[names.index("gate_mlp") + 1 :]), branches, strict=True):
            x = x + gated(name, branch)
        h = modulated(norm2.apply(b, "norm2", x), values, "mlp")
        return x + gated("gate_mlp", feed_forward.apply(b, "mlp", h, init, dim=dim, **feeding))

    return block
